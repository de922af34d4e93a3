"""Versions of installed distributions."""

from importlib import metadata


def installed_versions(names: tuple[str, ...]) -> dict[str, str | None]:
    """Installed versions of distributions, None for those not installed."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found
