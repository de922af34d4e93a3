"""Files are known by content: what was read once is not read again, and neither place nor time makes a file another one."""

import fcntl
import os
import shutil
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from calib.errors import InputError
from calib.images import read_split
from calib.preprocess import read_bytes
from pipeline.data import content
from pipeline.data.content import Contents, read_contents


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, for which files that were written just now are settled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(content, "_SETTLED_NS", 0)
    return tmp_path / "cache" / "t2t-edge" / "images"


@pytest.fixture
def root(image_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(image_root, tmp_path / "images")) / "val"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read from now on."""
    found: list[Path] = []

    def noted(path: Path) -> np.ndarray:
        found.append(path)
        return read_bytes(path)

    monkeypatch.setattr(content, "read_bytes", noted)
    return found


def look(root: Path, *, decode: bool = False) -> Contents:
    return read_contents(root, read_split(root.parent, root.name).names, decode=decode, title="looking")


def test_a_second_look_reads_nothing(root: Path, opened: list[Path]) -> None:
    first = look(root)
    assert len(opened) == len(first.names) == 30
    opened.clear()
    assert look(root).digest == first.digest and not opened
    assert look(root, decode=True).damaged == () and len(opened) == 30, "none was decoded yet"
    opened.clear()
    assert look(root, decode=True).digest == look(root).digest == first.digest and not opened
    os.utime(root / "class_0" / "000.png")
    assert look(root).digest == first.digest and opened == [root / "class_0" / "000.png"]


def test_moved_copied_and_touched_is_the_same(root: Path, tmp_path: Path) -> None:
    before = look(root).digest
    copy = Path(shutil.copytree(root.parent, tmp_path / "copy", copy_function=shutil.copyfile)) / "val"
    assert look(copy).digest == before
    moved = root.parent.rename(tmp_path / "moved") / "val"
    assert look(moved).digest == before


def test_a_pixel_a_name_or_an_image_more_is_another(root: Path) -> None:
    photo = root / "class_1" / "003.png"
    digests = [look(root).digest]
    pixels = cv2.imread(str(photo))
    pixels[5, 5] ^= 1
    cv2.imwrite(str(photo), pixels)
    digests.append(look(root).digest)
    photo.rename(photo.with_name("300.png"))
    digests.append(look(root).digest)
    shutil.copy(root / "class_2" / "000.png", photo)
    digests.append(look(root).digest)
    (root / "class_1" / "300.png").unlink()
    digests.append(look(root).digest)
    assert len(set(digests)) == 5


def test_another_file_of_the_same_size_and_time_is_seen(root: Path) -> None:
    """As `rsync --times` or unpacking with times leaves it: the system's own time of the change tells."""
    photo = root / "class_1" / "003.png"
    stat, data = photo.stat(), bytearray(photo.read_bytes())
    before = look(root).digest
    data[-20] ^= 1
    photo.write_bytes(data)
    os.utime(photo, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (photo.stat().st_size, photo.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert look(root).digest != before


def test_a_file_that_may_still_change_within_its_time_stamp_is_read_again(
    root: Path, opened: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "_SETTLED_NS", 10**18)
    first = look(root)
    opened.clear()
    assert look(root).digest == first.digest and len(opened) == 30


def test_a_file_dated_in_the_future_is_read_once(
    root: Path, opened: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a camera with a wrong clock dates it: all looks would read it."""
    later = time.time() + 10**9
    for path in root.rglob("*.png"):
        os.utime(path, (later, later))
    monkeypatch.setattr(content, "_SETTLED_NS", -1)
    first = look(root)
    opened.clear()
    assert look(root).digest == first.digest and not opened


def test_who_waits_for_another_process_says_so(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first look at a large data set takes minutes, and a second command shows no bar meanwhile."""
    look(root)
    (place,) = cache.glob("*.npy")
    place.unlink()
    monkeypatch.setattr(content, "_SILENT_SECONDS", 0)
    with place.with_suffix(".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        threading.Timer(0.3, lambda: fcntl.flock(other, fcntl.LOCK_UN)).start()
        assert len(look(root).names) == 30
    assert "waiting: another process is looking" in capsys.readouterr().out


def test_damaged_images_are_found_by_decoding(root: Path, opened: list[Path]) -> None:
    whole = (root / "class_2" / "001.png").read_bytes()
    (root / "class_2" / "001.png").write_bytes(whole[: len(whole) // 2])
    (root / "class_0" / "009.png").write_bytes(b"")
    assert look(root).damaged == ()
    assert look(root, decode=True).damaged == ("class_0/009.png", "class_2/001.png")
    opened.clear()
    assert look(root, decode=True).damaged == ("class_0/009.png", "class_2/001.png") and not opened
    (root / "class_2" / "001.png").write_bytes(whole)
    assert look(root, decode=True).damaged == ("class_0/009.png",)


@pytest.mark.parametrize("broken", [b"", b"no array", "another array"])
def test_a_broken_cache_is_made_again(root: Path, cache: Path, opened: list[Path], broken: bytes | str) -> None:
    first = look(root)
    (place,) = cache.glob("*.npy")
    if isinstance(broken, bytes):
        place.write_bytes(broken)
    else:
        np.save(place, np.zeros(7))
    opened.clear()
    assert look(root).digest == first.digest and len(opened) == 30
    opened.clear()
    assert look(root).digest == first.digest and not opened


def test_without_a_cache_all_is_read_each_time(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[Path]
) -> None:
    monkeypatch.setattr(content, "_CHUNK", 1)
    noted = content.read_bytes

    def interrupted(path: Path) -> np.ndarray:
        if len(opened) >= 12:
            raise KeyboardInterrupt
        return noted(path)

    with monkeypatch.context() as patch:
        patch.setattr(content, "read_bytes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            look(root)
    read = set(opened)
    opened.clear()
    assert len(look(root).names) == 30
    assert len(read) >= 12 and not read & set(opened) and len(opened) == 30 - len(read)


def test_a_user_without_a_home_has_no_cache(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, opened: list[Path]
) -> None:
    """As in a container that runs as a number which no passwd file names."""

    def no_home(*_: object, **__: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("platformdirs.user_cache_path", no_home)
    assert look(root).digest == look(root).digest and len(opened) == 60


def test_a_file_that_cannot_be_read_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> np.ndarray:
        raise InputError("this image cannot be decoded") from PermissionError(13, "Permission denied")

    monkeypatch.setattr(content, "read_bytes", refused)
    with pytest.raises(InputError, match=r"(?s)an image cannot be read.*val/class_0/\d+.png: Permission denied"):
        look(root)
    names = read_split(root.parent, "val").names
    (root / names[0]).unlink()
    with pytest.raises(InputError, match=r"(?s)an image cannot be read.*class_0/000.png: No such file"):
        read_contents(root, names, decode=False, title="looking")


def test_two_processes_read_the_files_once(root: Path, tmp_path: Path) -> None:
    """As torchrun's do: the second waits for the first, and finds what it noted."""
    pids = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            read: list[str] = []

            def noted(path: Path, read: list[str] = read) -> np.ndarray:
                read.append(str(path))
                return read_bytes(path)

            content.read_bytes = noted
            digest = look(root).digest
            (tmp_path / f"{os.getpid()}.txt").write_text("\n".join([digest, *read]))
            os._exit(0)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
    (one, *first), (two, *second) = ((tmp_path / f"{pid}.txt").read_text().splitlines() for pid in pids)
    assert one == two and sorted(first + second) == sorted(
        str(root / name) for name in read_split(root.parent, "val").names
    )
