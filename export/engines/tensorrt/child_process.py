"""Call a function in a process of its own, hear how far it is, and stop it with ctrl-C."""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from export.engines.tensorrt.progress import Progress

Value = TypeVar("Value")
_STOP_SECONDS = 10.0


class ChildDied(RuntimeError):
    """The process ended without an answer; the text says how."""


def call_in_child(function: Callable[..., Value], arguments: tuple[Any, ...], progress: Progress) -> Value:
    """`function(*arguments, progress)`, which runs in a fresh process; what it raises is raised here.

    Ctrl-C is passed on to it, and KeyboardInterrupt raised once it is gone. Raises ChildDied where it crashes.
    """
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(function, arguments, writer), daemon=True)
    process.start()
    writer.close()
    answered = False
    try:
        while True:
            kind, value = reader.recv()
            answered = kind in ("value", "error")
            if kind == "step":
                progress.step(*value)
            elif kind == "say":
                progress.say(value)
            elif kind == "error":
                raise value
            else:
                return value  # pickled: what `function` returned
    except EOFError as error:
        answered = True
        process.join()
        raise ChildDied(f"its process ended with status {process.exitcode}") from error
    finally:
        reader.close()
        _end(process, stop=not answered)


def _end(process: Any, *, stop: bool) -> None:
    """Let a process that is done go, and stop one that is not: gently, then not."""
    if stop and process.is_alive():
        os.kill(process.pid, signal.SIGINT)
    process.join(_STOP_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()


def _run(function: Callable[..., Any], arguments: tuple[Any, ...], writer: Connection) -> None:
    def send(kind: str, value: Any) -> None:
        writer.send((kind, value))

    progress = Progress(lambda fraction, phase: send("step", (fraction, phase)), lambda line: send("say", line))
    try:
        answer: tuple[str, Any] = ("value", function(*arguments, progress))
    except BaseException as error:  # KeyboardInterrupt, too: raised again by the parent
        answer = ("error", error)
    with contextlib.suppress(BrokenPipeError):  # the parent process has ended
        send(*answer)
