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
    """How often all images are seen; 0 takes the weights of model.checkpoint or the factory as they are."""
    batch_size: Positive = 64
    """Images at a time, in each process."""
    global_batch: Positive | None = None
    """Images of an update, of all processes together; without it an update is a step of the processes."""
    optimizer: str = "adamw"
    """timm's name: adamw, momentum, lamb, …."""
    lr: Annotated[float, Field(gt=0)] = 5e-4
    """The peak learning rate, never rescaled by batch size."""
    backbone_lr_ratio: Annotated[float, Field(gt=0, le=1)] = 1.0
    """All but the classifier learn at lr times this."""
    min_lr: Annotated[float, Field(ge=0)] = 1e-5
    """The learning rate at the end of the cosine."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """As of AdamW, on weights alone."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 10
    """First epochs, in which the learning rate rises."""
    cooldown_epochs: Annotated[int, Field(ge=0)] = 0
    """Last epochs, all at min_lr."""
    label_smoothing: Fraction = 0.1
    """The share of probability that goes to all classes."""
    mixup: Annotated[float, Field(ge=0)] = 0.8
    """Strength of mixing two images; 0 is off."""
    cutmix: Annotated[float, Field(ge=0)] = 1.0
    """Strength of pasting a part of another image; 0 is off."""
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    """timm's text for random augmentation, such as rand-m9-mstd0.5-inc1; null is off."""
    random_erasing: Fraction = 0.25
    """How probably a rectangle of an image is erased."""
    random_resize_scale: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest share of an image's area that a random crop keeps."""
    random_crop_padding: Fraction = 0.0
    """Above 0: random crops of the image with black borders of this share of its sides, not of a random scale."""
    horizontal_flip: Fraction = 0.5
    """How probably an image is mirrored; 0 where left and right have a meaning, as in text."""
    drop_path: Fraction = 0.1
    """How probably a block is skipped in training."""
    ema_decay: Fraction = 0.99996
    """Of the moving average of the weights, which is what is kept; 0 is off."""
    clip_grad: Annotated[float, Field(gt=0)] | None = None
    """The largest norm of an update's gradient; null is no limit."""
    amp: Annotated[Literal["off", "bfloat16", "float16"], BeforeValidator(_off)] = "off"
    """Mixed precision, for GPUs."""
    channels_last: bool = False
    """Images with channels last in memory."""
    compile: bool = False
    """Compile the network with torch.compile."""
    on_nan: Literal["stop", "skip"] = "stop"
    """Where a loss is not finite: stop and keep the batch, or skip the update."""
    max_skipped: Positive = 10
    """At most so many updates are skipped in a row."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes that read images; 0 reads them in the training process."""
    eval_every: Positive = 1
    """Epochs between two evaluations."""
    save_every: Positive | None = None
    """Updates between two saves; without it every epoch is saved."""
    keep_last: Positive = 1
    """How many saves are kept."""
    keep_best: bool = False
    """Whether best.pt, of the best epoch, is kept as well."""
    wandb: str | None = None
    """A project of Weights & Biases, beside metrics.csv and TensorBoard."""
    seed: Seed = 0
    """Of weights, order and augmentation."""

    def evaluates_after(self, epoch: int) -> bool:
        """Whether an epoch, counted from 0, is followed by an evaluation."""
        return (epoch + 1) % self.eval_every == 0 or epoch + 1 == self.epochs


class QatPart(Part):
    """Quantization-aware training of the trained network for `int8-qat`, with the FP32 network as the teacher.

    The loss is `distill` times the Kullback-Leibler divergence from the teacher at `temperature`, plus (1 − `distill`)
    times the cross-entropy of the labels.
    """

    epochs: Positive = 2
    """How often all images are seen."""
    batch_size: Positive = 64
    """Images at a time."""
    lr: Annotated[float, Field(gt=0)] = 1e-5
    """The peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """As of AdamW."""
    distill: Fraction = 1.0
    """The share of the FP32 network's answers in the loss; labels have the rest."""
    temperature: Annotated[float, Field(gt=0)] = 2.0
    """At which the two networks' answers are compared."""
    clip_grad: Annotated[float, Field(gt=0)] | None = 1.0
    """The largest norm of an update's gradient; null is no limit."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes that read images."""
    seed: Seed = 0
    """Of order and augmentation."""


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
