"""`make bench-train`: training steps at 224 px, ours against the literal-unfold form with the same blocks, in one run.

Images/s of a whole step (forward, loss, backward, AdamW), peak memory of each form in a process of its own, one process
against two, and what the input pipeline alone can deliver.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from bench.training_step import FORMS, Form, Step

from calib.images import read_split
from pipeline.machine.describe import cpu_name
from pipeline.machine.peak_memory import own_memory
from pipeline.recipe import load_recipe
from pipeline.training.distributed import World, open_world
from pipeline.training.learning.learning import LEARNING
from pipeline.training.loader import device_batches, make_loaders

TARGET = {"cpu": 1.2, "cuda": 1.5}  # times the literal form's images/s, for t2t_vit_7 and for every model
MIB = 2**20


def seconds_of(step: Step) -> float:
    """Seconds of one step."""
    _wait(step.device)
    started = time.perf_counter()
    step()
    _wait(step.device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def make_step(name: str, form: Form, options: argparse.Namespace, device: torch.device, world: int = 1) -> Step:
    return Step(name, form, size=options.size, batch=options.batch, device=device, amp=options.amp, world=world)


def main() -> None:
    """Measure and print; a line of JSON at the end."""
    options = read_options()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)  # as training does
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.part == "memory":
        print(peak_memory(options.models[0], options.form, options, device))
    elif options.part == "share":
        share(options)
    else:
        print_all(options, device)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    gpu = torch.cuda.is_available()
    parser.add_argument("--models", nargs="+", default=["t2t_vit_7", "t2t_vit_14", "t2t_vit_t_14"])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64 if gpu else 8)
    parser.add_argument("--rounds", type=int, default=20 if gpu else 6)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="of the input pipeline")
    parser.add_argument("--amp", action=argparse.BooleanOptionalAction, default=gpu, help="bfloat16 autocast")
    parser.add_argument("--profile", action="store_true", help="the operators that take longest, of both forms")
    parser.add_argument("--part", choices=("all", "memory", "share"), default="all", help=argparse.SUPPRESS)
    parser.add_argument("--form", choices=FORMS, default="ours", help=argparse.SUPPRESS)
    return parser.parse_args()


def print_all(options: argparse.Namespace, device: torch.device) -> None:
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else "no GPU"
    print(f"{cpu_name()}, {gpu}, {options.threads} thread(s), torch {torch.__version__}")
    print(f"{options.size} px, batch {options.batch}, {options.rounds} interleaved rounds, bfloat16 {options.amp}\n")
    print(f"{'model':<14} {'literal img/s':>13} {'ours img/s':>10} {'ratio (quartiles)':>22} {'literal MiB':>11} "
          f"{'ours MiB':>8} {'ratio':>6}")  # fmt: skip
    result: dict[str, object] = {}
    missed = []
    for name in options.models:
        rates, ratios = compare_speed(name, options, device)
        memory = {form: child_memory(name, form, options) for form in FORMS}
        low, middle, high = np.percentile(ratios, (25, 50, 75))
        less = memory["ours"] / memory["literal"]
        print(f"{name:<14} {rates['literal']:>13.2f} {rates['ours']:>10.2f} {middle:>8.2f}x ({low:.2f} to {high:.2f}) "
              f"{memory['literal']:>11.0f} {memory['ours']:>8.0f} {less:>5.2f}x", flush=True)  # fmt: skip
        result[name] = {"images_per_s": rates, "ratio": middle, "mib": memory, "memory_ratio": less}
        if middle < TARGET[device.type] and (device.type == "cuda" or name == "t2t_vit_7"):
            missed.append(name)
    result["processes"] = scaling(options)
    result["pipeline"] = pipeline_ceiling(options)
    for name in options.models if options.profile else missed:
        if name in missed:
            print(f"\n{name} misses the target of {TARGET[device.type]}x; where the time goes:")
        profile(name, options, device)
    print(json.dumps(result))


def compare_speed(name: str, options: argparse.Namespace, device: torch.device) -> tuple[dict[str, float], list[float]]:
    """Median images/s of each form, and the ratio of every round; the forms take turns, the first round is thrown away."""
    steps = {form: make_step(name, form, options, device) for form in FORMS}
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    for index in range(options.rounds + 1):
        for form in FORMS if index % 2 else FORMS[::-1]:
            taken = seconds_of(steps[form])
            if index:
                seconds[form].append(taken)
    rates = {form: round(options.batch / float(np.median(taken)), 3) for form, taken in seconds.items()}
    return rates, [a / b for a, b in zip(seconds["literal"], seconds["ours"], strict=True)]


def peak_memory(name: str, form: str, options: argparse.Namespace, device: torch.device) -> float:
    """MiB that three steps add to what the process had before its network was made."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device) / MIB
    else:
        before = own_memory("VmRSS") / MIB
    step = make_step(name, form, options, device)
    for _ in range(3 if device.type == "cuda" else 2):
        step()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB - before
    return own_memory("VmHWM") / MIB - before


