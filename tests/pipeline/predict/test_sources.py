"""Sources of prediction on real files: folders, globs, whole and broken videos, network cameras."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from pipeline_cameras import NetworkCamera

from calib.errors import InputError
from pipeline.predict.sources import ImageFiles, Video, open_sources, read_frame, shown


def only(path: object) -> Video:
    (source,) = open_sources([str(path)])
    assert isinstance(source, Video)
    return source


def damaged(video: Path, path: Path, *numbers: int) -> Path:
    """A copy whose frames `numbers` hold zeros instead of JPEG data."""
    data = bytearray(video.read_bytes())
    chunks = [match.start() for match in re.finditer(rb"00dc....\xff\xd8", data, re.DOTALL)]
    assert len(chunks) == 40
    for number in numbers:
        size = int.from_bytes(data[chunks[number] + 4 : chunks[number] + 8], "little")
        data[chunks[number] + 8 : chunks[number] + 8 + size] = bytes(size)
    path.write_bytes(data)
    return path


def test_a_video_gives_every_frame_with_its_time(video: Path, frames: np.ndarray) -> None:
    source = only(video)
    assert (source.count, source.live, source.fps, source.target) == (40, False, 20.0, "clip.avi")
    found = list(source.frames())
    assert [frame.index for frame in found] == list(range(40))
    assert [frame.seconds for frame in found] == pytest.approx([index / 20 for index in range(40)])
    for frame, written in zip(found, frames, strict=True):  # JPEG is lossy; the next frame is another picture
        assert np.abs(read_frame(frame).astype(int) - written[..., ::-1]).mean() < 6
    source.close()


@pytest.mark.parametrize("numbers", [(0,), (17,), (5, 6, 7), (39,)])
def test_a_damaged_frame_is_told_and_the_rest_go_on(video: Path, tmp_path: Path, numbers: tuple[int, ...]) -> None:
    found = list(only(damaged(video, tmp_path / "damaged.avi", *numbers)).frames())
    assert [frame.index for frame in found] == list(range(40))
    problems = {frame.index: frame.problem for frame in found if frame.problem}
    last = numbers == (39,)
    assert problems == dict.fromkeys(
        numbers, "the video is cut off: it has 39 of 40 frames" if last else "this frame cannot be decoded"
    )


def test_a_truncated_video_gives_what_it_has_and_says_so(video: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.avi"
    path.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    *good, last = only(path).frames()
    assert 10 < len(good) < 30 and all(frame.problem is None for frame in good)
    assert last.problem == f"the video is cut off: it has {len(good)} of 40 frames"


@pytest.mark.parametrize("number", [None, 19, 20])
def test_frames_behind_the_number_that_the_container_is_estimated_to_have(
    video: Path, tmp_path: Path, number: int | None
) -> None:
    source = only(video if number is None else damaged(video, tmp_path / "damaged.avi", number))
    source.count = 20  # as FFmpeg's estimate may be
    found = list(source.frames())
    assert [frame.index for frame in found] == list(range(40))
    assert [frame.index for frame in found if frame.problem] == ([] if number is None else [number])


def test_a_container_without_a_number_of_frames_gives_all_of_them(frames: np.ndarray, tmp_path: Path) -> None:
    """FFmpeg divides the length of an .mpg by its rate, which is a frame or two off."""
    path = tmp_path / "clip.mpg"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"PIM1"), 20.0, (160, 120))
    for frame in frames:
        writer.write(frame)
    writer.release()
    found = list(only(path).frames())
    assert len(found) == 40 and not [frame.problem for frame in found if frame.problem]


def test_a_folder_to_any_depth_a_glob_and_a_file(
    image_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder,) = open_sources([image_root / "val"])
    assert isinstance(folder, ImageFiles) and len(folder.files) == 30
    assert [target for _, target in folder.files][:2] == ["class_0/000.png", "class_0/001.png"]
    monkeypatch.chdir(image_root)
    for pattern in ("val/*/00[12].png", "val/**/00[12].png", str(image_root / "val" / "*" / "00[12].png")):
        (globbed,) = open_sources([pattern])
        assert isinstance(globbed, ImageFiles)
        targets = [target for _, target in globbed.files]
        assert targets == ["001.png", "002.png", "001-2.png", "002-2.png", "001-3.png", "002-3.png"], pattern


def test_a_glob_of_images_and_videos_keeps_the_order(video: Path, tmp_path: Path) -> None:
    picture = np.zeros((20, 20, 3), np.uint8)
    for name in ("a.png", "c.png"):
        cv2.imwrite(str(tmp_path / name), picture)
    (tmp_path / "b.avi").write_bytes(video.read_bytes())
    (tmp_path / "notes.txt").write_text("not an image")
    found = [frame.target for source in open_sources([str(tmp_path / "*")]) for frame in source.frames()]
    assert found == ["a.png"] + ["b.avi"] * 40 + ["c.png"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("nowhere", "no such image, folder or video"),
        ("{tmp}", "this folder has no images"),
        ("{tmp}/*.jpg", "this glob finds no image or video"),
        ("{tmp}/empty.avi", "this video cannot be opened"),
        ("{tmp}/head.avi", "this video cannot be opened"),
        ("rtsp://127.0.0.1:1/stream", "this stream cannot be opened"),
        ("97", "this camera cannot be opened"),
        ("99999999999", "this camera cannot be opened"),
        ("²", "no such image, folder or video"),
        ("٣", "no such image, folder or video"),
        ("{tmp}/caf\udce9.avi", "this video cannot be opened\n.*caf\\\\udce9.avi: its name is not UTF-8"),
    ],
)
def test_what_is_not_there_is_told_before_anything_else(
    video: Path, tmp_path: Path, argument: str, message: str
) -> None:
    (tmp_path / "empty.avi").write_bytes(b"")
    (tmp_path / "head.avi").write_bytes(video.read_bytes()[:200])
    (tmp_path / "caf\udce9.avi").write_bytes(video.read_bytes())
    with pytest.raises(InputError, match=message):
        open_sources([video, argument.format(tmp=tmp_path)])


def test_a_network_stream_that_breaks_is_opened_again(frames: np.ndarray) -> None:
    with NetworkCamera(frames, 7, connections=2) as camera:
        found = list(only(camera.url).frames())
    assert [frame.index for frame in found if frame.problem is None] == list(range(14))
    assert [frame.problem for frame in found if frame.problem] == [
        "the stream broke off; opening it again", "the stream broke off; opening it again", "this stream cannot be opened",
    ]  # fmt: skip


def test_passwords_are_not_printed() -> None:
    assert shown("rtsp://admin:secret@10.0.0.2:554/live") == "rtsp://admin:***@10.0.0.2:554/live"
    assert shown("rtsp://10.0.0.2:554/live") == "rtsp://10.0.0.2:554/live"
    assert shown("a:b@c.jpg") == "a:b@c.jpg"
    with pytest.raises(InputError) as caught:
        open_sources(["rtsp://admin:secret@127.0.0.1:1/live"])
    assert "secret" not in str(caught.value) and "admin:***@127.0.0.1" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("photo", "photo.png"), ("photo.heic", "photo.heic.png"), ("photo.TIF", "photo.TIF"), ("photo.jpg", "photo.jpg"),
        ("photo.\udce9", "photo.\udce9.png"),
    ],
)  # fmt: skip
def test_a_copy_is_named_in_a_format_that_opencv_writes(tmp_path: Path, name: str, target: str) -> None:
    (tmp_path / name).write_bytes(b"image")
    (tmp_path / target).write_bytes(b"image")
    first, second = open_sources([tmp_path / name, tmp_path / target])
    assert first.targets == (target,)
    assert second.targets == (target.replace(".", "-2.") if target.count(".") == 1 else target[:-4] + "-2.png",)
