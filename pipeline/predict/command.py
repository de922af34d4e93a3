"""`t2t-edge predict`: read sources, run the engine, write lines, files and pictures.

An image or frame that cannot be read is reported on stderr and skipped. After ctrl-C everything that was written is whole.
"""

import argparse
import io
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType

from export.engines.sidecar import Expected
from pipeline.console.exit_status import DONE, FAILED
from pipeline.predict.predict import Predictor
from pipeline.predict.prediction import Prediction
from pipeline.predict.sources import Source, Video, open_sources, shown
from pipeline.predict.writers import (
    AnnotatedCopies,
    CsvFile,
    JsonLines,
    TextLines,
    Window,
    Writer,
    check_window,
    names_beside,
    refuse_originals,
    refuse_source,
)


class Interruption:
    """A signal handler. Ctrl-C (or SIGTERM) raises KeyboardInterrupt only while the command waits for a prediction; while
    one is written, the command ends after it.

    So no line, row or picture is cut off, and a second ctrl-C does not keep files from being closed.
    """

    def __init__(self) -> None:
        self.seen = self.waiting = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        first, self.seen = not self.seen, True
        if first and self.waiting:
            raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Install an Interruption for the length of the context; a signal that is ignored (nohup) stays ignored."""
    interruption, before = Interruption(), {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, interruption)
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def escaping_stdout() -> Iterator[None]:
    """Print characters of a file's name that stdout cannot encode as escapes (\\udc80), instead of ending with an error."""
    stdout = sys.stdout
    if not isinstance(stdout, io.TextIOWrapper):  # the caller has replaced it
        yield
        return
    before = stdout.errors
    stdout.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        stdout.reconfigure(errors=before)


def load_predictor(
    options: argparse.Namespace, folder: Path, *, engine: str | None = None, expected: Expected | None = None
) -> Predictor:
    """The Predictor that the options ask for; `folder`, `engine` and `expected` as it takes them."""
    return Predictor(
        folder, engine=engine, top=options.top, batch=options.batch, threads=options.threads, workers=options.workers,
        expected=expected,
    )  # fmt: skip


def predict_command(options: argparse.Namespace, load: Callable[[], Predictor], program: str) -> int:
    """Predict the sources in `options`; 0 where at least one image was predicted and there was no ctrl-C.

    `load` is called after the sources are opened. `program` is the beginning of the suggested next command.
    """
    with ExitStack() as stack:
        stack.enter_context(escaping_stdout())
        if options.show:
            check_window()
        sources = open_sources(options.paths)
        for source in sources:
            stack.callback(source.close)
        if options.save is not None:
            refuse_originals(options.save, (target for source in sources for target in source.targets), sources)
        if options.csv is not None:
            refuse_source(options.csv, sources)
        predictor = load()
        stack.enter_context(predictor)
        output = predictor.output
        beside = names_beside(sources, output.BESIDE)
        if options.save is not None:
            refuse_originals(options.save, (name for names in beside.values() for name in names), sources)
        writers: list[Writer] = [JsonLines(output) if options.json else TextLines(output)]
        if options.csv is not None:
            writers.append(_closed(stack, CsvFile(options.csv, output)))
        if options.save is not None:
            fps = {source.target: source.fps for source in sources if isinstance(source, Video)}
            writers.append(_closed(stack, AnnotatedCopies(options.save, output, fps, beside)))
        if options.show:
            writers.append(_closed(stack, Window(output)))
        return _write_all(options, predictor, sources, writers, program)


def _closed(stack: ExitStack, writer: "Writer") -> "Writer":
    stack.callback(writer.close)
    return writer


def _write_all(
    options: argparse.Namespace, predictor: Predictor, sources: list[Source], writers: list[Writer], program: str
) -> int:
    predicted = skipped = 0
    started = time.monotonic()
    with interruptible() as interruption:
        keep = options.save is not None or options.show
        with closing(predictor.stream_opened(sources, keep_images=keep)) as stream:
            while (prediction := _next(stream, interruption)) is not None:
                if prediction.problem is not None:
                    skipped += 1
                    print(f"{prediction.name}: {prediction.problem}", file=sys.stderr)
                    continue
                predicted += 1
                wanted = [writer.write(prediction) for writer in writers]
                if not all(wanted):
                    break
        seconds = time.monotonic() - started
        for writer in writers:
            writer.close()  # before the summary says that they are whole, and while ctrl-C cannot interrupt
    _summarise(options, predictor, predicted, skipped, seconds, program)
    if interruption.seen:
        print("interrupted: what was written is whole", file=sys.stderr)
    return DONE if predicted and not interruption.seen else FAILED


def _next(stream: Iterator[Prediction], interruption: Interruption) -> Prediction | None:
    """The next prediction; None at the end or after ctrl-C."""
    try:
        interruption.waiting = True
        return None if interruption.seen else next(stream, None)
    except KeyboardInterrupt:
        return None
    finally:
        interruption.waiting = False


def _summarise(
    options: argparse.Namespace, predictor: Predictor, predicted: int, skipped: int, seconds: float, program: str
) -> None:
    """Print the numbers, the files written and the next command to stderr: stdout has only predictions."""
    rate = f" ({predicted / seconds:,.0f} a second)" if predicted and seconds > 0 else ""
    dropped = f", {predictor.dropped} dropped because the engine was busy" if predictor.dropped else ""
    print(
        f"{predicted} predicted with {predictor.folder}, {skipped} skipped{dropped}, in {seconds:.1f} s{rate}",
        file=sys.stderr,
    )
    for path in (options.csv, options.save):
        if path is not None:
            print(f"written: {path}", file=sys.stderr)
    if options.save is None and predicted:
        paths = " ".join(shlex.quote(shown(path)) for path in options.paths)
        print(f"next: {program} --save annotated {paths}", file=sys.stderr)
