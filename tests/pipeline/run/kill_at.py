"""Runs `t2t-edge run` again and again, each time killed at another file operation: `kill_at.py SEED KILLS`, in the run's folder.

One process imports everything once; each try is a fork of it, so that a kill costs no new start. Prints how often it was killed.
"""

import os
import random
import signal
import sys
from collections.abc import Callable
from typing import Any

import pipeline.stages  # noqa: F401  (what a command imports, once for all tries)
from pipeline.cli import main

# What moves, makes or removes files; each call is a moment to be killed before or after.
_OPERATIONS = ("rename", "replace", "mkdir", "rmdir", "unlink", "remove")
_MOST_CALLS = 13  # from one kill to the next


def kill_after(calls: int, before: bool) -> None:
    """From now on the `calls`-th file operation is this process's last, done or not."""
    left = [calls]

    def counted(operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0 and before:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return operation(*arguments, **options)
            finally:
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        return call

    for name in _OPERATIONS:
        setattr(os, name, counted(getattr(os, name)))


def try_run(generator: random.Random, killed: bool) -> int:
    """One try in a process of its own; its exit status, negative where a signal ended it."""
    calls, before = generator.randint(1, _MOST_CALLS), generator.random() < 0.5
    pid = os.fork()
    if pid == 0:
        if killed:
            kill_after(calls, before)
        os._exit(main(["run"]))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_often(seed: int, kills: int) -> int:
    """Until it was killed `kills` times, or has ended before; then once to its end. The exit status of that."""
    generator, ended = random.Random(seed), list[int]()
    while ended.count(-signal.SIGKILL) < kills and 0 not in ended:
        ended.append(try_run(generator, killed=True))
    print(f"killed {ended.count(-signal.SIGKILL)} times: {ended}")
    return try_run(generator, killed=False)


if __name__ == "__main__":
    sys.exit(kill_often(int(sys.argv[1]), int(sys.argv[2])))
