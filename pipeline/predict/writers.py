"""Where predictions go: lines of text or JSON, a CSV file, annotated copies, a window."""

import csv
import errno
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from calib.errors import InputError
from calib.images import escaped, is_utf8
from pipeline.predict.output import Output
from pipeline.predict.prediction import Prediction
from pipeline.predict.sources import ImageFiles, Source, unused


class Writer(Protocol):
    """Takes predictions in order, only those without a problem; `write` returns False when the user asks to stop."""

    def write(self, prediction: Prediction) -> bool: ...
    def close(self) -> None: ...


class TextLines:
    """`photo.jpg  shirt  91.3 %` to stdout; further classes follow on the same line."""

    def __init__(self, output: Output):
        self._output = output

    def write(self, prediction: Prediction) -> bool:
        time = f" ({prediction.seconds:.2f} s)" if prediction.seconds is not None else ""
        print(f"{prediction.name}{time}  {self._output.text(prediction)}", flush=True)
        return True

    def close(self) -> None:
        """Stdout stays open."""


class JsonLines:
    """One JSON object per line to stdout: `source`, `frame` and `seconds` (null for an image), and what the task has."""

    def __init__(self, output: Output):
        self._output = output

    def write(self, prediction: Prediction) -> bool:
        place = {"source": prediction.source, "frame": prediction.frame, "seconds": prediction.seconds}
        print(_json_line(place | self._output.to_json(prediction)), flush=True)
        return True

    def close(self) -> None:
        """Stdout stays open."""


