"""A tar archive of images with masks, written out as the folders that it holds."""

import tarfile
from pathlib import Path, PurePosixPath

from calib.errors import InputError
from calib.image_array import UNKNOWN
from calib.images import class_names_in
from calib.masks import CLASS_FILE, MaskedSplit, read_masked_split
from pipeline.console.figures import one_line
from pipeline.console.progress import track

UNREADABLE = (tarfile.TarError, EOFError, OSError, ValueError)  # what tarfile raises
_BLOCK = 512  # bytes: a tar ends with two blocks of zeros (POSIX.1-1988, ustar)


def write_out(archive: Path, folder: Path, root: Path) -> None:
    """Write the files of `archive` below the new `folder`, which will be `root`; InputError where they are no whole data set."""
    with _opened(archive) as tar:
        members = _members(tar, archive)
        for name, member in track([*members.items()], f"writing {root}"):
            content = _read(tar, member, archive)
            target = folder / name
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as file:
                    file.write(content)
            except (
                FileExistsError,
                NotADirectoryError,
            ) as error:  # of names that differ only in case, or that go through a file
                raise _bad_archive(archive, f"two entries for one file: {name}") from error
    try:
        train = read_masked_split(folder, "train")
        read_masked_split(folder, "val", train.classes)
    except InputError as error:
        raise _bad_archive(archive, f"{one_line(error.what)}: {error.got}") from error


def packed_train_split(archive: Path, root: Path) -> MaskedSplit:
    """The train split that `archive` holds, as far as names tell: its paths are none that can be opened."""
    with _opened(archive) as tar:
        members = _members(tar, archive)
        if CLASS_FILE not in members:
            raise _bad_archive(archive, f"no {CLASS_FILE}")
        text = _read(tar, members[CLASS_FILE], archive).decode("utf-8", "replace")
    count = sum(name.startswith("train/images/") for name in members)
    nowhere = ("",) * count
    classes = class_names_in(text, archive / CLASS_FILE, folders=False)
    return MaskedSplit(root / "train", classes, nowhere, (UNKNOWN,) * count, (), nowhere)


def _opened(archive: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(archive, "r:")
    except UNREADABLE as error:
        raise _bad_archive(archive, one_line(str(error))) from error


def _members(tar: tarfile.TarFile, archive: Path) -> dict[str, tarfile.TarInfo]:
    """The files of an archive that is whole, by names that stay below the folder they are written to."""
    members: dict[str, tarfile.TarInfo] = {}
    ends = 0
    try:
        for member in tar:
            name, ends = _checked(member, archive), _end(member)
            if name is not None and members.setdefault(name, member) is not member:
                raise _bad_archive(archive, f"two entries for one file: {name}")
    except UNREADABLE as error:
        raise _bad_archive(archive, one_line(str(error))) from error
    with archive.open("rb") as file:  # a damaged head, or a file that was cut, would otherwise look like the end
        file.seek(ends)
        rest = file.read()
    if len(rest) < 2 * _BLOCK or rest.strip(b"\0"):
        raise _bad_archive(archive, "cut off or changed")
    return members


def _checked(member: tarfile.TarInfo, archive: Path) -> str | None:
    """The name of a file; None of a folder. InputError for anything else, and for names that lead elsewhere."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or set(member.name) & set("\\\0"):
        raise _bad_archive(archive, f"a name that leads out of its folder: {member.name!r}")
    if member.isdir():
        return None
    if not member.isreg():
        raise _bad_archive(archive, f"a link or device: {member.name!r}")
    return str(path)


def _end(member: tarfile.TarInfo) -> int:
    """Where the blocks of an entry end."""
    return member.offset_data + (-(-member.size // _BLOCK) * _BLOCK if member.isreg() else 0)


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo, archive: Path) -> bytes:
    file = tar.extractfile(member)
    assert file is not None, "a file, as _checked has seen"
    try:
        return file.read()
    except UNREADABLE as error:
        raise _bad_archive(archive, f"{member.name}: {one_line(str(error))}") from error


def _bad_archive(archive: Path, got: str) -> InputError:
    return InputError(
        f"the image archive {archive} cannot be used", got=got,
        allowed=f"a plain tar of {CLASS_FILE} and {{train,val}}/{{images/*.jpg|png,masks/*.png}}, files alone",
        next_step=f"restore it (git checkout -- '{archive}'), or make it again (data/README.md)",
    )  # fmt: skip
