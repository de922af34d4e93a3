"""Exit status of every command: 0 done, 1 failed, 2 wrong use or input, 3 the accuracy gate failed."""

import errno
import os
import sys
from collections.abc import Callable

from calib.errors import InputError

OURS = ("calib", "export", "models", "pipeline")
DONE, FAILED, WRONG_INPUT, GATE_FAILED = 0, 1, 2, 3


class GateFailed(Exception):
    """No engine or graph passes the accuracy gate; the text says which were tried and why they failed."""


def exit_status(command: Callable[[], int], interrupted: str) -> int:
    """Run a command; an exception becomes one message and a status. `interrupted` is the message for ctrl-C."""
    try:
        return command()
    except InputError as error:
        if os.environ.get("T2T_EDGE_TRACEBACK"):
            raise
        return say(f"error: {error}", WRONG_INPUT)
    except GateFailed as error:
        return say(f"the accuracy gate failed: {error}", GATE_FAILED)
    except KeyboardInterrupt:
        return say(interrupted, FAILED)
    except SystemError as error:  # ctrl-C in Python code that a C function called, which then still returned a result
        if not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        return say(interrupted, FAILED)
    except (
        BrokenPipeError
    ):  # the reader of the output has ended (`t2t-edge doctor | head`); Python would report it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return say(
                f"error: the disk is full\n  got: {error}\n  next: free some space (df -h .), then run the same "
                "command: finished stages are kept", FAILED,
            )  # fmt: skip
        if error.errno is None or os.environ.get(
            "T2T_EDGE_TRACEBACK"
        ):  # no errno: not from the system, so a bug of ours
            raise
        return say(
            f"error: {_place(error)}: {error.strerror}\n  next: check that path and who may use it (ls -ld); "
            "T2T_EDGE_TRACEBACK=1 with the same command shows where", FAILED,
        )  # fmt: skip
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in OURS or os.environ.get("T2T_EDGE_TRACEBACK"):
            raise
        return say(f"error: {_missing(package)}", WRONG_INPUT)
    except RuntimeError as error:
        if os.environ.get("T2T_EDGE_TRACEBACK"):
            raise
        return say(f"error: {error}\n  next: T2T_EDGE_TRACEBACK=1 with the same command shows where", FAILED)


def _missing(package: str) -> InputError:
    """Where only what a device needs is installed."""
    return InputError(
        "a package that this command needs is not installed",
        got=f"no {package} in {sys.prefix}, as on a device, which predicts with an engine and no more",
        next_step="pip install -e '.[host]' -c constraints.txt",
    )


def _place(error: OSError) -> str:
    """The file that the system refused, or both files of a rename."""
    names = [name for name in (error.filename, error.filename2) if name is not None]
    return " -> ".join(os.fsdecode(name) if isinstance(name, bytes) else str(name) for name in names) or "the system"


def say(text: str, status: int) -> int:
    """Print to stderr and return `status`."""
    if int(os.environ.get("RANK", 0)) == 0:  # under torchrun only rank 0 prints
        print(text, file=sys.stderr)
    return status
