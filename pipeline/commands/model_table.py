"""`t2t-edge models`: every network the project ships and those it is compared with, counted, beside what papers print."""

from dataclasses import asdict, dataclass
from typing import Any

import timm
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import models  # noqa: F401  (registers our models with timm)
from models import fpn_resnet
from models.zoo import FAMILY
from pipeline.console.figures import MISSING

T2T, T2T_CODE, VT = "T2T-ViT", "T2T-ViT code", "VT"  # arXiv 2101.11986, its authors' repository, arXiv 2006.03677
DIFFERS = "*"  # after a paper's number that ours does not round to


@dataclass(frozen=True)
class Published:
    """What a paper prints of a network: text, so that its digits are kept. Parameters in M, MACs in G, top-1 in %."""

    name: str
    top1: str
    params: str
    macs: str
    source: str


@dataclass(frozen=True)
class Row:
    """A timm model at an image size (pixels per side), and what was published of the same network."""

    model: str
    published: Published | None
    image_size: int = 224


_PUBLISHED = (
    Row("t2t_vit_14", Published("T2T-ViT-14", "81.5", "21.5", "4.8", f"{T2T}, Table 3")),
    Row("t2t_vit_19", Published("T2T-ViT-19", "81.9", "39.2", "8.5", f"{T2T}, Table 3")),
    Row("t2t_vit_24", Published("T2T-ViT-24", "82.3", "64.1", "13.8", f"{T2T}, Table 3")),
    Row("t2t_vit_t_14", Published("T2T-ViT_t-14", "81.7", "21.5", "6.1", f"{T2T}, Table 3")),
    Row("t2t_vit_t_19", Published("T2T-ViT_t-19", "82.4", "39.2", "9.8", T2T_CODE)),
    Row("t2t_vit_t_24", Published("T2T-ViT_t-24", "82.6", "64.1", "15.0", f"{T2T}, Table 3")),
    Row("t2t_vit_7", Published("T2T-ViT-7", "71.7", "4.3", "1.1", f"{T2T}, Table 4")),
    Row("t2t_vit_10", Published("T2T-ViT-10", "75.2", "5.9", "1.5", T2T_CODE)),
    Row("t2t_vit_12", Published("T2T-ViT-12", "76.5", "6.9", "1.8", f"{T2T}, Table 4")),
    Row("t2t_vit_14_wide", Published("T2T-ViT-Wide", "77.9", "25.1", "5.0", f"{T2T}, Table 6")),
    Row("t2t_vit_dense", Published("T2T-ViT-Dense", "80.6", "23.7", "5.5", f"{T2T}, Table 6")),
    Row("t2t_vit_14_se", Published("T2T-ViT-SE", "81.6", "21.9", "4.9", f"{T2T}, Table 6")),
    Row("t2t_vit_14_resnext", Published("T2T-ViT-ResNeXt", "81.5", "21.5", "4.8", f"{T2T}, Table 6")),
    Row("t2t_vit_16_ghost", Published("T2T-ViT-Ghost", "79.5", "16.3", "3.7", f"{T2T}, Table 6")),
    Row("t2t_vit_mini", None, image_size=32),
    Row("t2t_vit_t_mini", None, image_size=32),
    Row("vt_resnet18", Published("VT-R18", "76.8", "11.7", "1.569", f"{VT}, Table 8")),
    Row("vt_resnet34", Published("VT-R34", "79.9", "19.2", "3.236", f"{VT}, Table 8")),
    Row("vt_resnet50", Published("VT-R50", "80.6", "21.4", "3.412", f"{VT}, Table 8")),
    Row("vt_resnet101", Published("VT-R101", "82.3", "41.5", "7.129", f"{VT}, Table 8")),
    Row("resnet50", Published("ResNet50", "76.2", "25.5", "4.3", f"{T2T}, Table 3")),
    Row("resnet101", Published("ResNet101", "77.4", "44.6", "7.9", f"{T2T}, Table 3")),
    Row("resnet152", Published("ResNet152", "78.3", "60.2", "11.6", f"{T2T}, Table 3")),
    # not the paper's ViT-S/16, which has 8 blocks of 768: timm's is DeiT-small's network
    Row("vit_small_patch16_224", Published("DeiT-small", "79.9", "22.1", "4.6", f"{T2T}, Table 2")),
    Row("vit_base_patch16_224", Published("ViT-B/16", "79.8", "86.4", "17.6", f"{T2T}, Table 2")),
    Row("mobilenetv2_100", Published("MobileNetV2 1.0x", "72.8", "3.5", "0.3", f"{T2T}, Table 4")),
    Row("mobilenetv3_large_100", Published("MobileNetV3 (Searched)", "75.2", "5.4", "0.2", f"{T2T}, Table 4")),
)
# Networks of the family that no paper prints, and that are not above, come last.
_UNPUBLISHED = tuple(Row(name, None) for name in FAMILY if name not in {row.model for row in _PUBLISHED})
# Papers count segmentation at sizes of their own: docs/segmentation-networks.md.
_SEGMENTATION = tuple(Row(name, None, variant.image_size) for name, variant in fpn_resnet.VARIANTS.items())
ROWS = (*_PUBLISHED, *_UNPUBLISHED, *_SEGMENTATION)
HEAD = ("model", "px", "params M", "MACs G", "published as", "top-1 %", "params M", "MACs G", "where")
TEXT_COLUMNS = (0, 4, 8)  # the others hold numbers


