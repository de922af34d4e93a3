"""`log.txt` of a run: what every command that made the run has printed."""

import os
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from threading import RLock
from typing import IO, Any, TextIO, cast

from pipeline.console.final_lines import FinalLines
from pipeline.console.version import our_version

LOG = "log.txt"
MOST_BYTES = 5_000_000  # a file that is larger when a command begins loses its older half


class RunLog:
    """From `begin` until the command's end, what goes to stdout and stderr goes to the run's log, too.

    stdout and stderr stay what they were in all else: a bar is shown where they are a terminal.
    """

    def __init__(self, arguments: Sequence[str]):
        self._arguments = arguments
        self._file: IO[str] | None = None
        self._streams: tuple[TextIO, TextIO] | None = None  # stdout and stderr as they were
        self._tees: list[_Tee] = []
        self._lock = RLock()  # bars print from a thread of their own

    def begin(self, folder: Path) -> None:
        """Write a header into `folder`/log.txt, and from now on what is printed. A log that cannot be written is a line on
        stderr. Under torchrun only rank 0 has one."""
        if self._streams is not None or int(os.environ.get("RANK", 0)) > 0:
            return
        self._streams = sys.stdout, sys.stderr
        path = folder / LOG
        try:
            _halve(path)
            self._file = path.open("a", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            self._give_up(error)
            return
        time = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
        between = [""] if self._file.tell() else []
        self.write([*between, f"=== {time}, t2t-edge {our_version()}: t2t-edge {shlex.join(self._arguments)}"])
        self._tees = [_Tee(stream, self) for stream in self._streams]
        sys.stdout, sys.stderr = (cast(TextIO, tee) for tee in self._tees)

    def add(self, lines: FinalLines, text: str) -> None:
        """Write the lines that `text` has made final."""
        with self._lock:
            self.write(lines.feed(text))

    def write(self, lines: Sequence[str]) -> None:
        """Write whole lines, at once: the program may be killed at any moment."""
        with self._lock:
            if self._file is None or not lines:
                return
            try:
                self._file.write("".join(f"{line}\n" for line in lines))
                self._file.flush()
            except OSError as error:
                self._give_up(error)

    def end(self) -> None:
        """Write what is left, and give stdout and stderr back."""
        for tee in self._tees:
            self.write(tee.lines.close())
        if self._streams is not None:
            sys.stdout, sys.stderr = self._streams
        self._close()

    def _give_up(self, error: OSError) -> None:
        """Say once that there is no log: the run is worth more."""
        self._close()
        if self._streams is not None:
            remark = f"what is printed is not kept in a log: {error.filename or LOG}: {error.strerror}"
            print(f"           {remark}", file=self._streams[1], flush=True)

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # on a full disk it tries once more to write what it could not
                file.close()


class _Tee:
    """A stream that passes everything on, and the text to the log as well."""

    def __init__(self, stream: TextIO, log: RunLog):
        self._stream, self._log, self.lines = stream, log, FinalLines()

    def write(self, text: str) -> int:
        """First to the stream: what cannot be printed was not printed."""
        written = self._stream.write(text)
        self._log.add(self.lines, text)
        return written

    def writelines(self, lines: Sequence[str]) -> None:
        """As `write`."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def run_log(arguments: Sequence[str]) -> Iterator[RunLog]:
    """A log of the command with these arguments; one that makes a run begins it. An exception that ends the program is
    written, too, as Python prints it only afterwards."""
    log = RunLog(arguments)
    try:
        yield log
    except BaseException:
        log.write(traceback.format_exc().splitlines())
        raise
    finally:
        log.end()


def _halve(path: Path) -> None:
    """Keep the newer half of a file that is too large, from a line's beginning on: whole or not at all."""
    if not path.is_file() or path.stat().st_size <= MOST_BYTES:
        return
    with path.open("rb") as file:
        file.seek(-MOST_BYTES // 2, 2)
        kept = file.read()
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(kept[kept.find(b"\n") + 1 :] if b"\n" in kept else b"")
    partial.replace(path)
