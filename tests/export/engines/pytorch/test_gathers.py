"""Gathers of evenly spaced indices as slices: the same numbers, and only where the indices are so."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from export.engines.pytorch.gathers import even_runs, slice_gathers


class Gather(nn.Module):
    def __init__(self, index: np.ndarray, axis: int = 1):
        super().__init__()
        self.register_buffer("index", torch.from_numpy(index))
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        return torch.index_select(x, self.axis, self.index)  # type: ignore[arg-type]


def even(*runs: tuple[int, int], first: int = 0) -> np.ndarray:
    index = np.full(1, first, np.int64)
    for count, step in runs:
        index = (index[:, None] + step * np.arange(count)).reshape(-1)
    return index


@pytest.mark.parametrize(
    ("index", "runs"),
    [
        (even((4, 20), (5, 2), (3, 1)), [(4, 20), (5, 2), (3, 1)]),
        (even((3, 16), (3, 2), (2, 8), (2, 1)), [(3, 16), (3, 2), (2, 8), (2, 1)]),
        (even((3, 7), (2, 1), first=4), [(3, 7), (2, 1)]),
        (even((6, 1)), None), (np.array([3, 1, 2]), None), (np.array([0, 1, 3, 4, 9, 10, 11]), None),
        (np.array([0, 1, 4, 5, 9, 10]), None), (np.zeros(4, np.int64), None),
    ],
)  # fmt: skip
def test_even_runs_are_found(index: np.ndarray, runs: list[tuple[int, int]] | None) -> None:
    assert even_runs(index) == runs


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize(
    ("index", "done"),
    [
        (even((4, 20), (5, 2), (3, 1)), 1), (even((3, 14), (3, 2), (2, 7), (2, 1), first=3), 1), (even((5, 9), (4, 2)), 1),
        (np.array([3, 1, 2]), 0), (even((5, 1)), 0),
    ],
)  # fmt: skip
def test_a_gather_is_sliced(index: np.ndarray, done: int, free: bool) -> None:
    x = torch.randn(2, 90, 6)
    shapes = ({0: torch.export.Dim("batch", min=1)},) if free else None
    program = torch.export.export(Gather(index), (x,), dynamic_shapes=shapes, strict=False)
    assert slice_gathers(program) == done
    np.testing.assert_array_equal(program.module()(x).numpy(), x[:, index].numpy())
    left = [node for node in program.graph.nodes if node.target is torch.ops.aten.index_select.default]
    assert len(left) == 1 - done


def test_other_axes_stay() -> None:
    program = torch.export.export(Gather(even((2, 3), (2, 1)), axis=2), (torch.randn(2, 4, 6),), strict=False)
    assert slice_gathers(program) == 0
