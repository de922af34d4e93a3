"""`t2t-edge device`: from the host to devices and back, over the system's OpenSSH."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.command import add_command, add_run_options
from pipeline.console.completers import complete_engines
from pipeline.devices.device_file import FILE, FOLDER

if TYPE_CHECKING:
    from pipeline.commands.command import Commands

_STEPS = ("send", "build", "evaluate", "benchmark", "report", "fetch")
_BACKENDS = ("tensorrt", "tensorrt_rtx", "onnxruntime", "openvino")


def register(commands: "Commands") -> None:
    """Add the command and its own commands."""
    device = commands.add_parser(
        "device", help="run a finished run's engines on devices over SSH: one, or all of devices.yaml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="The system's OpenSSH does the connection, with your keys, agent, configuration and jump hosts. Nothing is\n"
        "installed on a device, nothing runs there as another user, and no host key is accepted for you.",
        epilog="examples:\n  t2t-edge device add bench1 user@host\n  t2t-edge device run bench1 --run demo",
    )  # fmt: skip
    actions = device.add_subparsers(dest="action", required=True, metavar="command", title="commands")
    _add_add(actions)
    _add_list(actions)
    _add_run(actions)
    _add_predict(actions)
    _add_logs(actions)
    _add_stop(actions)
    _add_remove(actions)


def _add_add(actions: "Commands") -> None:
    command = add_command(
        actions, "add", "add a device to devices.yaml, after it was looked at", _add,
        ("t2t-edge device add bench1 user@host", "t2t-edge device add bench2 user@host:2222 --python venv/bin/python"),
    )  # fmt: skip
    command.add_argument("name", metavar="NAME")
    command.add_argument("address", metavar="USER@HOST[:PORT]", help="or a Host of your ~/.ssh/config")
    command.add_argument("--python", default="python3", help="the Python there, 3.10 or later; default: %(default)s")
    command.add_argument(
        "--folder", default=FOLDER, help="where bundles go, below the home there; default: %(default)s"
    )
    command.add_argument("--unchecked", action="store_true", help="add it though it cannot be reached now")
    _add_file(command)


def _add_list(actions: "Commands") -> None:
    command = add_command(
        actions, "list", "reachable? GPU, JetPack, TensorRT, power mode, free disk and memory, by the bundle's doctor", _list,
        ("t2t-edge device list", "t2t-edge device list bench1 --json"),
    )  # fmt: skip
    _add_names(command, "default: all")


def _add_run(actions: "Commands") -> None:
    command = add_command(
        actions, "run", "build, check and measure on devices; fetch, check and join the results", _run,
        (
            "t2t-edge device run bench1 --run demo",
            "t2t-edge device run --all --run demo --budget 5",
            "t2t-edge device run bench1 bench2 --run demo --dry-run     what would be sent and run",
        ),
        description="The run goes on there whatever becomes of the connection; the same command attaches again.\n"
        "Exit status: 0 done, 1 failed, 2 wrong use or input, 3 no engine passes the accuracy gate on a device.",
    )  # fmt: skip
    _add_names(command, "or --all", several=True)
    add_run_options(command)
    engine = command.add_argument("--engine", help="only this engine's precision, by its name in the report")
    engine.completer = complete_engines  # type: ignore[attr-defined]
    command.add_argument("--images", type=int, help="evaluation images that go along; default: the bundle's, else 1000")
    command.add_argument("--backend", choices=_BACKENDS, help="default: TensorRT where it is, else ONNX Runtime")
    command.add_argument("--threads", type=int, help="threads of CPU engines; default: as on the host")
    command.add_argument(
        "--budget", type=float, action="append", default=[], metavar="MS",
        help="the page names each device's most accurate engine within so many milliseconds; may be repeated",
    )  # fmt: skip
    command.add_argument(
        "--timeout", action="append", default=[], metavar="STEP=MINUTES",
        help=f"limit of a step ({', '.join(_STEPS)}); may be repeated",
    )  # fmt: skip
    command.add_argument(
        "--patience", type=float, default=10.0, metavar="MINUTES",
        help="for how long a lost connection is tried again; default: %(default)g",
    )  # fmt: skip
    command.add_argument("--dry-run", action="store_true", help="what would be sent and run; nothing is changed")


def _add_predict(actions: "Commands") -> None:
    command = add_command(
        actions, "predict", "classes of this machine's images, by the engine that was best on the device", _predict,
        ("t2t-edge device predict bench1 --run demo photo.jpg", "t2t-edge device predict bench1 --run demo photos/ --top 3"),
        one_document=False,
    )  # fmt: skip
    command.add_argument("name", metavar="NAME").completer = complete_devices  # type: ignore[attr-defined]
    command.add_argument(
        "paths", nargs="+", type=Path, metavar="IMAGE", help="image files and folders of them, on this machine"
    )
    add_run_options(command)
    command.add_argument("--engine", help="another engine that passed there, by its name in the report")
    command.add_argument("--top", type=int, metavar="K", help="the K likeliest classes")
    command.add_argument("--json", action="store_true", help="one JSON object per line")
    _add_file(command)


def _add_logs(actions: "Commands") -> None:
    command = add_command(
        actions, "logs", "what the last run on a device has printed", _logs, ("t2t-edge device logs bench1 --run demo",)
    )
    _add_names(command, "or --all", several=True)
    add_run_options(command)


def _add_stop(actions: "Commands") -> None:
    command = add_command(
        actions, "stop", "end what runs on devices; finished engines are kept there", _stop,
        ("t2t-edge device stop bench1 --run demo",),
    )  # fmt: skip
    _add_names(command, "or --all", several=True)
    add_run_options(command)


def _add_remove(actions: "Commands") -> None:
    command = add_command(
        actions, "remove", "take a device out of devices.yaml", _remove,
        ("t2t-edge device remove bench1", "t2t-edge device remove bench1 --clean     deletes our folder there first"),
    )  # fmt: skip
    command.add_argument("name", metavar="NAME").completer = complete_devices  # type: ignore[attr-defined]
    command.add_argument(
        "--clean", action="store_true", help="delete our folder there first, with all bundles and results"
    )
    _add_file(command)


def _add_file(command: argparse.ArgumentParser) -> None:
    command.add_argument("--devices", type=Path, default=FILE, metavar="FILE", help="default: %(default)s")


def _add_names(command: argparse.ArgumentParser, text: str, *, several: bool = False) -> None:
    names = command.add_argument("names", nargs="*", metavar="NAME", help=text)
    names.completer = complete_devices  # type: ignore[attr-defined]
    if several:
        command.add_argument("--all", action="store_true", help="every device of the file")
    _add_file(command)


def complete_devices(parsed_args: argparse.Namespace, **_: object) -> Iterable[str]:
    """The names of devices."""
    from pipeline.devices.device_file import read_devices

    return list(read_devices(parsed_args.devices))


def _add(options: argparse.Namespace) -> int:
    from pipeline.devices.roster import add_device

    return add_device(options)


def _list(options: argparse.Namespace) -> int:
    from pipeline.devices.roster import list_devices

    return list_devices(options)


def _remove(options: argparse.Namespace) -> int:
    from pipeline.devices.roster import remove_device

    return remove_device(options)


def _run(options: argparse.Namespace) -> int:
    from pipeline.devices.run import run_on_devices

    return run_on_devices(options)


def _predict(options: argparse.Namespace) -> int:
    from pipeline.devices.use import predict_there

    return predict_there(options)


def _logs(options: argparse.Namespace) -> int:
    from pipeline.devices.use import print_logs

    return print_logs(options)


def _stop(options: argparse.Namespace) -> int:
    from pipeline.devices.use import stop_runs

    return stop_runs(options)
