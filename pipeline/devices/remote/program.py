"""The program that the host sends to a device: the files of `remote/` as text, run by a Python that knows nothing of them."""

import json
from functools import cache
from pathlib import Path
from typing import Any

_ROOM = "pipeline.devices.remote"
_MODULES = ("session", "supervisor", "agent")  # each sees only those before it
# Python 2 reads it, too, and then says which it is. No line end and no single quote: every shell takes it in single quotes.
BOOT = (
    'import sys,json,types;v=sys.version_info;v<(3,10) and sys.exit("t2t-edge: Python %d.%d.%d"%tuple(v[:3]));'
    "s=sys.stdin.buffer;p=json.loads(s.read(int(s.readline())));"
    '[exec(compile(c,n,"exec"),sys.modules.setdefault(n,types.ModuleType(n)).__dict__) for n,c in p["modules"]];'
    f'sys.modules["{_ROOM}.agent"].main(p["request"])'
)


def program() -> dict[str, Any]:
    """What `BOOT` reads besides a request."""
    return {"modules": _modules()}


def message(request: dict[str, Any]) -> bytes:
    """What a device's Python, started with `BOOT`, reads on stdin; data of the request follows."""
    text = json.dumps(program() | {"request": request}).encode()
    return b"%d\n" % len(text) + text


@cache
def _modules() -> list[list[str]]:
    folder = Path(__file__).parent
    return [[f"{_ROOM}.{name}", (folder / f"{name}.py").read_text(encoding="utf-8")] for name in _MODULES]
