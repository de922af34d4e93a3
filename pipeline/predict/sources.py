"""Sources of images to predict: files, folders, globs, videos, cameras and network streams, one frame at a time."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.errors import InputError
from calib.images import escaped, is_utf8
from calib.preprocess import IMAGE_SUFFIXES, Image, load_image

VIDEO_SUFFIXES = (".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".ts")
ALLOWED = (
    "an image, a folder, a glob in quotes ('photos/*.jpg'), a video file, a camera's number (0) or a URL (rtsp://…)"
)
DEFAULT_FPS = 25.0  # of a stream that does not report its rate
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_TIMEOUT_MS = 5000  # to open a network stream, and to wait for its next frame
_BAD_IN_A_ROW = 30  # so many unreadable frames in a row are taken as a video's end


@dataclass(frozen=True)
class Frame:
    """One image to predict: a file still to be decoded, a decoded BGR frame (H, W, 3), or a problem in its place.

    `index` counts a video's frames from 0, unreadable ones included; `seconds` is its time in the video. `target` is the
    name of its annotated copy, relative to the folder of the copies. A `live` frame comes from a source that does not wait,
    so it may be dropped while the engine is busy; a problem is never dropped.
    """

    source: str
    target: str
    path: Path | None = None
    pixels: NDArray[np.uint8] | None = None
    index: int | None = None
    seconds: float | None = None
    problem: str | None = None
    live: bool = False


def read_frame(frame: Frame) -> Image:
    """RGB uint8 (H, W, 3) of a frame without a problem; InputError where its file cannot be decoded."""
    if frame.path is not None:
        return load_image(frame.path)
    import cv2

    assert frame.pixels is not None
    return np.asarray(cv2.cvtColor(frame.pixels, cv2.COLOR_BGR2RGB), dtype=np.uint8)


@dataclass(frozen=True)
class ImageFiles:
    """Image files and the names of their annotated copies."""

    files: tuple[tuple[Path, str], ...]
    live = False
    fps = None

    @property
    def originals(self) -> tuple[Path, ...]:
        """The files that are read."""
        return tuple(path for path, _ in self.files)

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of their annotated copies, relative to the folder of the copies."""
        return tuple(target for _, target in self.files)

    def frames(self) -> Iterator[Frame]:
        """One per file, not yet decoded."""
        for path, target in self.files:
            yield Frame(str(path), target, path=path)

    def close(self) -> None:
        """Nothing is held open."""


class Video:
    """A video file, a camera or a network stream. It is opened here, so that an error comes before the first prediction."""

    def __init__(self, name: str, target: str):
        self.name, self.target, self.shown = name, target, shown(name)
        self._capture = _open(name)
        import cv2

        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.count = int(count) if 0 < count < 1e9 else None  # streams report meaningless counts
        self.live = _is_camera(name) or (self.count is None and _URL.match(name) is not None)
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = float(fps) if 1 <= fps <= 1000 else DEFAULT_FPS
        self.originals = () if _is_camera(name) or _URL.match(name) else (Path(name),)
        self.targets = (target,)

    def frames(self) -> Iterator[Frame]:
        """Every frame in order; an unreadable one is a frame with a problem. A network stream that breaks off is reopened."""
        index = 0
        while True:
            before = index
            for frame in self._until_end(index):
                index = (frame.index or 0) + 1
                yield frame
            if not self.live or _is_camera(self.name) or index == before:
                break
            yield self._problem(index, "the stream broke off; opening it again")
            try:
                self._capture = _open(self.name)
            except InputError as error:
                yield self._problem(index, error.what)
                return
        if self.live:
            yield self._problem(index, "no more frames come from it")
        elif index == 0:
            yield self._problem(index, "no frame of it can be read")
        elif self.count is not None and index < self.count:
            yield self._problem(index, f"the video is cut off: it has {index} of {self.count} frames")

    def close(self) -> None:
        """Close the file, camera or connection."""
        self._capture.release()

    def _until_end(self, index: int) -> Iterator[Frame]:
        """Frames from number `index` on.

        FFmpeg gives the same answer for a damaged frame and for the end; only a later frame that can be read tells them
        apart. `count` does not: FFmpeg estimates it for containers without one (mpg), and there may be more frames.
        """
        import cv2

        failed = 0
        while failed < _BAD_IN_A_ROW:
            good, pixels = self._capture.read()
            if not good:
                if self.live:
                    return
                failed += 1
                continue
            for damaged in range(index, index + failed):
                yield self._problem(damaged, "this frame cannot be decoded")
            index, failed = index + failed, 0
            seconds = None if self.live else self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
            yield Frame(self.shown, self.target, pixels=pixels, index=index, seconds=seconds, live=self.live)
            index += 1

    def _problem(self, index: int, text: str) -> Frame:
        return Frame(self.shown, self.target, index=index, problem=text)


Source = ImageFiles | Video


