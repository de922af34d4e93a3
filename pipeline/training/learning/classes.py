"""Training of a classifier: timm's augmentation, mixing and losses; top-1."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from timm.data import create_transform
from timm.data.auto_augment import AugmentOp, AugMixAugment, AutoAugment, RandAugment, posterize
from timm.data.mixup import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision import transforms
from torchvision.transforms.functional import resize

from calib.errors import InputError
from calib.images import ImageSplit
from calib.preprocess import Preprocess, load_image, preprocess
from pipeline.parts.train import TrainPart
from pipeline.training.learning.samples import Key, Sample, seed_all

if TYPE_CHECKING:
    from PIL.Image import Image


class ClassLearning:
    """Labels (B,) int64, or after mixing soft targets (B, classes); see `pipeline.training.learning.learning`."""

    @property
    def off(self) -> dict[str, Any]:
        return {}

    def train_images(self, split: ImageSplit, spec: Preprocess, part: TrainPart) -> "TrainImages":
        return TrainImages(split, spec, part)

    def val_images(self, split: ImageSplit, spec: Preprocess) -> "ValImages":
        return ValImages(split, spec)

    def mixing(self, part: TrainPart, classes: int) -> Mixup | None:
        if part.mixup == 0 and part.cutmix == 0:
            return None
        return Mixup(part.mixup, part.cutmix, label_smoothing=part.label_smoothing, num_classes=classes)

    def loss(self, part: TrainPart) -> Callable[[Tensor, Tensor], Tensor]:
        """For the targets: after mixing these are soft and already smoothed."""
        if part.mixup > 0 or part.cutmix > 0:
            return SoftTargetCrossEntropy()
        return LabelSmoothingCrossEntropy(part.label_smoothing) if part.label_smoothing > 0 else nn.CrossEntropyLoss()

    def new_counts(self, models: int, classes: int) -> Tensor:
        """(models, 2): right images, all images."""
        return torch.zeros(models, 2, dtype=torch.int64)

    def count(self, counts: Tensor, model: int, logits: Tensor, labels: Tensor) -> None:
        counts[model, 0] += (logits.argmax(1) == labels).sum()
        counts[model, 1] += len(labels)

    def scores(self, counts: Sequence[Any]) -> list[float]:
        return [100 * right / total for right, total in counts]


class TrainImages(Dataset[Sample | InputError]):
    """Augmented training images. An unreadable one is returned as its InputError, which `device_batches` raises in the
    main process: raised here, in a worker, the user would see the worker's traceback instead of the message."""

    def __init__(self, split: ImageSplit, spec: Preprocess, part: TrainPart):
        self.split, self.seed = split, part.seed
        try:
            self.transform = create_transform(
                (3, spec.height, spec.width), is_training=True, scale=part.random_resize_scale,
                hflip=part.horizontal_flip, color_jitter=None, auto_augment=part.auto_augment,
                interpolation=spec.interpolation, mean=spec.mean * (3 // spec.channels), std=spec.std, normalize=False,
            )  # fmt: skip
        except (AssertionError, ValueError, KeyError) as error:  # timm raises these for an augmentation it cannot read
            raise InputError(
                "timm cannot read train.auto_augment", got=f"{part.auto_augment!r} {error}",
                allowed="such as rand-m9-mstd0.5-inc1, augmix-m3-w3, original, or null for none",
                next_step="change train.auto_augment in the recipe",
            ) from error  # fmt: skip
        if part.random_crop_padding > 0:
            self.transform.transforms[0] = _padded_crop(spec, part.random_crop_padding)
        _keep_one_bit(self.transform)

    def __getitem__(self, key: Key) -> Sample | InputError:
        from PIL.Image import fromarray

        epoch, index = key
        try:
            image = load_image(self.split.root / self.split.names[index])
        except InputError as error:
            return error
        seed_all(self.seed, epoch, image=index)
        return self.transform(fromarray(image)), self.split.labels[index]


def _padded_crop(spec: Preprocess, padding: float) -> transforms.Compose:
    """The CIFAR augmentation: resize to cover the network's image, add black borders of `padding` times its height, crop at
    random."""
    mode = transforms.InterpolationMode(spec.interpolation)
    return transforms.Compose([
        _Cover(spec, mode),
        transforms.RandomCrop((spec.height, spec.width), padding=round(padding * spec.height)),
    ])  # fmt: skip


class _Cover:
    """Resize a picture, keeping its proportions, to the least size that covers the network's."""

    def __init__(self, spec: Preprocess, mode: transforms.InterpolationMode):
        self.spec, self.mode = spec, mode

    def __call__(self, image: "Image") -> "Image":
        scale = max(self.spec.height / image.height, self.spec.width / image.width)
        size = [max(self.spec.height, round(image.height * scale)), max(self.spec.width, round(image.width * scale))]
        return resize(image, size, self.mode)


def _keep_one_bit(transform: Any) -> None:
    """Let timm's Posterize keep at least one bit: it also asks for 0 bits, which Pillow 13 refuses."""
    for part in transform.transforms:
        if isinstance(part, (RandAugment, AugMixAugment)):
            for operation in part.ops:
                _limit_posterize(operation)
        elif isinstance(part, AutoAugment):
            for operation in (operation for policy in part.policy for operation in policy):
                _limit_posterize(operation)


def _limit_posterize(operation: AugmentOp) -> None:
    if operation.name.startswith("Posterize"):
        operation.aug_fn = _posterize


def _posterize(image: "Image", bits: int, **_: object) -> "Image":
    """timm passes options of other operations too; they are ignored."""
    return posterize(image, max(bits, 1))


class ValImages(Dataset[Sample | InputError]):
    """Validation images, preprocessed by the same function as for engines."""

    def __init__(self, split: ImageSplit, spec: Preprocess):
        self.split, self.spec = split, spec

    def __getitem__(self, index: int) -> Sample | InputError:
        try:
            image = preprocess(load_image(self.split.root / self.split.names[index]), self.spec)
        except InputError as error:
            return error
        return torch.from_numpy(image).permute(2, 0, 1), self.split.labels[index]
