"""The files in the work folder through which the commands of a bundle share results; each is written whole or not at all."""

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calib.errors import InputError
from export.engines.sidecar import Expected
from export.engines.spec import graph_of
from pipeline.artifact import hash_of
from pipeline.device.contents import Bundle

ROWS, EVALUATION_JSON, BENCHMARK_JSON = "build/engines.json", "evaluation.json", "benchmark.json"


@dataclass(frozen=True)
class DeviceState:
    """A bundle and the work folder for its results. `command` is how the user calls the bundle, for messages."""

    bundle: Bundle
    work: Path
    command: str

    def path(self, name: str) -> Path:
        """The path of a file to write in the work folder; its folder is made. InputError where it cannot be written."""
        path = self.work / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno == errno.ENOSPC:  # a full disk has its own message
                raise
            raise self._unwritable(error.strerror) from error
        if not os.access(path.parent, os.W_OK | os.X_OK):  # it existed, and cannot be written now
            raise self._unwritable(f"{path.parent} cannot be written")
        return path

    def _unwritable(self, reason: str | None) -> InputError:
        return InputError(
            "the work folder cannot be written", got=f"{self.work}: {reason}", allowed="a folder on a disk that can be written",
            next_step="give another folder with --work DIR",
        )  # fmt: skip

    def engine(self, name: str) -> Path:
        """The folder of an engine."""
        return self.work / "build" / name

    def rows(self) -> list[dict[str, Any]]:
        """A row for each engine of this bundle, built or not; empty before the first build."""
        built = self._read(ROWS)
        return built["rows"] if built is not None and built["bundle"] == self.bundle.key else []

    def finished_rows(self) -> list[dict[str, Any]]:
        """The rows of a finished build; InputError where there is none."""
        built = self._read(ROWS)
        if built is None or built["bundle"] != self.bundle.key:
            raise self._missing("no engines were built from this bundle", self.work / ROWS, "build")
        missing = set(built["planned"]) - {row["name"] for row in built["rows"]}
        if missing:
            raise self._missing("the build was interrupted", f"not built: {', '.join(sorted(missing))}", "build")
        return list(built["rows"])

    def measured(self, name: str, command: str) -> dict[str, Any]:
        """`evaluation.json` or `benchmark.json` of the present engines; InputError, naming the `command` that writes it,
        where there is none."""
        found = self._read(name)
        if found is None:
            raise self._missing(f"there is no {name}", self.work / name, command)
        if found["engines"] != self.engines_key():
            raise self._missing(f"{name} is of other engines than the present ones", self.work / name, command)
        return found

    def engines_key(self) -> str:
        """A hash of the bundle and of all its engines."""
        return hash_of([self.bundle.key, self.finished_rows()])

    def expected(self, row: dict[str, Any]) -> Expected:
        """What an engine's files must be, and the command that builds it again."""
        return Expected(
            self.bundle.recipe.graphs[graph_of(row["backend"], row["precision"])], self.bundle.spec.sha256(), row["sha256"],
            f"{self.command} build --backend {row['backend']} --engine {row['name']}",
        )  # fmt: skip

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.work / name
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise InputError(
                "a result in the work folder cannot be read", got=f"{path}: {error}", next_step=f"rm '{path}'"
            ) from error
        assert isinstance(values, dict)
        return values

    def _missing(self, what: str, got: object, command: str) -> InputError:
        return InputError(what, got=got, next_step=f"{self.command} {command}")
