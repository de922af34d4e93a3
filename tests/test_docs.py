"""The docs are true: every command in them parses, cheap ones run, every quoted message is in the code, links lead somewhere."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from chain_run import copy_run

from export.engines.engine import load_engine
from pipeline import cli
from pipeline.cli import main
from pipeline.console.exit_status import DONE
from pipeline.device.triton_repository import VERSION_COMPATIBLE, batching

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = cli.make_parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
# What is only parsed, and why. Everything else of `t2t-edge` runs, on a network that is hardly trained.
ONLY_PARSED = {
    "sensitivity": "measures every layer: a minute even here; tests/pipeline/quantize/search/test_sensitivity.py runs it",
    "search": "builds and measures engines for minutes; tests/pipeline/quantize/search/test_search.py runs it",
    "qat": "trains; tests/pipeline/quantize/test_qat.py runs it",
    "bundle": "its own tests run it",
    "models": "counts 35 networks: half a minute; tests/pipeline/commands/test_models.py counts them",
    "device": "needs devices: tests/pipeline/devices has some on loopback",
    "doctor": "its own tests run it",
    "init": "writes what the other commands here find; tests/pipeline/init/test_init.py runs it",
    "sweep": "trains its points; tests/pipeline/sweep/test_sweep.py runs some",
    "predict --show": "needs a display",
    "predict rtsp": "needs a camera: tests/pipeline/predict/test_sources.py uses one made of HTTP",
    "torchrun": "needs several processes: tests/pipeline/training/test_train.py",
}


@dataclass(frozen=True)
class Command:
    """A command line of a page."""

    page: str
    line: int
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text.partition(" > ")[0], comments=True)


def commands() -> list[Command]:
    """Lines of fenced blocks without a language or in sh, and of indented blocks, that begin with one of our programs."""
    found = []
    for page in PAGES:
        language: str | None = None
        whole = page.read_text(encoding="utf-8").replace("\\\n", "")  # a command that goes on in the next line is one
        for number, line in enumerate(whole.splitlines(), 1):
            if line.startswith("```"):
                language = None if language is not None else line.strip("`").strip()
                continue
            indented = language is None and line.startswith("    ")
            text = line.strip()
            if (language in ("", "sh", "bash") or indented) and re.match(r"(t2t-edge|make|python|torchrun)( |$)", text):
                found.append(Command(page.name, number, text))
    return found


EVERY = commands()
OURS = [
    command
    for command in EVERY
    if command.words[0] in ("t2t-edge", "torchrun") or command.words[1:3] == ["-m", "pipeline"]
]
MAKE = [command for command in EVERY if command.words[0] == "make"]
PYTHON = [command for command in EVERY if command.words[0] == "python" and command not in OURS]


def label(command: Command) -> str:
    return f"{command.page}:{command.line}"


def arguments(command: Command) -> list[str]:
    """What the parser gets: what stands behind `t2t-edge` or `-m pipeline`."""
    words = command.words
    return words[1:] if words[0] == "t2t-edge" else words[words.index("pipeline") + 1 :]


def only_parsed(command: Command) -> str | None:
    """Why a command is not run; None where it is."""
    name = arguments(command)[0]
    if command.words[0] == "torchrun":
        return ONLY_PARSED["torchrun"]
    if name == "predict" and "--show" in command.words:
        return ONLY_PARSED["predict --show"]
    if name == "predict" and "rtsp://" in command.text:
        return ONLY_PARSED["predict rtsp"]
    return ONLY_PARSED.get(name)


@pytest.fixture(scope="module")
def place(tiny_run: Path, video_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the docs' commands find what they name: recipes, runs, photos/, photo.jpg, clip.avi."""
    folder = copy_run(tiny_run, tmp_path_factory.mktemp("docs") / "checkout")
    shutil.copyfile(folder / "recipes" / "demo.yaml", folder / "my.yaml")
    shutil.copyfile(folder / "recipes" / "demo.yaml", folder / "photos.yaml")
    for run in ("mine", "photos", "scenes"):
        shutil.copytree(folder / "runs" / "demo", folder / "runs" / run)
    shutil.copytree(folder / "images" / "val", folder / "photos")
    shutil.copyfile(video_file, folder / "clip.avi")
    import cv2

    for index, path in enumerate(sorted(folder.glob("photos/*/00[0-3].png"))):
        cv2.imwrite(str(path.with_suffix(".jpg")), cv2.imread(str(path)))
        if index == 0:
            shutil.copyfile(path.with_suffix(".jpg"), folder / "photo.jpg")
    return folder


