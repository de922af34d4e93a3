"""What `make bench-gpu` measures: its parts, most important first, at the scale of a GPU and small on a CPU."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["ceiling", "forward", "training", "tensorrt_rtx"]
Precision = Literal["fp32", "tf32", "bf16", "fp16", "int8"]
Compiled = Literal["", "compiled", "autotuned"]
NETWORKS = ("t2t_vit_14", "deit_small_patch16_224", "t2t_vit_7")
TRAINED = "t2t_vit_14"


@dataclass(frozen=True)
class Variant:
    """One way to compute a forward pass: in which precision, compiled by torch.compile or not, as a CUDA graph or not."""

    precision: Precision
    compiled: Compiled = ""
    graph: bool = False

    @property
    def name(self) -> str:
        """Such as `fp16 compiled graph`."""
        return " ".join(filter(None, (self.precision, self.compiled, "graph" if self.graph else "")))


def _with_graph(precision: Precision, compiled: Compiled) -> list[Variant]:
    return [Variant(precision, compiled), Variant(precision, compiled, graph=True)]


BASELINE = Variant("fp32")
MAIN = (
    BASELINE, Variant("tf32"), Variant("bf16"), *_with_graph("fp16", ""), *_with_graph("fp16", "compiled"),
    *_with_graph("int8", "compiled"),
)  # fmt: skip
COMPILED_BF16 = (BASELINE, *_with_graph("bf16", "compiled"))
AUTOTUNED = (BASELINE, *_with_graph("fp16", "autotuned"), *_with_graph("int8", "autotuned"))


@dataclass(frozen=True)
class Part:
    """What one process measures. `seconds` is how long it may take on a data-centre GPU: an estimate."""

    name: str
    kind: Kind
    seconds: int
    network: str = ""
    size: int = 224
    batch: int = 0
    compiled: bool = False  # of a training
    variants: tuple[Variant, ...] = ()


@dataclass(frozen=True)
class Scale:
    """How much is measured: parts, rounds of turns, images that are compared and that calibrate, seconds of a turn."""

    parts: tuple[Part, ...]
    rounds: int
    images: int
    calibration_images: int
    turn_seconds: float
    products: int  # side of the square matrices whose product is the ceiling
    copied_mib: int
    limit: float = 300.0  # seconds, after which a part is stopped


def forward(network: str, batch: int, seconds: int, size: int = 224) -> Part:
    """All precisions of a network."""
    return Part(f"forward-{network}-{batch}", "forward", seconds, network, size, batch, variants=MAIN)


def training(batch: int, seconds: int, compiled: bool = False, network: str = TRAINED, size: int = 224) -> Part:
    """Both forms of the soft split."""
    name = f"training-{'compiled-' if compiled else ''}{network}-{batch}"
    return Part(name, "training", seconds, network, size, batch, compiled)


CEILING = Part("ceiling", "ceiling", 15)
RTX = Part("tensorrt-rtx", "tensorrt_rtx", 20)
GPU = Scale(
    parts=(
        CEILING,
        training(256, 25),
        forward("t2t_vit_14", 64, 130),
        RTX,
        training(256, 120, compiled=True),
        forward("deit_small_patch16_224", 64, 80),
        forward("t2t_vit_7", 64, 80),
        forward("t2t_vit_14", 1, 110),
        forward("deit_small_patch16_224", 1, 70),
        forward("t2t_vit_7", 1, 70),
        training(64, 20),
        *(
            Part(f"bf16-{network}-{batch}", "forward", 45, network, 224, batch, variants=COMPILED_BF16)
            for batch in (64, 1)
            for network in NETWORKS
        ),
        Part("autotuned-t2t_vit_14-64", "forward", 200, "t2t_vit_14", 224, 64, variants=AUTOTUNED),
    ),
    rounds=20, images=128, calibration_images=64, turn_seconds=0.03, products=8192, copied_mib=1024,
)  # fmt: skip
MINI = "t2t_vit_mini"
# Not a measurement of anything: that the command works wherever there is no GPU.
CPU = Scale(
    parts=(
        CEILING,
        training(4, 10, network=MINI, size=32),
        forward(MINI, 4, 60, size=32),
        RTX,
        training(4, 60, compiled=True, network=MINI, size=32),
        forward("deit_tiny_patch16_224", 2, 60, size=64),
    ),
    rounds=3, images=8, calibration_images=8, turn_seconds=0.01, products=256, copied_mib=8, limit=900.0,
)  # fmt: skip
