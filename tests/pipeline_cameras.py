"""A camera on the network, for tests: real JPEGs over real HTTP."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np


class NetworkCamera:
    """A camera as many sell them: JPEGs one after another over HTTP; each connection gives `frames` of them, or no end."""

    def __init__(self, pictures: np.ndarray, frames: int | None, connections: int | None = None):
        self.opened = 0
        encoded = [cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures]
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera.opened += 1
                if connections is not None and camera.opened > connections:
                    self.send_error(503)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                count = 0
                while frames is None or count < frames:
                    data = encoded[count % len(encoded)]
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                    try:
                        self.wfile.write(head.encode() + data + b"\r\n")
                    except OSError:  # the other side has gone
                        return
                    count += 1

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/camera.mjpg"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> "NetworkCamera":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