@dataclass(frozen=True)
class Cost:
    """Of one network: all parameters, frozen ones included, and the multiply-accumulates of one image."""

    params: int
    macs: int


def count_cost(model: torch.nn.Module, image_size: int) -> Cost:
    """Count `model`, where its weights are, while it computes one image (1, 3, image_size, image_size).

    MACs are those of convolutions and matrix products, attention's two among them. Attention is taken apart into plain
    products first: PyTorch's counter does not know the CPU's fused kernel, and would leave it out.
    """
    counter = FlopCounterMode(display=False)
    parameters = list(model.parameters())
    with sdpa_kernel(SDPBackend.MATH), counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, image_size, image_size, device=parameters[0].device))
    return Cost(sum(parameter.numel() for parameter in parameters), counter.get_total_flops() // 2)


def timm_cost(name: str, image_size: int) -> Cost:
    """`count_cost` of a timm model by name, on the CPU.

    Its weights are never written: it is made on the meta device and moved to whatever the memory holds. Counting on the
    meta device would do for most, but the soft split switches autocast off, which that device does not know.
    """
    with torch.device("meta"):
        model = timm.create_model(name)
    return count_cost(model.to_empty(device="cpu"), image_size)


def differs(counted: int, published: str, unit: float) -> bool:
    """Whether `counted`, in `unit`, does not round to the published number."""
    digits = len(published.partition(".")[2])
    return abs(counted / unit - float(published)) > 0.5 * 10**-digits + 1e-9


def table_cells() -> list[list[str]]:
    """The table, a list of cells for every row."""
    return [_cells(row, timm_cost(row.model, row.image_size)) for row in ROWS]


def table_rows() -> list[dict[str, Any]]:
    """The table for programs: parameters and MACs as counted, and what was published, null where nothing was."""
    rows = []
    for row in ROWS:
        cost = timm_cost(row.model, row.image_size)
        published = None if row.published is None else asdict(row.published)
        rows.append({"model": row.model, "image_size": row.image_size, **asdict(cost), "published": published})
    return rows


def _cells(row: Row, cost: Cost) -> list[str]:
    counted = [row.model, str(row.image_size), f"{cost.params / 1e6:.2f}", f"{cost.macs / 1e9:.3f}"]
    paper = row.published
    if paper is None:
        return counted + [MISSING] * 5
    params = paper.params + DIFFERS * differs(cost.params, paper.params, 1e6)
    macs = paper.macs + DIFFERS * differs(cost.macs, paper.macs, 1e9)
    return [*counted, paper.name, paper.top1, params, macs, paper.source]


def markdown_table(cells: list[list[str]]) -> str:
    """As Markdown, for docs/models.md; ends with a line end."""
    rule = ["---" if column in TEXT_COLUMNS else "---:" for column in range(len(HEAD))]
    rows = [list(HEAD), rule, *cells]
    return "".join(f"| {' | '.join(row).replace('*', chr(92) + '*')} |\n" for row in rows)


def text_table(cells: list[list[str]]) -> str:
    """In columns, for a terminal; ends with a line end."""
    rows = [list(HEAD), *cells]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = []
    for row in rows:
        aligned = (
            cell.ljust(width) if column in TEXT_COLUMNS else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )  # fmt: skip
        lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines) + "\n"


def print_models(markdown: bool) -> None:
    """Print the table, and below it what its columns are."""
    cells = table_cells()
    if markdown:
        print(markdown_table(cells), end="")
        return
    print(text_table(cells))
    print("left: counted here; right: what a paper prints, * where ours does not round to it (docs/models.md)")
