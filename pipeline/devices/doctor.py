"""What a device is, by the bundle's own doctor: sent as one file, run, and deleted again."""

import io
import json
import zipfile
from functools import cache
from typing import Any

from pipeline.console.figures import one_line
from pipeline.device.modules import ROOT, device_modules
from pipeline.devices.messages import DeviceFailed
from pipeline.devices.ssh import Connection

_SECONDS = 180.0
_MAIN = """import sys
try:
    from pipeline.device.cli import run_command
except ImportError as error:
    sys.exit(f"a package is missing: {error}")
from pathlib import Path
sys.exit(run_command(Path("."), ["doctor", "--json"]))
"""
# What a line of `device list` shows, and the doctor's rows that hold it.
SHOWN = {
    "GPU": "gpu", "JetPack": "L4T", "TensorRT": "tensorrt", "ONNX Runtime": "onnxruntime", "power mode": "power mode",
    "disk": "disk", "memory": "memory", "Python": "python",
}  # fmt: skip


def examine(connection: Connection) -> dict[str, Any]:
    """`can_run` and `findings` as of `./t2t doctor --json`, and `holder`, the note of the run that the device is busy with."""
    answer = connection.ask("doctor", {}, _program(), _SECONDS)
    device = connection.device
    try:
        found = json.loads(answer["out"])
    except ValueError as error:
        raise DeviceFailed(
            f"the doctor does not run on {device.name}", got=one_line(answer["err"] or answer["out"])[-400:],
            allowed="Python 3.10 or later with numpy and OpenCV",
            next_step=f"there: sudo apt-get install python3-numpy python3-opencv, or {device.python} -m pip install "
            "numpy opencv-python-headless; then: t2t-edge device list",
        ) from error  # fmt: skip
    return dict(found) | {"holder": answer["holder"], "root": answer["root"]}


def summary(found: dict[str, Any]) -> dict[str, str]:
    """What `SHOWN` names, as far as the doctor found it."""
    rows = {row["item"]: row for row in found["findings"]}
    return {
        title: rows[item]["found"]
        for title, item in SHOWN.items()
        if item in rows and rows[item]["found"] not in ("-", "none")
    }


def problems(found: dict[str, Any]) -> list[str]:
    """What is known to be bad, or missing where no engine can run, with its fix."""
    wrong = ("bad",) if found["can_run"] else ("bad", "missing")
    return [
        f"{row['item']} {row['found']}: {row['detail'] or row['status']}"
        + (f"; fix: {row['fix']}" if row["fix"] else "")
        for row in found["findings"]
        if row["status"] in wrong
    ]


@cache
def _program() -> bytes:
    """The bundle's code as a file that Python runs."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__main__.py", _MAIN)
        for place in device_modules():
            archive.write(ROOT / place, place.as_posix())
    return content.getvalue()