@pytest.fixture(scope="module")
def video_file(photographs: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    import cv2

    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for image in photographs["val_images"][:5]:
        writer.write(cv2.cvtColor(cv2.resize(image, (64, 48)), cv2.COLOR_GRAY2BGR))
    writer.release()
    return path


def test_the_docs_have_commands() -> None:
    pages = {command.page for command in OURS}
    assert {"tutorial.md", "predict.md", "stages.md", "training.md", "build.md", "calibration.md"} <= pages
    assert len(OURS) > 25 and len(MAKE) > 10


@pytest.mark.parametrize("command", OURS, ids=label)
def test_our_commands(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    given = arguments(command)
    assert cli.make_parser().parse_args(given).command == given[0]
    if only_parsed(command) is None:
        monkeypatch.chdir(place)
        status = main(given)
        printed = capfd.readouterr()
        assert status == DONE, printed.err
        assert printed.out.strip()


@pytest.mark.parametrize("command", MAKE, ids=label)
def test_make_commands(command: Command) -> None:
    """`make -n` prints what it would run: the target and its prerequisites exist."""
    done = subprocess.run(["make", "-n", *command.words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", PYTHON, ids=label)
def test_python_commands(command: Command, place: Path) -> None:
    words = command.words
    if words[1] == "-m":
        assert words[2] == "json.tool"
        done = subprocess.run([sys.executable, *words[1:]], cwd=place, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    else:
        assert (ROOT / words[1]).is_file(), f"{words[1]} does not exist"


def test_the_table_of_what_is_only_parsed_has_nothing_left_over() -> None:
    used = {only_parsed(command) for command in OURS} - {None}
    assert {reason for name, reason in ONLY_PARSED.items() if name not in ("bundle", "doctor")} <= used


# --- troubleshooting ------------------------------------------------------------------------------------------------


@cache
def literals() -> set[str]:
    """Every string of our code; what is filled in is …"""
    found = set()
    for folder in ("calib", "export", "models", "pipeline"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    found.add("".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(node.value)
    return found


HEADINGS = re.findall(r"^### `(.+)`$", (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_there_are_many_messages_and_none_twice() -> None:
    assert len(HEADINGS) > 60 and len(set(HEADINGS)) == len(HEADINGS)


@pytest.mark.parametrize("message", HEADINGS)
def test_each_message_is_in_the_code(message: str) -> None:
    assert any(literal.startswith(message) for literal in literals()), "no code says this"


# --- links and programs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target and not re.search(r"[ \\]", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def program(name: str) -> str:
    """A fenced Python program of docs/serve.md by the name in its first line."""
    text = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if code.startswith(f"# {name}")]
    return code


MOST = 5  # images in a request; 12 do not divide into it


@dataclass
class Server:
    """Where the stand-in is, and how many images each request had."""

    url: str
    batches: list[int]


@pytest.fixture
def triton(place: Path) -> Iterator[Server]:
    """The part of the server's protocol that the client uses, with a real engine behind it."""
    _, runner = load_engine(place / "runs" / "demo" / "build" / "onnxruntime-fp32", 1)
    batches: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/v2/models/mine/config"
            self.say(200, json.dumps({"name": "mine", "max_batch_size": MOST}).encode())

        def do_POST(self) -> None:
            assert self.path == "/v2/models/mine/infer"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            length = int(self.headers["Inference-Header-Content-Length"])
            head, data = json.loads(body[:length]), body[length:]
            (described,) = head["inputs"]
            assert described["datatype"] == "UINT8" and described["parameters"]["binary_data_size"] == len(data)
            assert head["outputs"] == [{"name": "logits", "parameters": {"binary_data": True}}]
            images = np.frombuffer(data, np.uint8).reshape(described["shape"])
            if len(images) > MOST:
                error = f"inference request batch-size must be <= {MOST} for 'mine'"
                self.say(400, json.dumps({"error": error}).encode())
                return
            batches.append(len(images))
            logits = runner.infer({described["name"]: images})["logits"]
            output = {"name": "logits", "datatype": "FP32", "shape": list(logits.shape)}
            output["parameters"] = {"binary_data_size": logits.nbytes}
            answer = json.dumps({"model_name": "mine", "outputs": [output]}).encode()
            self.say(200, answer, logits.tobytes())

        def say(self, status: int, head: bytes, tail: bytes = b"") -> None:
            self.send_response(status)
            self.send_header("Inference-Header-Content-Length", str(len(head)))
            self.end_headers()
            self.wfile.write(head + tail)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Server(f"http://127.0.0.1:{server.server_address[1]}", batches)
    server.shutdown()
    server.server_close()
    runner.__exit__(None, None, None)


def test_the_client_gets_what_predict_says(place: Path, triton: Server, capsys: pytest.CaptureFixture[str]) -> None:
    engine = place / "runs" / "demo" / "build" / "onnxruntime-fp32"
    images = [str(path) for path in sorted(place.glob("photos/*/*.jpg"))]
    done = subprocess.run(
        [sys.executable, "-c", program("client.py"), triton.url, "mine", str(engine), *images], cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "no_proxy": "127.0.0.1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert triton.batches == [5, 5, 2]
    runs = ["--runs", str(place / "runs"), "--engine", "onnxruntime-fp32"]
    assert main(["predict", *runs, "--json", *images]) == DONE
    predicted = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (
        done.stdout.splitlines() == [f"{row['source']}  {row['label']}" for row in predicted] and len(predicted) == 12
    )


def settings(tmp_path: Path, rates: dict[str, float], budget: str) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"variants": [{"name": "onnxruntime-fp32", "images_per_s": rates}]}))
    return subprocess.run(
        [sys.executable, "-c", program("settings.py"), str(path), "onnxruntime-fp32", budget],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_the_rule_gives_what_the_page_says() -> None:
    page = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    found = re.search(r"(\d+) images a second one at a time and ([\d,]+) in eights give `(.*?)` and (\d+) µs", page)
    assert found is not None
    rates = {"1": float(found[1]), "8": float(found[2].replace(",", ""))}
    preferred, wait = batching(rates, 8)
    assert (f"preferred_batch_size: {preferred}", str(wait)) == (found[3], found[4])
    assert VERSION_COMPATIBLE in page


def test_settings_are_those_that_the_page_prints(tmp_path: Path) -> None:
    done = settings(tmp_path, {"1": 883, "8": 1413}, "25")
    printed = re.findall(r"```text\n(.*?)```", (ROOT / "docs" / "serve.md").read_text(encoding="utf-8"), re.DOTALL)
    assert done.stdout == printed[0]
    assert (
        settings(tmp_path, {"1": 883, "8": 1413}, "10").stdout == "max_batch_size: 1  # 883 images/s, 1.1 ms a batch\n"
    )
    assert "more than a third of 3 ms" in settings(tmp_path, {"1": 883, "8": 1413}, "3").stderr
