"""The answers of a device to the host's questions, one a connection; `ANSWERS` lists them.

An answer is a line of JSON behind a mark, so that what a login prints is not taken for one.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.devices.remote.session import ENDED, RUNNING, Session, boot, holder, take_lock
from pipeline.devices.remote.supervisor import RESULTS, sha256, supervise

MARK = b"\x1et2t-edge "
MANIFEST = "manifest.json"
_BEAT_SECONDS = 3.0  # between signs of life
_LOOK_SECONDS = 0.2
_PIECE = 1 << 16
Request = dict[str, Any]


def main(request: Request) -> None:
    """Answer one question. What the system refuses is an answer, too: `error`."""
    try:
        ANSWERS[request["ask"]](request)
    except OSError as error:
        say({"error": {"errno": error.errno, "text": str(error), "place": str(Path.home())}})


def say(answer: dict[str, Any]) -> None:
    """One answer, at once."""
    sys.stdout.buffer.write(MARK + json.dumps(answer).encode() + b"\n")
    sys.stdout.buffer.flush()


def probe(request: Request) -> None:
    """What is here: Python, clock, disk, rsync, who holds the device, and the session's state."""
    root = Path.home() / request["place"]
    there = next(place for place in (root, *root.parents) if place.exists())
    say({
        "python": ".".join(map(str, sys.version_info[:3])), "home": str(Path.home()), "time": time.time(),
        "free": shutil.disk_usage(there).free, "rsync": shutil.which("rsync") is not None, "root": os.getuid() == 0,
        "holder": holder(), "state": Session(root).read(),
    })  # fmt: skip


def missing(request: Request) -> None:
    """The names of the bundle's files that are not here as the host has them. Unless it is only asked (`dry`), files that
    the bundle does not have are deleted, and the manifest where files are to come: it means *complete*."""
    root = Path.home() / request["place"] / "bundle"
    files: dict[str, str] = json.loads(sys.stdin.buffer.read())
    lacking = [name for name, digest in files.items() if not _is(root / name, digest)]
    if not request["dry"] and root.is_dir():
        if lacking:
            (root / MANIFEST).unlink(missing_ok=True)
        for path in [path for path in root.rglob("*") if not path.is_dir()]:
            place = path.relative_to(root)
            if place.as_posix() not in files and place.as_posix() != MANIFEST and place.parts[0] != ".rsync-partial":
                path.unlink()
    say({"missing": lacking})


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and not path.is_symlink() and sha256(path) == digest


def receive(request: Request) -> None:
    """Files of the bundle as a tar stream; each stands under its name only when it is whole."""
    root = Session.at(request["place"]).bundle
    root.mkdir(exist_ok=True)
    say({"received": _unpack(root)})


def _unpack(root: Path) -> int:
    count = 0
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as stream:
        for member in stream:
            source = stream.extractfile(member) if member.isfile() else None
            if source is None or member.name.startswith("/") or ".." in member.name.split("/"):
                raise OSError(f"no plain file of this folder: {member.name}")
            path = root / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.partial")
            with partial.open("wb") as file:
                shutil.copyfileobj(source, file, _PIECE)
            if partial.stat().st_size != member.size:
                raise OSError("the stream of files was cut off")
            partial.chmod(member.mode & 0o777)
            partial.replace(path)
            count += 1
    return count


def seal(request: Request) -> None:
    """Write the manifest, the last of the bundle's files, if all others are here as it lists them; else name the others."""
    root = Path.home() / request["place"] / "bundle"
    text = sys.stdin.buffer.read()
    wrong = [name for name, digest in json.loads(text)["files"].items() if not _is(root / name, digest)]
    if not wrong:
        shutil.rmtree(root / ".rsync-partial", ignore_errors=True)
        partial = root / f".{MANIFEST}.partial"
        partial.write_bytes(text)
        partial.replace(root / MANIFEST)
    say({"wrong": wrong})


def start(request: Request) -> None:
    """Start the steps in a process that outlives the connection; `busy`, with the owner's note, where the device is in use."""
    session = Session.at(request["place"])
    lock = take_lock(request["note"])
    if lock is None:
        say({"busy": holder() or {}})
        return
    session.log.write_bytes(b"")
    session.keep_room()
    program = session.root / "program"
    supervised = request["program"] | {"request": {
        "ask": "supervise", "place": request["place"], "steps": request["steps"], "lock": lock,
    }}  # fmt: skip
    text = json.dumps(supervised).encode()
    program.write_bytes(b"%d\n" % len(text) + text)
    session.write(
        request["state"] | {"phase": RUNNING, "started": time.time(), "boot": boot(), "collected": False, "step": None}
    )
    with program.open("rb") as source, session.log.open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-c", request["boot"]], cwd=session.root, stdin=source, stdout=log, stderr=log,
            start_new_session=True, pass_fds=[lock],
        )  # fmt: skip
    say({"started": child.pid})


