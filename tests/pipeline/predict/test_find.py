"""Prediction while another command builds and reports anew: whole engines only, and those that were evaluated."""

import json
import shutil
import threading
import time
from pathlib import Path

import onnx
import pytest

from calib.errors import InputError
from export.engines.sidecar import LOCK_NOTE, SIDECAR, sha256_of
from pipeline.artifact import MANIFEST
from pipeline.predict import find
from pipeline.predict.find import find_engine
from pipeline.predict.predict import Predictor
from pipeline.run.kept import put_in_place


@pytest.fixture
def run(predict_run: Path, tmp_path: Path) -> Path:
    """A copy of the run whose stages have manifests, as `put_in_place` moves them."""
    folder = Path(shutil.copytree(predict_run, tmp_path / "run"))
    for stage in ("build", "report"):
        write(folder / stage, "first")
    return folder


def write(folder: Path, key: str) -> None:
    values = {"key": key, "outputs": {}, "sizes": {}, "notes": {}, "seconds": 0.0}
    (folder / MANIFEST).write_text(json.dumps(values))


def other_build(run: Path) -> Path:
    """Another build of all engines: ones that load too, of other bytes, with sidecars that say so."""
    folder = Path(shutil.copytree(run / "build", run / ".build.partial"))
    for path in folder.glob(f"*/{SIDECAR}"):
        sidecar = json.loads(path.read_text())
        engine = path.parent / sidecar["engine"]
        model = onnx.load(engine)
        model.doc_string = "another build"
        onnx.save(model, engine)
        sidecar["files"][engine.name] = sha256_of(engine)
        path.write_text(json.dumps(sidecar))
    write(folder, "second")
    return folder


def test_an_engine_that_a_build_replaced_is_found_among_the_kept(run: Path) -> None:
    before, expected = find_engine(run, None)
    put_in_place(other_build(run), run / "build")
    after, again = find_engine(run, None)
    assert before.parent == run / "build" and after == run / ".kept/build/first" / before.name and again == expected
    with Predictor(run) as predictor:
        assert predictor.folder == after
    shutil.rmtree(run / ".kept")
    with pytest.raises(InputError, match="it is not the engine that was evaluated"):
        Predictor(run)


def test_predict_while_results_are_replaced_loads_the_evaluated_engine(run: Path) -> None:
    """Build and report take turns with another result of theirs, two renames each; no load falls between.

    What stands does so for some loads' time: one that takes longer than that on a busy machine could never be finished.
    """
    started = time.monotonic()
    with Predictor(run, threads=1):
        pause = max(0.05, 3 * (time.monotonic() - started))
    (run / LOCK_NOTE).write_text("{}")
    other_build(run)
    report = Path(shutil.copytree(run / "report", run / ".report.partial"))
    write(report, "second")
    stop, swaps = threading.Event(), [0]

    def replace() -> None:
        while not stop.is_set():
            for stage in ("build", "report"):
                current = json.loads((run / stage / MANIFEST).read_text())["key"]
                other = "second" if current == "first" else "first"
                finished = run / f".{stage}.partial"
                put_in_place(finished if finished.exists() else run / ".kept" / stage / other, run / stage)
                swaps[0] += 1
            stop.wait(pause)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        digest = find_engine(run, None)[1].engine_sha256
        for _ in range(20):
            with Predictor(run, threads=1) as predictor:
                assert predictor._sidecar.files[predictor._sidecar.engine] == digest
    finally:
        stop.set()
        thread.join()
    assert swaps[0] > 4


def test_nothing_is_waited_for_where_no_command_writes(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(find.time, "sleep", slept.append)
    (run / "report" / "report.json").unlink()
    with pytest.raises(InputError, match="this run has no report"):
        Predictor(run)
    assert slept == []
    (run / LOCK_NOTE).write_text("{}")
    with pytest.raises(InputError, match="this run has no report"):
        Predictor(run)
    assert len(slept) == 19