def _json_line(values: dict[str, Any]) -> str:
    """JSON with characters as they are; with JSON's escapes where stdout's encoding lacks one of them."""
    text = json.dumps(values, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(values)
    return text


class CsvFile:
    """Columns source, frame, seconds, then label and probability, or share, of each class; every row is written at once."""

    def __init__(self, path: Path, output: Output):
        self._file, self._output = open_for_writing(path), output
        self._rows = csv.writer(self._file, lineterminator="\n")
        self._rows.writerow(["source", "frame", "seconds", *output.columns()])

    def write(self, prediction: Prediction) -> bool:
        place = ["" if value is None else value for value in (prediction.frame, prediction.seconds)]
        self._rows.writerow([prediction.source, *place, *self._output.cells(prediction)])
        self._file.flush()
        return True

    def close(self) -> None:
        self._file.close()


def open_for_writing(path: Path) -> Any:
    """A text file; bytes of a name that are not UTF-8 are written as \\udc80 … \\udcff. InputError where it cannot be made."""
    try:
        return path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
    except OSError as error:
        if path.is_dir():
            next_step = f"name a file: '{path / 'predictions.csv'}'"
        elif path.parent.exists():
            next_step = f"name another file, or see who may write there: ls -ld '{path.parent}'"
        else:
            next_step = f"mkdir -p '{path.parent}'"
        raise InputError("this file cannot be written", got=f"{path}: {error.strerror}", next_step=next_step) from error


def names_beside(sources: Sequence[Source], endings: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The names of the files beside each image's annotated copy, by its target: an ending each in place of its suffix.

    Where an image's copy has that name, or another's file, they are numbered as targets are.
    """
    taken = {target for source in sources for target in source.targets}
    images = [target for source in sources if isinstance(source, ImageFiles) for target in source.targets]
    return {
        target: tuple(unused(Path(target).with_suffix(ending).as_posix(), taken) for ending in endings) for target in images
    }  # fmt: skip


def refuse_originals(folder: Path, names: Iterable[str], sources: Sequence[Source]) -> None:
    """InputError where one of the files `names` in `folder` would replace a source's own file, also through a link."""
    targets = [folder / name for name in names]
    there = {identity: target for target in targets if (identity := _identity(target)) is not None}
    if not there:  # the usual case, a new folder: originals need not be looked at
        return
    for original in (original for source in sources for original in source.originals):
        identity = _identity(original)
        if identity in there:
            raise InputError(
                "--save would write over the original",
                got=f"{there[identity]}, which is {original}" if there[identity] != original else original,
                allowed="another folder", next_step=f"--save '{folder}-annotated'",
            )  # fmt: skip


def refuse_source(csv: Path, sources: Sequence[Source]) -> None:
    """InputError where `--csv` names one of the sources' own files."""
    identity = _identity(csv)
    if identity is not None and identity in {_identity(path) for source in sources for path in source.originals}:
        raise InputError(
            "--csv would write over a source",
            got=csv,
            allowed="another file",
            next_step="name a file: --csv classes.csv",
        )


def _identity(path: Path) -> tuple[int, int] | None:
    """Equal for two paths of one file; None where there is no file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


class AnnotatedCopies:
    """Images and videos with the classes written or painted on them, in `folder`; videos are Motion JPEG, which every player
    reads.

    `fps` is the frame rate of each video, `beside` the names of the files beside each image, both by its target. Motion JPEG
    plays even where the file was not closed. OSError with the system's reason for what cannot be written. Existing files are
    replaced: call `refuse_originals` first.
    """

    def __init__(
        self, folder: Path, output: Output, fps: Mapping[str, float], beside: Mapping[str, Sequence[str]]
    ):  # fmt: skip
        self._folder, self._output, self._fps, self._beside = folder, output, fps, beside
        self._videos: dict[str, tuple[Any, tuple[int, int]]] = {}  # writer, (width, height)
        if fps and not is_utf8(folder):  # with such a name OpenCV's writer ends the program, without an exception
            raise InputError(
                "--save of a video needs a folder whose name is UTF-8",
                got=escaped(folder),
                next_step="name another folder",
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                "--save needs a folder that can be made",
                got=f"{folder}: {error.strerror}",
                next_step="name another folder",
            ) from error

    def write(self, prediction: Prediction) -> bool:
        path, picture = self._folder / prediction.target, self._output.picture(prediction)
        if prediction.frame is None:
            self._save_image(path, picture)
            names = self._beside.get(prediction.target, ())
            for name, further in zip(names, self._output.beside(prediction), strict=True):
                self._save_image(self._folder / name, further)
        else:
            self._add_frame(prediction.target, path, picture)
        return True

    def close(self) -> None:
        for writer, _ in self._videos.values():
            writer.release()
        self._videos.clear()

    def _save_image(self, path: Path, picture: NDArray[np.uint8]) -> None:
        data = _encode(path, picture)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)  # not OpenCV's imwrite, which gives no reason for a failure, such as a full disk

    def _add_frame(self, target: str, path: Path, picture: NDArray[np.uint8]) -> None:
        import cv2

        if target not in self._videos:
            size = (picture.shape[1], picture.shape[0])
            path.open("wb").close()  # raises OSError with the reason, which OpenCV does not give
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), self._fps[target], size)
            if not writer.isOpened():
                raise RuntimeError(f"{path} cannot be written: this OpenCV has no writer of Motion JPEG")
            self._videos[target] = (writer, size)
        writer, size = self._videos[target]
        if (
            picture.shape[1],
            picture.shape[0],
        ) != size:  # a camera that changed its resolution; a video file has only one
            picture = np.asarray(cv2.resize(picture, size), dtype=np.uint8)
        _check_space(path, picture.nbytes)
        writer.write(picture)


def _encode(path: Path, picture: NDArray[np.uint8]) -> bytes:
    """A picture, BGR (H, W, 3) or grey (H, W), in the format of the path's suffix; RuntimeError where it is too large."""
    import cv2

    reason = f"no {path.suffix} of {picture.shape[1]} × {picture.shape[0]} pixels"
    try:
        good, data = cv2.imencode(path.suffix, picture)
    except cv2.error as error:
        good, reason = False, getattr(error, "err", "") or str(error)
    if not good:
        raise RuntimeError(f"{path} cannot be written: OpenCV: {reason}")
    return bytes(data)


def _check_space(path: Path, needed: int) -> None:
    """OSError where fewer than `needed` bytes are free: OpenCV's video writer does not report a full disk."""
    disk = shutil.disk_usage(path.parent)
    if disk.total and disk.free < needed:  # some network file systems report 0 for both
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def check_window() -> None:
    """InputError where no window can be shown here."""
    import cv2

    built = "GUI:                           NONE" not in cv2.getBuildInformation()
    screen = sys.platform != "linux" or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    if not built or not screen:
        raise InputError(
            "no window can be shown here",
            got="OpenCV without windows (opencv-python-headless)" if not built else "no display: DISPLAY is not set",
            allowed="opencv-python on a machine with a display",
            next_step="--save FOLDER writes annotated copies instead"
            + ("" if built else "; or: pip uninstall opencv-python-headless && pip install opencv-python"),
        )


class Window:
    """Annotated frames on the screen; q or Escape ends. An image is shown for one second."""

    TITLE = "t2t-edge predict (q ends)"

    def __init__(self, output: Output) -> None:
        import cv2

        self._output = output
        cv2.namedWindow(self.TITLE, cv2.WINDOW_NORMAL)

    def write(self, prediction: Prediction) -> bool:
        import cv2

        cv2.imshow(self.TITLE, self._output.picture(prediction))
        return (cv2.waitKey(1000 if prediction.frame is None else 1) & 0xFF) not in (ord("q"), 27)

    def close(self) -> None:
        import cv2

        cv2.destroyWindow(self.TITLE)
