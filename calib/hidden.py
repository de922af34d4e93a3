"""What operating systems, file servers and notebooks leave among images: it is no class and no image."""

from pathlib import Path

# macOS's archives, Synology's and QNAP's thumbnails and bins, Windows' and ext4's folders; names that begin with a dot beside
_LEFT_BEHIND = frozenset(
    ("__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "system volume information", "lost+found", "thumbs.db")
)  # fmt: skip


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is left out."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def hidden_part(path: Path) -> str | None:
    """The first part of a relative path that is left out, with what is before it; None where no part is.

    A folder ends with a slash: `bag/@eaDir/` of `bag/@eaDir/photo.jpg/THUMB_M.jpg`.
    """
    for index, name in enumerate(path.parts, 1):
        if is_hidden(name):
            return "/".join(path.parts[:index]) + ("/" if index < len(path.parts) else "")
    return None
