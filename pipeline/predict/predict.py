"""Predict with an engine of a run: numpy, OpenCV and an engine runtime are enough.

from pipeline.predict.predict import Predictor
for prediction in Predictor("runs/demo").stream("photos/"):
    print(prediction.source, prediction.label, prediction.probability)
"""

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from calib.errors import InputError
from calib.preprocess import Image, preprocess
from export.cpu import available_cpus
from export.engines.engine import load_engine
from export.engines.sidecar import SIDECAR, Expected
from export.runner import INPUT, OUTPUT, Unavailable
from pipeline.predict.find import load_of_run
from pipeline.predict.output import output_of
from pipeline.predict.prediction import Prediction
from pipeline.predict.sources import Frame, Source, open_sources, read_frame
from pipeline.predict.stream import Pipeline

BATCH = 8  # images at a time; 1 where a source is live, for low latency


@dataclass(frozen=True)
class _Loaded:
    """A batch before inference: predictions without answers, and preprocessed images (n, H, W, 3) of those without a problem."""

    blank: list[Prediction]
    images: NDArray[np.uint8] | None


class Predictor:
    """A loaded engine that classifies images, or their pixels. Use it from one thread at a time; as a context manager it frees
    the engine.

    `folder` is a run (`runs/demo`), whose engine `engine`, or else the recommended one, is loaded; or an engine's own
    folder. `expected` is what the files of an engine given by its folder must be; for a run its report says that.
    `top` is the number of classes of each image that are given; of a segmentation, that are written.
    `threads` is for an engine on a CPU, `workers` is the number of threads that decode and preprocess; the default of both
    is the number of cores. InputError where there is no such engine, it did not pass the accuracy gate, or it cannot run on
    this machine.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        engine: str | None = None,
        top: int | None = None,
        batch: int | None = None,
        threads: int | None = None,
        workers: int | None = None,
        expected: Expected | None = None,
    ):
        cores = available_cpus()
        path = Path(folder)
        _check_counts({"top": top, "batch": batch, "threads": threads, "workers": workers})
        try:
            if engine is None and (path / SIDECAR).is_file():
                self.folder = path
                self._sidecar, self.runner = load_engine(path, threads or cores, expected=expected or Expected())
            else:
                self.folder, self._sidecar, self.runner = load_of_run(path, engine, threads or cores)
        except Unavailable as reason:
            raise InputError(
                "the engine cannot run on this machine", got=str(reason), next_step="t2t-edge doctor"
            ) from reason
        self.classes = self._sidecar.classes
        self.dropped = 0  # frames of live sources dropped in the latest stream, because the engine was busy
        self.preprocess = self._sidecar.preprocess_spec()
        self._batch, self._workers = batch, workers or cores
        try:
            self.output = output_of(self._sidecar.task, self.classes, top, self.preprocess)
            _check_batch(batch, self._sidecar.max_batch)
        except InputError:
            self.close()
            raise

    def predict(self, image: Image) -> Prediction:
        """Predict one RGB uint8 image (H, W, 3)."""
        blank = [Prediction("array")]
        return self._answer(_Loaded(blank, preprocess(image, self.preprocess)[np.newaxis]))[0]

    def stream(self, *sources: str | os.PathLike[str]) -> Iterator[Prediction]:
        """Predict every image and frame of `sources` (see `pipeline.predict.sources.ALLOWED`) in order.

        An image that cannot be read is a Prediction with a problem; the others follow. InputError, before the first image,
        for a source that does not exist.
        """
        return self.stream_opened(open_sources(sources))

    def stream_opened(
        self, sources: Sequence[Source], *, keep_images: bool = False
    ) -> Generator[Prediction, None, None]:
        """`stream` for sources from `open_sources`, which it closes; `keep_images` keeps the originals in the predictions."""
        live = any(source.live for source in sources)
        pipeline = Pipeline(
            _frames(sources), self._batch_size(live), lambda frames: self._load(frames, keep_images), self._answer,
            workers=self._workers, may_drop=lambda frame: frame.live,
        )  # fmt: skip
        with closing(pipeline.results()) as batches:  # ends the threads with this generator, not at garbage collection
            for predictions in batches:
                self.dropped = pipeline.dropped
                yield from predictions
        self.dropped = pipeline.dropped  # also frames after the last prediction

    def close(self) -> None:
        """Free the engine."""
        self.runner.__exit__(None, None, None)

    def __enter__(self) -> "Predictor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _batch_size(self, live: bool) -> int:
        return self._batch or (1 if live else min(BATCH, self._sidecar.max_batch or BATCH))

    def _load(self, frames: list[Frame], keep_images: bool) -> _Loaded:
        """Decode and preprocess; an image that cannot be decoded becomes a prediction with a problem."""
        blank, images = [], []
        for frame in frames:
            problem, original = frame.problem, None
            if problem is None:
                try:
                    original = read_frame(frame)
                    images.append(preprocess(original, self.preprocess))
                except InputError as error:
                    problem = error.what
            kept = original if keep_images else None
            blank.append(Prediction(frame.source, (), frame.index, frame.seconds, problem, frame.target, kept))
        return _Loaded(blank, np.stack(images) if images else None)

    def _answer(self, loaded: _Loaded) -> list[Prediction]:
        """Fill in what is predicted of a batch."""
        if loaded.images is None:
            return loaded.blank
        logits = iter(self.runner.infer({INPUT: loaded.images})[OUTPUT])
        return [blank if blank.problem is not None else self.output.read(blank, next(logits)) for blank in loaded.blank]


def _frames(sources: Sequence[Source]) -> Generator[Frame, None, None]:
    try:
        for source in sources:
            yield from source.frames()
    finally:
        for source in sources:
            source.close()


def _check_batch(batch: int | None, most: int | None) -> None:
    if most is not None and batch is not None and batch > most:
        raise InputError(
            "the batch is larger than the engine's largest", got=batch, allowed=f"1 to {most}",
            next_step="lower --batch, or raise build.batch_sizes in the recipe and build again",
        )  # fmt: skip


def _check_counts(counts: dict[str, int | None]) -> None:
    for name, count in counts.items():
        if count is not None and count < 1:
            raise InputError(f"--{name} is a number of at least 1", got=count, allowed="1 or more")
