"""Training with a class for each pixel: crops and mirrors of image and mask together, cross-entropy, mIoU."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from timm.data.mixup import Mixup
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms import v2
from torchvision.tv_tensors import Image, Mask

from calib.errors import InputError
from calib.images import ImageSplit
from calib.masks import IGNORED, MaskedSplit, read_mask
from calib.preprocess import Preprocess, load_image, preprocess, preprocess_mask
from pipeline.parts.train import TrainPart
from pipeline.tasks.pixels import Overlap, mean_iou
from pipeline.training.learning.samples import Key, Sample, seed_all


class MaskLearning:
    """Masks (B, H, W) uint8 with IGNORED; see `pipeline.training.learning.learning`."""

    @property
    def off(self) -> dict[str, Any]:
        return {"mixup": 0.0, "cutmix": 0.0, "auto_augment": None, "random_erasing": 0.0, "random_crop_padding": 0.0}

    def train_images(self, split: ImageSplit, spec: Preprocess, part: TrainPart) -> "TrainMasked":
        assert isinstance(split, MaskedSplit), "the task reads no other"
        return TrainMasked(split, spec, part)

    def val_images(self, split: ImageSplit, spec: Preprocess) -> "ValMasked":
        assert isinstance(split, MaskedSplit), "the task reads no other"
        return ValMasked(split, spec)

    def mixing(self, part: TrainPart, classes: int) -> Mixup | None:
        return None

    def loss(self, part: TrainPart) -> Callable[[Tensor, Tensor], Tensor]:
        entropy = nn.CrossEntropyLoss(ignore_index=IGNORED, label_smoothing=part.label_smoothing, reduction="sum")

        def mean(logits: Tensor, masks: Tensor) -> Tensor:
            """Over the pixels that count; 0 where a batch has none."""
            return entropy(logits, masks.long()) / (masks != IGNORED).sum().clamp(min=1)

        return mean

    def new_counts(self, models: int, classes: int) -> Tensor:
        """(models, 3, classes): pixels in mask and map, in the mask, in the map."""
        return torch.zeros(models, 3, classes, dtype=torch.int64)

    def count(self, counts: Tensor, model: int, logits: Tensor, labels: Tensor) -> None:
        classes = counts.shape[2]
        counted = labels != IGNORED
        found, truth = logits.argmax(1)[counted], labels[counted].long()
        for row, values in enumerate((truth[truth == found], truth, found)):
            counts[model, row] += torch.bincount(values, minlength=classes)

    def scores(self, counts: Sequence[Any]) -> list[float]:
        return [mean_iou(Overlap(*(np.asarray(row, dtype=np.int64)[None] for row in rows))) for rows in counts]


class TrainMasked(Dataset[Sample | InputError]):
    """Image and mask, cropped at random, resized and mirrored alike; the mask by its nearest pixels."""

    def __init__(self, split: MaskedSplit, spec: Preprocess, part: TrainPart):
        self.split, self.seed = split, part.seed
        self.transform = v2.Compose([
            v2.RandomResizedCrop(
                (spec.height, spec.width), scale=part.random_resize_scale,
                interpolation=v2.InterpolationMode(spec.interpolation), antialias=True,
            ),
            v2.RandomHorizontalFlip(part.horizontal_flip),
        ])  # fmt: skip

    def __getitem__(self, key: Key) -> Sample | InputError:
        epoch, index = key
        try:
            image = load_image(self.split.root / self.split.names[index])
            mask = read_mask(self.split, index, image.shape[:2])
        except InputError as error:
            return error
        seed_all(self.seed, epoch, image=index)
        pair = Image(torch.from_numpy(image).permute(2, 0, 1)), Mask(torch.from_numpy(mask))
        cropped, classes = self.transform(*pair)
        return cropped.as_subclass(Tensor), classes.as_subclass(Tensor)


class ValMasked(Dataset[Sample | InputError]):
    """Validation images and masks, preprocessed by the same functions as for engines."""

    def __init__(self, split: MaskedSplit, spec: Preprocess):
        self.split, self.spec = split, spec

    def __getitem__(self, index: int) -> Sample | InputError:
        try:
            image = load_image(self.split.root / self.split.names[index])
            mask = read_mask(self.split, index, image.shape[:2])
        except InputError as error:
            return error
        pixels, classes = preprocess(image, self.spec), preprocess_mask(mask, self.spec)
        return torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(classes)
