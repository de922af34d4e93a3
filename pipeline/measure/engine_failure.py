"""An engine that fails gets its reason into the report; the other engines are still evaluated and measured."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from calib.errors import InputError
from export.runner import Runner, Unavailable
from pipeline.console.figures import one_line


@dataclass(frozen=True)
class NotRun:
    """Why an engine has no results: `status` is the report's, "unavailable" or "error"; `reason` is one line."""

    status: str
    reason: str


Missing = dict[str, NotRun]  # by engine


@contextmanager
def noted(name: str, missing: Missing | None) -> Iterator[None]:
    """Record an error of the engine `name` in `missing`, its first error only; where `missing` is None, raise it."""
    try:
        yield
    except Unavailable as reason:
        if missing is None:
            raise
        missing.setdefault(name, NotRun("unavailable", str(reason)))
    except (RuntimeError, InputError) as error:  # out of memory, a plan that is refused, a file that was changed
        if missing is None:
            raise
        missing.setdefault(name, NotRun("error", one_line(str(error))))


def close_engine(name: str, runner: Runner, missing: Missing) -> None:
    """Free an engine. After a CUDA error every later CUDA call fails, so freeing the other engines may fail too."""
    with noted(name, missing):
        runner.__exit__(None, None, None)
