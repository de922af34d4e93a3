"""The models table: counts against counts by hand, and docs/models.md against what the commands print."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import timm
import torch
from bench.model_costs import family_row, on_meta, resnet_row, vit_lines
from literal import literal
from torch import nn

from models.backbone import Attention
from models.zoo import BASELINES, FAMILY, SEGMENTATION
from pipeline.cli import main
from pipeline.commands.model_table import DIFFERS, HEAD, ROWS, count_cost, differs, text_table, timm_cost
from pipeline.console.exit_status import DONE

pytestmark = pytest.mark.slow

DOC = (Path(__file__).parents[3] / "docs" / "models.md").read_text(encoding="utf-8")
TOKENS_1, TOKENS_2, PATCHES = 56**2, 28**2, 14**2  # of a 224 px image after each soft split


@pytest.fixture(scope="module")
def printed() -> str:
    """What `t2t-edge models --markdown` prints."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert main(["models", "--markdown"]) == DONE
    return output.getvalue()


def test_the_doc_holds_what_the_command_prints(printed: str) -> None:
    held = DOC.partition("<!-- t2t-edge models --markdown -->\n")[2].partition("<!-- end -->")[0]
    assert held == printed, "python -m pipeline models --markdown, between the markers of docs/models.md"


def test_every_number_that_differs_is_explained(printed: str) -> None:
    marked = {row.split(" | ")[0].strip("| ") for row in printed.splitlines() if DIFFERS in row}
    explanation = DOC.partition("## Where ours differ")[2]
    assert len(marked) > 10 and not {name for name in marked if f"`{name}`" not in explanation}


def test_every_model_of_the_project_has_a_row() -> None:
    names = [row.model for row in ROWS]
    assert sorted(names) == sorted((*FAMILY, *SEGMENTATION, *BASELINES)) and all(timm.is_model(name) for name in names)


class Tokens(nn.Module):
    """Strided, depthwise and pointwise convolution, attention in two heads over 16 tokens, a Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.strided = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pointwise = nn.Conv2d(8, 12, 1)
        self.attention = Attention(12, 2)
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pointwise(self.depthwise(self.strided(x)))  # B 12 4 4
        return self.head(self.attention(x.flatten(2).transpose(1, 2)))


def test_grouped_convolutions_and_attention_are_counted_as_by_hand() -> None:
    convolutions = 16 * 8 * 3 * 9 + 16 * 8 * 9 + 16 * 8 * 12
    attention = 16 * 12 * 36 + 2 * 16 * 16 * 12 + 16 * 12 * 12
    cost = count_cost(Tokens(), 8)
    assert cost.macs == convolutions + attention + 16 * 12 * 5
    assert cost.params == (3 * 9 + 1) * 8 + (9 + 1) * 8 + (8 + 1) * 12 + 12 * 36 + (12 + 1) * 12 + (12 + 1) * 5


def test_a_whole_network_is_counted_as_by_hand() -> None:
    def performer(tokens: int, width: int) -> int:
        kernel = (
            2 * tokens * 64 * 32 + tokens * 32 + 2 * tokens * 64 * 32
        )  # φ(k) and φ(q), the normaliser, two products
        return tokens * width * 192 + kernel + 3 * tokens * 64 * 64  # projection and MLP

    block = 197 * (3 + 1 + 2 * 2) * 256 * 256 + 2 * 197 * 197 * 256
    tokens_to_token = performer(TOKENS_1, 147) + performer(TOKENS_2, 576) + PATCHES * 576 * 256
    expected = tokens_to_token + 7 * block + 256 * 1000
    assert count_cost(literal(on_meta("t2t_vit_7"), backbone=True), 224).macs == expected
    pixel_means = TOKENS_1 * 49 * (49 + 192) + TOKENS_2 * 9 * (
        9 + 192
    )  # what the convolution form adds: docs/soft-split.md
    normaliser = (TOKENS_1 + TOKENS_2) * 32  # ours is no matrix product
    assert timm_cost("t2t_vit_7", 224).macs == expected + pixel_means - normaliser


def test_the_doc_holds_the_other_counts() -> None:
    for line in (family_row("t2t_vit_7"), family_row("t2t_vit_16_ghost"), resnet_row("resnet50"), *vit_lines()):
        assert line in DOC, f"python tests/bench/model_costs.py prints {line!r}"


@pytest.mark.parametrize(
    ("counted", "published", "expected"),
    [(21_545_550, "21.5", False), (1_185_000, "1.1", True), (15_006_000, "15.0", False), (1_569_499, "1.569", False),
     (1_569_600, "1.569", True), (25_156_302, "25.1", True), (4_349_000, "4.4", True)],
)  # fmt: skip
def test_what_does_not_round_to_the_published_number(counted: int, published: str, expected: bool) -> None:
    assert differs(counted, published, 1e6) is expected


def test_columns_line_up_in_a_terminal() -> None:
    cells = [["a", "224", "1.00", "0.100", "–", "–", "–", "–", "–"], ["long_name", "32", "100.00", "10.000", *"bcdef"]]
    lines = text_table(cells).splitlines()
    assert lines[0].split()[:2] == list(HEAD[:2]) and len(lines) == 3
    assert [match.end() for match in re.finditer(r"\.\d+", lines[1])] == [
        match.end() for match in re.finditer(r"\.\d+", lines[2])
    ]
