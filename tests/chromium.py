"""A headless Chromium driven over its DevTools protocol through a pipe: the standard library and a browser are enough."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_SECONDS = 60.0


def find_chromium() -> str | None:
    """The browser's path, from CHROMIUM or the usual names; None where there is none."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)


class Page:
    """One tab. `problems` are console errors, uncaught exceptions and log entries; `requests` every URL it asked for."""

    def __init__(self, call: Callable[..., dict[str, Any]]):
        self._call = call
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._loaded = False

    def note(self, event: dict[str, Any]) -> None:
        """Keep what an event says."""
        method, values = event["method"], event["params"]
        if method == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(str(values["exceptionDetails"].get("exception", values["exceptionDetails"])))
        elif method == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning", "assert"):
            self.problems.append(str([argument.get("value") for argument in values["args"]]))
        elif method == "Log.entryAdded" and values["entry"]["level"] in ("error", "warning"):
            self.problems.append(values["entry"]["text"])
        elif method == "Page.loadEventFired":
            self._loaded = True

    def open(self, path: Path) -> None:
        """Load a file and wait for it."""
        self._loaded = False
        answer = self._call("Page.navigate", url=path.resolve().as_uri())
        assert "errorText" not in answer, answer
        deadline = time.monotonic() + _SECONDS
        while not self._loaded:
            assert time.monotonic() < deadline, f"{path} did not load"
            self.run("1")
        self.settle()

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def settle(self) -> None:
        """Wait until what was changed is drawn."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def size(self, width: int, height: int, *, phone: bool = False, scale: float = 1) -> None:
        """The window, in CSS pixels."""
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )
        self.settle()

    def media(self, media: str = "", **features: str) -> None:
        """`print`, `prefers_color_scheme="dark"` and the like."""
        listed = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self._call("Emulation.setEmulatedMedia", media=media, features=listed)
        self.settle()

    def press(self, key: str, code: int) -> None:
        """One key, down and up."""
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)
        self.settle()

    def hover(self, x: float, y: float) -> None:
        """Move the pointer, in CSS pixels of the window."""
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.settle()

    def picture(self, path: Path, whole: bool = True) -> None:
        """A PNG of the whole page, or of what the window shows."""
        answer = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def pdf(self, path: Path) -> None:
        """What a printer would get."""
        answer = self._call("Page.printToPDF", preferCSSPageSize=True, printBackground=False)
        path.write_bytes(base64.b64decode(answer["data"]))


@contextmanager
def open_browser() -> Iterator[Page]:
    """A tab of a fresh browser with a fresh profile; RuntimeError where no Chromium is found."""
    program = find_chromium()
    if program is None:
        raise RuntimeError("no Chromium here: apt-get install chromium, or set CHROMIUM to its path")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        to_read, to_write = os.pipe()
        from_read, from_write = os.pipe()
        command = [program, "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run",
                   "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--hide-scrollbars",
                   *(["--no-sandbox"] if os.geteuid() == 0 else [])]  # fmt: skip
        shell = f'exec "$@" 3<&{to_read} 4>&{from_write}'  # the browser reads 3 and writes 4
        process = subprocess.Popen(
            ["bash", "-c", shell, "chromium", *command], pass_fds=(to_read, from_write),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_read)
        os.close(from_write)
        with os.fdopen(to_write, "wb", buffering=0) as out, os.fdopen(from_read, "rb", buffering=0) as back:
            try:
                yield _attach(_Pipe(out, back))
            finally:
                process.terminate()
                process.wait(_SECONDS)


class _Pipe:
    """Messages over the pipe: JSON, each ended by a zero byte."""

    def __init__(self, out: Any, back: Any):
        self._out, self._back, self._rest, self._last = out, back, b"", 0
        self.page: Page | None = None

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; events on the way are noted."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters} | (
            {"sessionId": session} if session else {}
        )
        self._out.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._last:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
            if "method" in answer and self.page is not None:
                self.page.note(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = self._back.read(1 << 16)
            if not part:
                raise RuntimeError("the browser went away")
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))


def _attach(pipe: _Pipe) -> Page:
    target = pipe.call("Target.createTarget", url="about:blank")["targetId"]
    session = pipe.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    page = Page(lambda method, **parameters: pipe.call(method, session, **parameters))
    pipe.page = page
    for domain in ("Page", "Runtime", "Log", "Network"):
        pipe.call(f"{domain}.enable", session)
    return page