def _child(part: str, options: argparse.Namespace, name: str, form: str = "ours", processes: int = 1) -> str:
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += [str(Path(__file__).resolve()), "--part", part, "--models", name, "--form", form]
    threads = 1 if part == "share" else options.threads
    for key, value in (
        ("size", options.size),
        ("batch", options.batch),
        ("rounds", options.rounds),
        ("threads", threads),
    ):
        command += [f"--{key}", str(value)]
    command.append("--amp" if options.amp else "--no-amp")
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout.strip().splitlines()[-1]


def child_memory(name: str, form: str, options: argparse.Namespace) -> float:
    """`peak_memory` in a process of its own: what another form has held would count otherwise."""
    return round(float(_child("memory", options, name, form)), 1)


def share(options: argparse.Namespace) -> None:
    """What one process of torchrun does: steps with averaged gradients; rank 0 prints images/s of all together."""
    with open_world() as world:
        step = make_step(options.models[0], "ours", options, world.device, world.size)
        seconds_of(step)
        world.wait()
        started = time.perf_counter()
        for _ in range(options.rounds):
            seconds_of(step)
        world.wait()
        if world.rank == 0:
            print(options.batch * options.rounds * world.size / (time.perf_counter() - started))


def scaling(options: argparse.Namespace) -> dict[str, float]:
    """Images/s of one and of two processes with a thread (or GPU) each and the same batch for each."""
    if torch.cuda.is_available() and torch.cuda.device_count() < 2:
        print("\n1 → 2 processes: this machine has one GPU")
        return {}
    name = options.models[0]
    one, two = (float(_child("share", options, name, processes=count)) for count in (1, 2))
    print(
        f"\n{name}, a thread or GPU for each process: 1 process {one:.2f} images/s, 2 processes {two:.2f}: {two / one:.2f}x"
    )
    return {"1": one, "2": two}


def pipeline_ceiling(options: argparse.Namespace) -> dict[str, float]:
    """Images/s that the loader delivers with the paper's augmentation, from JPEGs of ImageNet's size (500×375)."""
    import cv2

    part = load_recipe(Path(__file__).parents[2] / "recipes" / "t2t_vit_7.yaml")
    rates = {}
    with tempfile.TemporaryDirectory() as scratch:
        for split in ("train", "val"):
            for index in range(192 if split == "train" else 4):
                draw = np.random.default_rng(index)
                path = Path(scratch) / split / str(index % 2) / f"{index}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                coarse = draw.integers(0, 255, (24, 32, 3), dtype=np.uint8)
                smooth = cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC).astype(np.int16)
                noisy = np.clip(smooth + draw.integers(-12, 12, smooth.shape), 0, 255).astype(np.uint8)
                cv2.imwrite(str(path), noisy, [cv2.IMWRITE_JPEG_QUALITY, 92])
        train, val = read_split(Path(scratch), "train"), read_split(Path(scratch), "val")
        for workers in sorted({1, options.workers}):
            values = part.train.model_copy(update={"batch_size": 16, "workers": workers})
            world = World(0, 1, torch.device("cpu"))
            loaders = make_loaders(LEARNING["classification"], train, val, part.preprocess_spec(), values, world)
            for epoch in range(2):  # the first one starts the workers
                loaders.sampler.start(epoch, 0, len(train))
                started = time.perf_counter()
                counts = sum(len(images) for images, _ in device_batches(loaders.train, world.device))
            rates[str(workers)] = counts / (time.perf_counter() - started)
            loaders.close()
    listed = ", ".join(f"{workers} worker(s) {rate:.0f}" for workers, rate in rates.items())
    print(f"the input pipeline alone, images/s from 500×375 JPEGs: {listed}")
    return rates


def profile(name: str, options: argparse.Namespace, device: torch.device) -> None:
    """The operators that take longest in one step of each form, in milliseconds of their own."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    for form in FORMS:
        step = make_step(name, form, options, device)
        step()
        with record(activities=activities) as profiler:
            step()
        attribute = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
        rows = sorted(profiler.key_averages(), key=lambda row: -float(getattr(row, attribute)))
        total = sum(float(getattr(row, attribute)) for row in rows)
        print(f"  {name}, {form}: {total / 1e3:.0f} ms")
        for row in rows[:12]:
            own = float(getattr(row, attribute))
            print(f"    {own / 1e3:>9.1f} ms {100 * own / total:>5.1f} %  {row.count:>5} ×  {row.key}")


if __name__ == "__main__":
    main()
