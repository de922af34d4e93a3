"""Prediction with a real engine on real JPEGs and videos: the Python API, the command line, its files, and ctrl-C."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from pipeline_cameras import NetworkCamera

from calib.errors import InputError
from calib.preprocess import Preprocess, load_image, preprocess
from export.engines.engine import load_engine
from pipeline.cli import main
from pipeline.console.exit_status import DONE, FAILED, WRONG_INPUT
from pipeline.predict import predict as predict_module
from pipeline.predict.find import find_engine
from pipeline.predict.output import output_of
from pipeline.predict.predict import Predictor
from pipeline.predict.prediction import NOT_FINITE, Prediction
from pipeline.predict.writers import AnnotatedCopies

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory: pytest.TempPathFactory, photographs: dict[str, np.ndarray]) -> Path:
    """21 JPEGs of different sizes in two folders, the 11th of them cut off."""
    folder = tmp_path_factory.mktemp("jpegs")
    for index, image in enumerate(photographs["val_images"][:21]):
        path = folder / ("a" if index < 12 else "b") / f"{index:02d}.jpg"
        path.parent.mkdir(exist_ok=True)
        size = (40 + 3 * index, 90 - 2 * index)
        assert cv2.imwrite(str(path), cv2.resize(image, size, interpolation=cv2.INTER_CUBIC))
    bad = folder / "a" / "10.jpg"
    bad.write_bytes(bad.read_bytes()[: bad.stat().st_size // 2])
    return folder


def command(run: Path, *arguments: object) -> list[str]:
    return ["predict", "--runs", str(run.parent), "--run", run.name, "--threads", "1", *map(str, arguments)]


def expected(run: Path, path: Path, spec: Preprocess) -> tuple[str, float]:
    """The class and its probability by the shortest way."""
    sidecar, runner = load_engine(run / "build" / "onnxruntime-fp32", 1)
    with runner:
        logits = runner.infer({"images": preprocess(load_image(path), spec)[np.newaxis]})["logits"][0].astype(
            np.float64
        )
    probabilities = np.exp(logits) / np.exp(logits).sum()
    return sidecar.classes[probabilities.argmax()], float(probabilities.max())


# --- Python ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_stream_gives_what_one_image_at_a_time_gives(
    predict_run: Path, jpegs: Path, spec: Preprocess, batch: int
) -> None:
    with Predictor(predict_run, batch=batch, threads=1, workers=3) as predictor:
        found = list(predictor.stream(jpegs))
    paths = sorted(jpegs.rglob("*.jpg"))
    assert [prediction.source for prediction in found] == [str(path) for path in paths]
    assert [index for index, prediction in enumerate(found) if prediction.problem] == [10]
    assert found[10].problem == "this image cannot be decoded" and found[10].label is None
    for path, prediction in zip(paths, found, strict=True):
        if prediction.problem is None:
            label, probability = expected(predict_run, path, spec)
            assert prediction.label == label and prediction.probability == pytest.approx(probability, abs=1e-5)


def test_top_is_sorted_and_sums_to_one(predict_run: Path, jpegs: Path) -> None:
    with Predictor(predict_run, top=99) as predictor:
        top = next(predictor.stream(jpegs)).top
        assert {guess.label for guess in top} == set(predictor.classes)
    probabilities = [guess.probability for guess in top]
    assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) == pytest.approx(1)


def test_an_array_is_predicted_like_its_file(predict_run: Path, jpegs: Path) -> None:
    path = jpegs / "b" / "12.jpg"
    with Predictor(predict_run / "build" / "onnxruntime-fp32") as predictor:
        assert predictor.predict(load_image(path)).top[0] == next(predictor.stream(path)).top[0]


def test_the_documented_three_lines_run(predict_run: Path, jpegs: Path) -> None:
    code = (predict_module.__doc__ or "").partition("\n\n")[2]
    assert len(code.splitlines()) == 3
    page = (ROOT / "docs" / "predict.md").read_text(encoding="utf-8").replace("\n\n", "\n")
    assert f"```python\n{code}```" in page  # but for the blank line that the formatter puts there
    program = code.replace("runs/demo", str(predict_run)).replace("photos/", str(jpegs / "b"))
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 9 and "class_" in done.stdout


def test_what_is_not_finite_is_a_problem(predict_run: Path, jpegs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Predictor(predict_run, batch=4) as predictor:
        infer = predictor.runner.infer

        def broken(feeds):
            logits = infer(feeds)["logits"]
            logits[-1, 0] = np.nan  # the last of each batch
            return {"logits": logits}

        monkeypatch.setattr(predictor.runner, "infer", broken)
        found = list(predictor.stream(jpegs / "b"))
    assert [prediction.problem for prediction in found[:4]] == [None, None, None, NOT_FINITE]


@pytest.mark.parametrize("name", ["top", "batch", "threads", "workers"])
def test_counts_start_at_one(predict_run: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"--{name} is a number of at least 1"):
        Predictor(predict_run, **{name: 0})


def test_a_batch_larger_than_the_engine_takes(predict_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(predict_run / "build" / "onnxruntime-fp32", tmp_path / "engine")
    values = json.loads((folder / "engine.json").read_text())
    (folder / "engine.json").write_text(json.dumps(values | {"max_batch": 4}))
    with pytest.raises(InputError, match="larger than the engine's largest"):
        Predictor(folder, batch=5)
    with Predictor(folder) as predictor:  # left to itself it takes 4
        assert len(list(predictor.stream(ROOT / "docs" / "features.png"))) == 1


# --- the command line -----------------------------------------------------------------------------------------------


def test_json_lines_csv_and_copies_agree(
    predict_run: Path, jpegs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, copies = tmp_path / "table.csv", tmp_path / "copies"
    status = main(command(predict_run, jpegs, "--json", "--top", 2, "--csv", table, "--save", copies, "--batch", 5))
    printed = capsys.readouterr()
    assert status == DONE
    lines = [json.loads(line) for line in printed.out.splitlines()]
    assert len(lines) == 20 and all(len(line["top"]) == 2 for line in lines)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["source", "frame", "seconds", "label", "probability", "label_2", "probability_2"]
    assert [row["source"] for row in rows] == [line["source"] for line in lines]
    assert [row["label_2"] for row in rows] == [line["top"][1]["label"] for line in lines]
    assert [float(row["probability"]) for row in rows] == pytest.approx(
        [line["probability"] for line in lines], abs=1e-6
    )
    saved = sorted(path.relative_to(copies) for path in copies.rglob("*.jpg"))
    assert saved == sorted(Path(line["source"]).relative_to(jpegs) for line in lines)
    assert all(min(load_image(copies / path).shape[:2]) >= 240 for path in saved)  # enlarged, so that text fits
    assert "10.jpg: this image cannot be decoded" in printed.err
    assert "20 predicted" in printed.err and "1 skipped" in printed.err and f"written: {copies}" in printed.err


def test_the_copy_of_a_video_has_its_frames_and_the_class_above_them(
    predict_run: Path, video: Path, frames: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(predict_run, video, "--save", tmp_path, "--top", 2)) == DONE
    assert capsys.readouterr().out.splitlines()[20].startswith(f"{video} frame 20 (1.00 s)  class_")
    copy = cv2.VideoCapture(str(tmp_path / "clip.avi"))
    assert (copy.get(cv2.CAP_PROP_FRAME_COUNT), copy.get(cv2.CAP_PROP_FPS)) == (40, 20)
    for frame in frames:
        good, picture = copy.read()
        bar = picture.shape[0] - 240  # 160 × 120 is doubled
        assert good and picture.shape[1] == 320 and 20 < bar < 80
        inside = cv2.resize(picture[bar:], (160, 120), interpolation=cv2.INTER_AREA).astype(int)
        assert np.abs(inside - frame).mean() < 8 and picture[:bar].max() > 200  # the picture, and white letters


def test_nothing_predicted_is_status_1(predict_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    assert main(command(predict_run, tmp_path)) == FAILED
    printed = capsys.readouterr()
    assert printed.out == "" and "0 predicted" in printed.err and "1 skipped" in printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jpg"], "no such image, folder or video"),
        (["rtsp://127.0.0.1:1/stream"], "this stream cannot be opened"),
        (["{image}", "--show"], "no window can be shown here"),
        (["{image}", "--csv", "{tmp}/no/such/folder/table.csv"], "this file cannot be written"),
        (["{image}", "--csv", "{tmp}"], "next: name a file: '{tmp}/predictions.csv'"),
        (["{image}", "--csv", "{image}/table.csv"], "see who may write there: ls -ld '{image}'"),
        (["{image}", "--csv", "{image}"], "--csv would write over a source"),
        (["{image}", "--save", "{image}"], "--save needs a folder"),
        (["{image}", "--engine", "openvino-int8"], "that engine did not pass"),
        (["{image}", "--top", "0"], "--top is a number of at least 1"),
    ],
)
def test_wrong_use_is_status_2(
    predict_run: Path,
    jpegs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    if "--show" in arguments and "headless" not in _opencv():
        pytest.skip("this OpenCV has windows")
    filled = [text.format(image=jpegs / "a" / "00.jpg", tmp=tmp_path) for text in (*arguments, message)]
    assert main(command(predict_run, *filled[:-1])) == WRONG_INPUT
    printed = capsys.readouterr()
    assert printed.out == "" and filled[-1] in printed.err and "Traceback" not in printed.err


def _opencv() -> str:
    from importlib.metadata import packages_distributions

    return " ".join(packages_distributions()["cv2"])


def test_originals_are_not_written_over(predict_run: Path, jpegs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(jpegs / "b", tmp_path / "images")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert main(command(predict_run, folder, "--save", folder)) == WRONG_INPUT
    assert before == {path: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("link", [None, Path.symlink_to, Path.hardlink_to])
def test_the_copy_of_one_source_does_not_replace_another(
    predict_run: Path, jpegs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], link
) -> None:
    """The copy of b/x.jpg is save/x.jpg, which is a source, too, or a link to one."""
    first, second = tmp_path / "b" / "x.jpg", tmp_path / "save" / "x.jpg"
    for path, number in ((first, 12), (second, 13)):
        path.parent.mkdir()
        shutil.copy(jpegs / "b" / f"{number}.jpg", path)
    if link is not None:
        second = second.rename(tmp_path / "original.jpg")
        link(tmp_path / "save" / "x.jpg", second)
    before, table = second.read_bytes(), tmp_path / "table.csv"
    assert main(command(predict_run, "--save", tmp_path / "save", "--csv", table, first, second)) == WRONG_INPUT
    printed = capsys.readouterr()
    assert printed.out == "" and "--save would write over the original" in printed.err and str(second) in printed.err
    assert second.read_bytes() == before and not table.exists()


def test_the_copy_of_a_video_does_not_replace_another(predict_run: Path, video: Path, tmp_path: Path) -> None:
    """The copy of clip.mkv is called clip.avi."""
    other, here = tmp_path / "clip.mkv", tmp_path / "save" / "clip.avi"
    here.parent.mkdir()
    for path in (other, here):
        shutil.copy(video, path)
    assert main(command(predict_run, other, here, "--save", here.parent)) == WRONG_INPUT
    assert here.read_bytes() == video.read_bytes()
    assert main(command(predict_run, other, "--save", here.parent)) == DONE  # no source: an earlier copy is replaced
    assert here.read_bytes() != video.read_bytes()


def test_an_image_without_a_suffix_is_saved_as_png(predict_run: Path, jpegs: Path, tmp_path: Path) -> None:
    image = Path(shutil.copy(jpegs / "b" / "12.jpg", tmp_path / "photo"))
    assert main(command(predict_run, image, "--save", tmp_path / "copies")) == DONE
    (saved,) = (tmp_path / "copies").iterdir()
    assert saved.name == "photo.png" and load_image(saved).shape[0] > 240


@pytest.mark.parametrize(
    ("target", "message"), [("/dev/full", "the disk is full"), ("/nowhere/at/all", "12.jpg: No such file or directory")]
)
def test_a_copy_that_cannot_be_written_says_why(
    predict_run: Path, jpegs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str, message: str
) -> None:
    (tmp_path / "12.jpg").symlink_to(target)
    assert main(command(predict_run, jpegs / "b" / "12.jpg", "--save", tmp_path)) == FAILED
    assert message in capsys.readouterr().err


def test_a_copy_of_a_video_that_cannot_be_written_says_why(
    predict_run: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "save" / "clip.avi").mkdir(parents=True)
    assert main(command(predict_run, video, "--save", tmp_path / "save")) == FAILED
    assert "clip.avi: Is a directory" in capsys.readouterr().err
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 9999, 9999))
    assert main(command(predict_run, video, "--save", tmp_path / "full")) == FAILED
    assert "the disk is full" in capsys.readouterr().err


def test_a_copy_with_more_pixels_than_its_format_takes(tmp_path: Path, spec: Preprocess) -> None:
    with pytest.raises(RuntimeError, match=r"a\.jpg cannot be written"):
        AnnotatedCopies(tmp_path, output_of("classification", ("a",), None, spec), {}, {}).write(
            Prediction("a.jpg", (), target="a.jpg", image=np.zeros((300, 70000, 3), np.uint8))
        )


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_that_are_not_utf8_are_escaped(predict_run: Path, jpegs: Path, tmp_path: Path, encoding: str) -> None:
    """Bytes of such a name are \\udc80 … \\udcff in JSON, which gives the name back, and readable in text and CSV."""
    names = ["caf\udce9.jpg", "\U0001f600.jpg"]
    images = [str(shutil.copy(jpegs / "b" / "12.jpg", tmp_path / name)) for name in names]
    arguments = command(predict_run, *images, "--csv", tmp_path / "table.csv", "--save", tmp_path / "copies")
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    for options in ([], ["--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", *map(os.fspath, arguments), *options], cwd=ROOT, capture_output=True,
            timeout=120, env=environment,
        )  # fmt: skip
        assert done.returncode == DONE, done.stderr
        lines = done.stdout.decode(encoding).splitlines()
        if options:
            assert [json.loads(line)["source"] for line in lines] == images
        else:
            assert len(lines) == 2 and "caf\\udce9.jpg" in lines[0]
    assert "caf\\udce9.jpg" in (tmp_path / "table.csv").read_text(encoding="utf-8")
    assert sorted(path.name for path in (tmp_path / "copies").iterdir()) == sorted(names)


def test_videos_are_not_saved_where_opencv_cannot_write(
    predict_run: Path, video: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(command(predict_run, video, "--save", tmp_path / "caf\udce9")) == WRONG_INPUT
    assert "needs a folder whose name is UTF-8" in capfd.readouterr().err


def test_files_beside_a_camera_are_all_predicted(
    predict_run: Path, jpegs: Path, video: Path, frames: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    with NetworkCamera(frames, 30, connections=1) as camera, Predictor(predict_run, workers=1) as predictor:
        infer = predictor.runner.infer

        def slow(feeds):
            time.sleep(0.02)
            return infer(feeds)

        monkeypatch.setattr(predictor.runner, "infer", slow)
        found = list(predictor.stream(jpegs, camera.url, video))
        sources = [prediction.source for prediction in found]
    assert len([source for source in sources if source.endswith(".jpg")]) == 21
    assert [prediction.frame for prediction in found if prediction.source == str(video)] == list(range(40))
    of_camera = [prediction for prediction in found if prediction.source == camera.url]
    assert [prediction.problem for prediction in of_camera if prediction.problem] == [
        "the stream broke off; opening it again", "this stream cannot be opened",
    ]  # fmt: skip
    assert predictor.dropped > 0 and len(of_camera) - 2 + predictor.dropped == 30


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        ('{"variants": [{"na', "JSONDecodeError"), ("{}", "KeyError"), ("[]", "TypeError"), (b"\xff", "UnicodeDecodeError"),
        ('{"variants": [], "recommended": "fp32", "preprocess_sha256": ""}', "AttributeError"),
    ],
)  # fmt: skip
def test_a_report_that_cannot_be_read(tmp_path: Path, report: str | bytes, reason: str) -> None:
    path = tmp_path / "small" / "report" / "report.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(report if isinstance(report, bytes) else report.encode())
    with pytest.raises(InputError, match="the report of this run cannot be read") as caught:
        find_engine(tmp_path / "small", None)
    assert f"{path}: {reason}" in str(caught.value.got)
    assert caught.value.next_step == f"t2t-edge report --run small --runs {tmp_path}"


def test_the_unreachable_camera_ends_in_its_message(predict_run: Path) -> None:
    """10.255.255.1 answers nobody: the program must not wait for it for ever."""
    arguments = command(predict_run, "rtsp://10.255.255.1:554/live")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == WRONG_INPUT and "this stream cannot be opened" in done.stderr, done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_whole_files(
    predict_run: Path, endless_camera: NetworkCamera, tmp_path: Path, number: signal.Signals
) -> None:
    table, copies = tmp_path / "table.csv", tmp_path / "copies"
    arguments = command(predict_run, endless_camera.url, "--json", "--csv", table, "--save", copies)
    with (tmp_path / "stderr").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    assert process.stdout is not None
    first = [process.stdout.readline() for _ in range(5)]
    process.send_signal(number)
    rest = process.stdout.read()  # not communicate, which loses what readline has buffered
    status = process.wait()
    watchdog.cancel()
    error = (tmp_path / "stderr").read_text()
    assert status == FAILED, error
    assert "interrupted: what was written is whole" in error and "Traceback" not in error
    lines = [json.loads(line) for line in [*first, *rest.splitlines()]]
    frames = [line["frame"] for line in lines]
    assert frames == sorted(set(frames))
    with table.open(newline="") as file:
        assert [int(row["frame"]) for row in csv.DictReader(file)] == frames
    (copy,) = copies.iterdir()
    capture = cv2.VideoCapture(str(copy))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == len(lines)
    assert sum(capture.read()[0] for _ in range(len(lines) + 1)) == len(lines)


def test_a_reader_that_goes_away_is_no_traceback(predict_run: Path, jpegs: Path) -> None:
    arguments = [sys.executable, "-m", "pipeline", *command(predict_run, jpegs, "--batch", 1)]
    done = subprocess.run(
        ["bash", "-c", '"$@" | head -n 1', "-", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert len(done.stdout.splitlines()) == 1 and "Traceback" not in done.stderr
