"""What a command says of a recipe's images before it uses them: what is left out, and which classes cannot be evaluated."""

from collections.abc import Sequence

from calib.images import ImageSplit
from pipeline.console.figures import counted, first_names, without_images


def remarks(train: ImageSplit, val: ImageSplit) -> list[str]:
    """A line for each thing that a person should know of these images."""
    left_out = [f"{split.root}/{name}" for split in (train, val) for name in split.left_out]
    lines = [left_out_line(left_out)] if left_out else []
    if not len(train):
        lines.append(
            f"no images in {train.root}: nothing is trained, and calibration draws from calibrate.source or {val.root}"
        )
    if missing := val.without_images():
        lines.append(f"warning: {without_images(missing, len(val.classes))}")
    return lines


def left_out_line(names: Sequence[str]) -> str:
    """Names the folders that are left out, and says how many single files are."""
    folders, files = [name for name in names if name.endswith("/")], [name for name in names if not name.endswith("/")]
    shown = first_names(folders)
    if files:
        shown += f"{' and ' if folders else ''}{counted(len(files), 'file')} such as {files[0]}"
    return f"left out (made by the system or a notebook): {shown}"