def follow(request: Request) -> None:
    """The log from `at` on, as whole lines, and a sign of life now and then; at the run's end the state."""
    session, at, said = Session.at(request["place"]), request["at"], time.monotonic()
    while True:
        state = session.read()
        over = state is None or state["phase"] != RUNNING
        text = _lines(session.log, at, over)
        if text:
            say({"at": at + len(text), "text": text.decode(errors="replace")})
            at, said = at + len(text), time.monotonic()
        elif over:
            say({"state": state})
            return
        else:
            if time.monotonic() - said > _BEAT_SECONDS:
                say({"beat": state and state.get("step")})
                said = time.monotonic()
            time.sleep(_LOOK_SECONDS)


def _lines(log: Path, at: int, over: bool) -> bytes:
    """From `at` on, up to the last line's end; to the log's end where nothing more will come."""
    if not log.exists():
        return b""
    with log.open("rb") as file:
        file.seek(at)
        text = file.read(_PIECE)
    return text if over or len(text) == _PIECE else text[: text.rfind(b"\n") + 1]


def collect(request: Request) -> None:
    """The results as an answer with their names, sizes and hashes, and behind it their bytes one after the other."""
    session = Session.at(request["place"])
    state = session.read() or {}
    names = [name for name in RESULTS if (session.work / name).is_file() and name in state.get("results", {})]
    say({"files": [{"name": name, "bytes": (session.work / name).stat().st_size, "sha256": state["results"][name]}
                   for name in names]})  # fmt: skip
    for name in names:
        with (session.work / name).open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer, _PIECE)
    sys.stdout.buffer.flush()


def collected(request: Request) -> None:
    """Note that the host has what this run made: the next command begins another one."""
    session = Session.at(request["place"])
    state = session.read()
    if state is not None and state["id"] == request["id"] and state["phase"] != RUNNING:
        session.write(state | {"collected": True})
    say({"collected": True})


def stop(request: Request) -> None:
    """End the run: first asked, then made to."""
    session = Session.at(request["place"])
    state = session.read()
    if state is None or state["phase"] != RUNNING:
        say({"stopped": False, "state": state})
        return
    deadline, asked = time.monotonic() + request["seconds"], False
    while time.monotonic() < deadline and state is not None and state["phase"] == RUNNING:
        if "pid" in state and not asked:
            _signal(state["pid"], signal.SIGTERM)
            asked = True
        time.sleep(0.1)
        state = session.read()
    if state is not None and state["phase"] == RUNNING:
        for process in (state.get("child"), state.get("pid")):
            _signal(process, signal.SIGKILL)
        problem = {"kind": "stopped", "step": state.get("step")}
        session.write(state | {"phase": ENDED, "status": 1, "problem": problem, "results": {}})
    say({"stopped": True, "state": session.read()})


def _signal(group: int | None, number: int) -> None:
    if group:
        with suppress(ProcessLookupError):
            os.killpg(group, number)


def log(request: Request) -> None:
    """The whole log."""
    path = Session(Path.home() / request["place"]).log
    say({"text": path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None})


def predict(request: Request) -> None:
    """Images as a tar stream → what `./t2t predict` prints of them. They are deleted afterwards."""
    session = Session.at(request["place"])
    lock = take_lock(request["note"] | {"pid": os.getpid()})
    if lock is None:
        say({"busy": holder() or {}})
        return
    with tempfile.TemporaryDirectory(prefix="t2t-edge-", dir=session.root) as folder:
        _unpack(Path(folder))
        done = subprocess.run(
            [sys.executable, str(session.bundle / "t2t"), "predict", "--work", str(session.work), *request["arguments"]],
            cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
    say({"status": done.returncode, "out": done.stdout, "err": done.stderr})


def doctor(request: Request) -> None:
    """The bundle's doctor, from a zip on stdin that is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="t2t-edge-") as folder:
        program = Path(folder) / "t2t.pyz"
        program.write_bytes(sys.stdin.buffer.read())
        done = subprocess.run(
            [sys.executable, str(program)], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
    say({"status": done.returncode, "out": done.stdout, "err": done.stderr, "holder": holder(), "time": time.time(),
         "root": os.getuid() == 0})  # fmt: skip


def clean(request: Request) -> None:
    """Delete the folder of our sessions."""
    root = Path.home() / request["place"]
    there = root.is_dir()
    if there:
        shutil.rmtree(root)
    say({"deleted": str(root) if there else None})


ANSWERS = {
    "probe": probe, "missing": missing, "receive": receive, "seal": seal, "start": start, "supervise": supervise,
    "follow": follow, "collect": collect, "collected": collected, "stop": stop, "log": log, "predict": predict,
    "doctor": doctor, "clean": clean,
}  # fmt: skip
