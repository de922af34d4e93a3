"""Exit status of every command: 0 done, 1 failed, 2 wrong use or input, 3 the accuracy gate failed."""

import errno
import os
import sys
from collections.abc import Callable

from calib.errors import InputError

DONE, FAILED, WRONG_INPUT, GATE_FAILED = 0, 1, 2, 3


class GateFailed(Exception):
    """Nothing passes the accuracy gate; the text says what, and why."""


def exit_status(command: Callable[[], int], interrupted: str) -> int:
    """Run a command; what it raises becomes one message and a status. `interrupted` is what ctrl-C says."""
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
    except SystemError as error:  # ctrl-C while Python code ran inside a C function that returned a result all the same
        if not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        return say(interrupted, FAILED)
    except BrokenPipeError:  # whoever read the output is gone (`t2t-edge doctor | head`); Python would complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return say(
                f"error: the disk is full\n  got: {error}\n  next: free some space (df -h .), then run the same "
                "command: finished stages are kept", FAILED,
            )  # fmt: skip
        if error.errno is None or os.environ.get("T2T_EDGE_TRACEBACK"):  # without one it is no file's, but a bug
            raise
        return say(
            f"error: {_place(error)}: {error.strerror}\n  next: check that path and who may use it (ls -ld); "
            "T2T_EDGE_TRACEBACK=1 with the same command shows where", FAILED,
        )  # fmt: skip
    except RuntimeError as error:
        if os.environ.get("T2T_EDGE_TRACEBACK"):
            raise
        return say(f"error: {error}\n  next: T2T_EDGE_TRACEBACK=1 with the same command shows where", FAILED)


def _place(error: OSError) -> str:
    """The file, or the two of a renaming, that the system refused."""
    names = [name for name in (error.filename, error.filename2) if name is not None]
    return " -> ".join(os.fsdecode(name) if isinstance(name, bytes) else str(name) for name in names) or "the system"


def say(text: str, status: int) -> int:
    """Print to stderr and return `status`."""
    if int(os.environ.get("RANK", 0)) == 0:  # under torchrun one process speaks for all
        print(text, file=sys.stderr)
    return status
