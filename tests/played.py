"""A bundle whose `t2t` plays back what a real run left, slowly or wrongly: for tests of everything around the engines.

A real `t2t` needs a second of a CPU for each step, and ends when it likes. The bundle, its results and all checks stay real.
"""

import json
import os
import shutil
from pathlib import Path

from bundles import reseal

from pipeline.console.exit_status import DONE
from pipeline.device.cli import run_command

# The environment of the device says what it does: PLAY is run at the begin of a step, PAUSE are the seconds of each.
PLAYER = """#!/usr/bin/env python3
import hashlib, json, os, pathlib, shutil, sys, time
step, work = sys.argv[1], pathlib.Path(sys.argv[3])
stash = pathlib.Path({stash!r})


def digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def put(name, **changes):
    values = json.loads((stash / name).read_text()) | changes
    (work / name).parent.mkdir(parents=True, exist_ok=True)
    (work / name).write_text(json.dumps(values))


with open(pathlib.Path.home() / "played", "a") as file:
    file.write(step + "\\n")
print("playing", step, flush=True)
exec(os.environ.get("PLAY", ""))
end = time.monotonic() + float(os.environ.get("PAUSE", "0"))
while time.monotonic() < end:
    print(step, "goes on", flush=True)
    time.sleep(0.1)
key = digest(json.loads(pathlib.Path("manifest.json").read_text())["files"])
engines = digest([key, json.loads((stash / "build/engines.json").read_text())["rows"]])
if step == "build":
    put("build/engines.json", bundle=key)
elif step == "evaluate":
    put("evaluation.json", engines=engines)
    shutil.copyfile(stash / "logits.npz", work / "logits.npz")
elif step == "benchmark":
    put("benchmark.json", engines=engines)
else:
    put("report/report.json")
    shutil.copyfile(stash / "report/report.md", work / "report/report.md")
exec(os.environ.get("LIE", ""))
"""


def write_played_run(folder: Path, bundled_run: Path) -> None:
    """`runs/small` in `folder`, whose bundle plays; it stays the current one of its run, as only its files are others."""
    run = Path(shutil.copytree(bundled_run / "runs" / "small", folder / "runs" / "small"))
    stash = folder / "stash"
    assert run_command(run / "bundle", ["run", "--backend", "onnxruntime", "--work", str(stash)]) == DONE
    program = run / "bundle" / "t2t"
    program.write_text(PLAYER.format(stash=str(stash)))
    reseal(run / "bundle")
    assert json.loads((run / "bundle" / "manifest.json").read_text())["made_of"] and os.access(program, os.X_OK)
