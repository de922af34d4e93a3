"""Arrays in an npz, written and read a few rows at a time, so that a set larger than memory goes through."""

import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

# What reading a damaged npz raises; a caller turns it into a message.
UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class StoredArray:
    """One array of an npz: its header, and its rows on demand."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0]

    def chunks(self, rows: int) -> Iterator[NDArray[Any]]:
        """All rows in order, `rows` at a time; what is left at the end is a smaller chunk. Raises one of `UNREADABLE`."""
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{self.name}.npy") as file:
            _read_header(file)
            for start in range(0, len(self), rows):
                yield self._fill(file, min(rows, len(self) - start))
            if file.read(1):  # reads to the end, where zipfile compares the checksum
                raise ValueError(f"{self.name} is longer than its header says")

    def read(self) -> NDArray[Any]:
        """The whole array."""
        return next(self.chunks(max(1, len(self))))

    def _fill(self, file: IO[bytes], rows: int) -> NDArray[Any]:
        chunk: NDArray[Any] = np.empty((rows, *self.shape[1:]), dtype=self.dtype)
        view, filled = chunk.reshape(-1).view(np.uint8).data, 0
        while filled < len(view):
            piece = file.read(min(len(view) - filled, 1 << 20))
            if not piece:
                raise EOFError(f"{self.name} ends after {filled} of {len(view)} bytes")
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
        return chunk


def open_array(path: Path, name: str) -> StoredArray:
    """Read the header of array `name`; raises one of `UNREADABLE`, KeyError where there is none of that name."""
    with zipfile.ZipFile(path) as archive:
        if f"{name}.npy" not in archive.namelist():
            raise KeyError(f"no array {name}; there is {[entry.removesuffix('.npy') for entry in archive.namelist()]}")
        with archive.open(f"{name}.npy") as file:
            shape, fortran, dtype = _read_header(file)
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects, which are never loaded")
    if fortran and len(shape) > 1:
        raise ValueError(f"{name} is stored column by column: save np.ascontiguousarray({name})")
    if not shape:
        raise ValueError(f"{name} is a single value")
    return StoredArray(path, name, shape, dtype)


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def write_npz(
    path: Path,
    small: Mapping[str, NDArray[Any]],
    name: str,
    shape: Sequence[int],
    chunks: Iterable[NDArray[np.uint8]],
) -> None:
    """Write `small` and a uint8 array `name` of `shape`, given chunk by chunk, to `path`, whole or not at all.

    Not compressed: photographs shrink little, and every pass of a calibrator reads the file. The same content is the
    same bytes. ValueError where the chunks are not of that shape.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for key, array in small.items():
                with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w") as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
                np.lib.format.write_array_header_1_0(file, header)
                _write_rows(file, name, tuple(shape), chunks)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _write_rows(file: IO[bytes], name: str, shape: tuple[int, ...], chunks: Iterable[NDArray[np.uint8]]) -> None:
    rows = 0
    for chunk in chunks:
        if chunk.dtype != np.uint8 or chunk.shape[1:] != shape[1:]:
            raise ValueError(f"{name}: a chunk is {chunk.dtype} {chunk.shape}, wanted uint8 (n, {shape[1:]})")
        file.write(np.ascontiguousarray(chunk).reshape(-1).data)
        rows += len(chunk)
    if rows != shape[0]:
        raise ValueError(f"{name}: {rows} rows were written, the header says {shape[0]}")
