"""`--json`: one JSON document on stdout, everything else on stderr."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from calib.errors import InputError


@contextmanager
def one_document(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield `options.document`, which the command fills; it is printed at the end where --json was given.

    Commands that print JSON themselves (`predict`: one line for each image) print nothing more.
    """
    options.document = {"command": options.command}
    if not (getattr(options, "one_document", False) and options.json):
        yield options.document
        return
    with redirect_stdout(sys.stderr):
        yield options.document
    print(json.dumps(options.document, indent=1, ensure_ascii=False))


def run_noted(run: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """`run(options)`; an exception is recorded in the document as `error` and raised again."""
    try:
        return run(options)
    except InputError as error:
        options.document["error"] = error_entry(error)
        raise
    except (KeyboardInterrupt, RuntimeError, OSError, SystemError) as error:
        what = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        options.document["error"] = {"what": what, "got": None, "allowed": None, "next": None}
        raise


def error_entry(error: InputError) -> dict[str, str | None]:
    """What a document says of wrong input: `what`, `got`, `allowed`, `next`."""
    got, allowed = (None if value is None else str(value) for value in (error.got, error.allowed))
    return {"what": error.what, "got": got, "allowed": allowed, "next": error.next_step}
