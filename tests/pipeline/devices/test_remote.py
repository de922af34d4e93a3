"""The device's half, in this process: the lock, the state, what becomes of a step. Its `t2t` is a script of a line."""

import ast
import fcntl
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.devices.remote import program, session, supervisor
from pipeline.devices.remote.session import Session, holder, take_lock
from pipeline.devices.remote.supervisor import supervise

ROOM = Path(session.__file__).parent
STEPS = ("build", "evaluate", "benchmark", "report")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """An empty session, and a lock of its own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(session.tempfile, "gettempdir", lambda: str(tmp_path))
    found = Session.at("t2t-edge/demo")
    found.bundle.mkdir()
    found.log.touch()
    return found


@pytest.fixture(autouse=True)
def signals_stay() -> Any:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def run(place: Session, script: str, seconds: float = 60.0) -> dict[str, Any]:
    """The state after the steps of a `t2t` that is this script."""
    (place.bundle / "t2t").write_text(f"import os, sys, time\nstep = sys.argv[1]\n{script}\n")
    lock = take_lock({"token": "1"})
    assert lock is not None
    try:
        place.write({"id": "x", "token": "1", "phase": "running", "boot": session.boot(), "collected": False})
        steps = [{"name": step, "arguments": [], "seconds": seconds} for step in STEPS]
        supervise({"place": "t2t-edge/demo", "steps": steps, "lock": lock})
    finally:
        os.close(lock)
    state = place.read()
    assert state is not None and state["phase"] == "ended"
    return state


def test_it_is_of_the_standard_library_alone() -> None:
    for path in ROOM.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in sys.stdlib_module_names or name.startswith("pipeline.devices.remote"), name


def test_the_program_is_one_word_of_every_shell() -> None:
    assert "'" not in program.BOOT and "\n" not in program.BOOT and "!" not in program.BOOT
    names = {name.rpartition(".")[2] for name, _ in program.program()["modules"]}
    assert names == {path.stem for path in ROOM.glob("*.py")} - {"__init__", "program"}


def test_all_steps_run_in_their_order(place: Session) -> None:
    state = run(place, "print('step', step)")
    assert (state["status"], state["problem"]) == (0, None)
    assert place.log.read_text().split() == [word for step in STEPS for word in ("step", step)]


def test_the_gate_does_not_end_a_run(place: Session) -> None:
    state = run(place, "print(step); sys.exit(3 if step in ('evaluate', 'report') else 0)")
    assert (state["status"], state["problem"]) == (3, None)
    assert place.log.read_text().split() == list(STEPS)


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("print('error: it is wrong\\n  got: x'); sys.exit(2)",
         {"kind": "failed", "step": "build", "status": 2, "text": "error: it is wrong\n  got: x"}),
        ("print('tensorrt-fp16: building', flush=True); os.kill(os.getpid(), 9)",
         {"kind": "killed", "step": "build", "signal": 9, "out_of_memory": False, "engine": "tensorrt-fp16"}),
        ("os.kill(os.getpid(), 11)", {"kind": "killed", "step": "build", "signal": 11, "out_of_memory": False, "engine": None}),
        ("print('error: the disk is full'); sys.exit(1)",
         {"kind": "disk", "step": "build", "status": 1, "text": "error: the disk is full"}),
    ],
)  # fmt: skip
def test_a_step_that_fails_ends_the_run(place: Session, script: str, problem: dict[str, Any]) -> None:
    state = run(place, script)
    found = {key: value for key, value in state["problem"].items() if key != "place"}
    assert found == problem and state["status"] != 0


def test_a_killed_step_while_the_system_counts_is_out_of_memory(
    place: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([4, 5, 6])
    monkeypatch.setattr(supervisor, "oom_kills", lambda: next(counts))
    assert run(place, "os.kill(os.getpid(), 9)")["problem"]["out_of_memory"]


def test_a_step_has_a_limit(place: Session) -> None:
    state = run(place, "print('x: building', flush=True); time.sleep(60)", seconds=1.0)
    assert state["problem"] == {"kind": "timeout", "step": "build", "seconds": 1.0, "engine": "x"}


def test_a_measurement_that_slept_is_none(place: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(0, 1000, 40))
    monkeypatch.setattr(supervisor, "asleep", lambda: float(next(seconds)))
    assert run(place, "pass")["problem"] == {"kind": "slept", "step": "benchmark", "seconds": 40.0}


def test_the_results_are_hashed(place: Session) -> None:
    state = run(
        place, "os.makedirs(sys.argv[3], exist_ok=True); open(sys.argv[3] + '/evaluation.json', 'w').write('{}')"
    )
    assert state["results"] == {"evaluation.json": supervisor.sha256(place.work / "evaluation.json")}


def test_a_run_whose_processes_are_gone_is_over(place: Session) -> None:
    place.write(
        {"id": "x", "token": "1", "phase": "running", "step": "build", "boot": session.boot(), "collected": False}
    )
    state = place.read()
    assert state is not None and state["problem"] == {"kind": "died", "step": "build", "restarted": False}
    place.write({"id": "x", "token": "1", "phase": "running", "step": "build", "boot": "another", "collected": False})
    state = place.read()
    assert state is not None and state["problem"]["restarted"]


def test_one_run_at_a_time(place: Session) -> None:
    assert holder() is None
    lock = take_lock({"token": "1", "owner": "bob"})
    assert lock is not None and holder() == {"token": "1", "owner": "bob"}
    assert take_lock({"token": "2"}) is None
    os.close(lock)
    assert holder() is None
    again = take_lock({"token": "2"})
    assert again is not None and holder() == {"token": "2"}
    os.close(again)


def test_who_only_looks_at_the_lock_does_not_hold_it(place: Session) -> None:
    first = take_lock({"token": "1"})
    assert first is not None
    os.close(first)
    with session.lock_file().open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert holder() is None


def test_on_a_full_disk_the_state_is_written_all_the_same(place: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room that was kept is given up for it."""
    place.keep_room()
    ballast = place.root / session.BALLAST
    real = os.fsync

    def full(descriptor: int) -> None:
        if ballast.exists():
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(session.os, "fsync", full)
    place.write({"phase": "ended"})
    assert not ballast.exists() and json.loads((place.root / "state.json").read_text()) == {"phase": "ended"}
