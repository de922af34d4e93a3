"""`train` and `qat`: training, and training with quantization in the loop."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from pipeline.parts.part import Fraction, Part, Positive, Seed

# Keys of `train` and `qat` that do not change the weights.
DECIDES_NOTHING = ("workers", "eval_every", "save_every", "keep_last", "keep_best", "on_nan", "max_skipped", "wandb")


def _off(value: object) -> object:
    """YAML reads a bare `off` as false."""
    return "off" if value is False else value


class TrainPart(Part):
    """timm's training recipe; `batch_size` is per process, `lr` is the peak learning rate as given (never rescaled).

    `global_batch` images make an update: where all processes together hold fewer, gradients are accumulated; where they
    hold more, each takes its equal share. Without it, each step of the processes is an update. `save_every` counts
    updates; without it, `last.pt` is written every epoch. `on_nan: skip` leaves out an update whose loss is not finite,
    but stops after `max_skipped` in a row.

    All but the classifier learn at `lr` times `backbone_lr_ratio`: transfer learning wants the new classifier fast and
    the taken-over weights slow.
    """

    epochs: Annotated[int, Field(ge=0)] = 310
    batch_size: Positive = 64
    global_batch: Positive | None = None
    optimizer: str = "adamw"
    lr: Annotated[float, Field(gt=0)] = 5e-4
    backbone_lr_ratio: Annotated[float, Field(gt=0, le=1)] = 1.0
    min_lr: Annotated[float, Field(ge=0)] = 1e-5
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    warmup_epochs: Annotated[int, Field(ge=0)] = 10
    cooldown_epochs: Annotated[int, Field(ge=0)] = 0  # the last ones, all at min_lr
    label_smoothing: Fraction = 0.1
    mixup: Annotated[float, Field(ge=0)] = 0.8
    cutmix: Annotated[float, Field(ge=0)] = 1.0
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    random_erasing: Fraction = 0.25
    random_resize_scale: tuple[float, float] = (0.08, 1.0)
    random_crop_padding: Fraction = 0.0  # above 0: a random crop of the image padded so much, not of a random scale
    horizontal_flip: Fraction = 0.5
    drop_path: Fraction = 0.1
    ema_decay: Fraction = 0.99996
    clip_grad: Annotated[float, Field(gt=0)] | None = None
    amp: Annotated[Literal["off", "bfloat16", "float16"], BeforeValidator(_off)] = "off"
    channels_last: bool = False
    compile: bool = False
    on_nan: Literal["stop", "skip"] = "stop"
    max_skipped: Positive = 10
    workers: Annotated[int, Field(ge=0)] = 2
    eval_every: Positive = 1
    save_every: Positive | None = None
    keep_last: Positive = 1
    keep_best: bool = False
    wandb: str | None = None
    seed: Seed = 0

    def evaluates_after(self, epoch: int) -> bool:
        """Whether an epoch, counted from 0, is followed by an evaluation."""
        return (epoch + 1) % self.eval_every == 0 or epoch + 1 == self.epochs


class QatPart(Part):
    """Quantization-aware training of the trained network for `int8-qat`, with the FP32 network as the teacher.

    The loss is `distill` times the Kullback-Leibler divergence from the teacher at `temperature`, plus (1 − `distill`)
    times the cross-entropy of the labels.
    """

    epochs: Positive = 2
    batch_size: Positive = 64
    lr: Annotated[float, Field(gt=0)] = 1e-5
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    distill: Fraction = 1.0
    temperature: Annotated[float, Field(gt=0)] = 2.0
    clip_grad: Annotated[float, Field(gt=0)] | None = 1.0
    workers: Annotated[int, Field(ge=0)] = 2
    seed: Seed = 0


def decisive(parts: dict[str, Any]) -> dict[str, Any]:
    """Recipe parts without what may change while a training is interrupted, or after it: its weights are the same all the same.

    With `train.global_batch` an update has the same images however many of them a process holds.
    """
    kept = {}
    for name, part in parts.items():
        skipped = DECIDES_NOTHING if name in ("train", "qat") else ()
        if name == "train" and part.get("global_batch") is not None:
            skipped = (*skipped, "batch_size")
        kept[name] = part if not skipped else {key: value for key, value in part.items() if key not in skipped}
    return kept