def open_sources(arguments: Sequence[str | os.PathLike[str]]) -> list[Source]:
    """Open the sources of a command line, in order; InputError for the first that does not exist or cannot be opened."""
    sources: list[Source] = []
    taken: set[str] = set()
    try:
        for argument in [os.fspath(argument) for argument in arguments]:
            if _is_camera(argument) or _URL.match(argument) or _is_video(Path(argument)):
                sources.append(_video(argument, taken))
                continue
            images: list[tuple[Path, str]] = []
            for path, target in _find_files(argument):
                if _is_video(path):
                    sources += [ImageFiles(tuple(images)), _video(str(path), taken)]
                    images = []
                else:
                    images.append((path, unused(_writable(target), taken)))
            sources.append(ImageFiles(tuple(images)))
    except InputError:
        for source in sources:
            source.close()
        raise
    return sources


def _find_files(argument: str) -> list[tuple[Path, str]]:
    """The files of a path, a folder (images at any depth) or a glob, with names for their annotated copies."""
    path = Path(argument)
    if path.is_dir():
        found = sorted(entry for entry in path.rglob("*") if entry.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise InputError("this folder has no images", got=path, allowed=", ".join(IMAGE_SUFFIXES))
        return [(entry, entry.relative_to(path).as_posix()) for entry in found]
    if path.is_file():
        return [(path, path.name)]
    if re.search(r"[*?[]", argument):
        matches = sorted(Path("/").glob(argument.lstrip("/")) if path.is_absolute() else Path().glob(argument))
        kept = [match for match in matches if match.suffix.lower() in IMAGE_SUFFIXES or _is_video(match)]
        if not kept:
            raise InputError(
                "this glob finds no image or video", got=argument,
                allowed=", ".join(IMAGE_SUFFIXES + VIDEO_SUFFIXES), next_step=f"ls {argument}",
            )  # fmt: skip
        return [(match, match.name) for match in kept]
    raise InputError("no such image, folder or video", got=argument, allowed=ALLOWED, next_step="check the path")


def _is_camera(name: str) -> bool:
    """Whether a source is a camera's number. Not `isdigit`, which is true for ² as well."""
    return re.fullmatch("[0-9]+", name) is not None


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()


def _video(name: str, taken: set[str]) -> Video:
    return Video(name, unused(f"{_plain_name(name)}.avi", taken))


def unused(target: str, taken: set[str]) -> str:
    """`target`, with -2, -3 … after its stem where an earlier image has that name."""
    path, name, number = Path(target), target, 2
    while name in taken:
        name, number = path.with_name(f"{path.stem}-{number}{path.suffix}").as_posix(), number + 1
    taken.add(name)
    return name


def _writable(target: str) -> str:
    """`target`, with .png after it where OpenCV cannot write the format of its suffix."""
    return target if _writes(Path(target).suffix) else f"{target}.png"


@cache
def _writes(suffix: str) -> bool:
    import cv2

    return is_utf8(suffix) and bool(cv2.haveImageWriter(f"image{suffix}"))


def _plain_name(name: str) -> str:
    """A file name for a video's annotated copy, without folder, suffix, user, password and query."""
    if _is_camera(name):
        return f"camera-{name}"
    if not _URL.match(name):
        return Path(name).stem
    address = re.split(r"[?#]", _URL.sub("", name).rpartition("@")[2])[0]
    return re.sub(r"[^A-Za-z0-9.-]+", "-", address).strip("-.") or "stream"


def shown(name: str) -> str:
    """A source's name for messages, with the password of a URL replaced."""
    return re.sub(r"(?<=://)([^/@:]*):[^/@]*@", r"\1:***@", name)


def _open_camera(name: str) -> Any:
    import cv2

    try:
        return cv2.VideoCapture(int(name))
    except cv2.error:  # a number that no camera can have
        return cv2.VideoCapture()


def _open(name: str) -> Any:
    """An open capture. InputError, within seconds, where it cannot be opened."""
    import cv2

    # OpenCV and FFmpeg print their own messages about broken frames; ours is one line for each
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    if not is_utf8(name):  # with such a name OpenCV ends the program, without an exception
        raise InputError(
            "this video cannot be opened", got=f"{escaped(name)}: its name is not UTF-8", allowed="names in UTF-8",
            next_step="rename it",
        )  # fmt: skip
    ffmpeg = cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG)
    if _is_camera(name):
        capture = _open_camera(name)
    elif ffmpeg and _URL.match(name):
        timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT_MS]
        capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG, timeouts)
    else:
        capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG if ffmpeg else cv2.CAP_ANY)
    if capture.isOpened():
        return capture
    if _is_camera(name):
        raise InputError(
            "this camera cannot be opened", got=f"camera {name}", allowed="the number of /dev/video<number>",
            next_step="ls -l /dev/video*; another program may hold it, or your user is not in the group video",
        )  # fmt: skip
    if _URL.match(name):
        raise InputError(
            "this stream cannot be opened", got=f"{shown(name)}: no answer within {_TIMEOUT_MS // 1000} s, or no video",
            allowed="a stream that FFmpeg reads", next_step="check address, user, password and the network to the camera",
        )  # fmt: skip
    raise InputError(
        "this video cannot be opened", got=name, allowed="a whole file in a format that OpenCV's FFmpeg reads",
        next_step="copy it again, or convert it: ffmpeg -i VIDEO -c:v mjpeg converted.avi",
    )  # fmt: skip
