"""Augmentation of image batches: one operation, one handful of kernels on the whole batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fastload.augment import keyed
from fastload.batch import Batch
from fastload.errors import ConfigError

# Mean and standard deviation of ImageNet's pixels in [0, 1]: what torchvision's pretrained models expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def image_of(batch: Batch, field: str, operation: str) -> torch.Tensor:
    """The images of a batch, [B, C, H, W].

    Raises:
        ConfigError: no such field, or it is a list because no size was declared.
    """
    if field not in batch:
        raise ConfigError(
            f"{operation}: no field {field!r} in the batch, it has {', '.join(map(repr, batch))}; pass field="
        )
    images = batch[field]
    if not isinstance(images, torch.Tensor) or images.ndim != 4:
        raise ConfigError(
            f"{operation}: field {field!r} is not a tensor [B, C, H, W]; declare a size, e.g. fastload.Image(224)"
        )
    return images


class RandomHorizontalFlip:
    """Mirrors each image left to right with probability `p`, drawn from (seed, epoch, sample) alone.

    Args:
        p: probability in [0, 1].
        field: name of the image field.
    """

    def __init__(self, p: float = 0.5, *, field: str = "image") -> None:
        if not 0 <= p <= 1:
            raise ConfigError(f"RandomHorizontalFlip(p={p}): must be in [0, 1]")
        self.p, self.field = p, field
        self._operation = keyed.operation_number(f"RandomHorizontalFlip/{field}")

    def __repr__(self) -> str:
        return f"RandomHorizontalFlip(p={self.p}, field={self.field!r})"

    def draw(self, keys: torch.Tensor) -> torch.Tensor:
        """bool [B]: which samples are mirrored, from int64 [B] keys."""
        return keyed.uniform(keys, self._operation) < self.p

    def __call__(self, batch: Batch) -> Batch:
        images = image_of(batch, self.field, "RandomHorizontalFlip")
        if batch.sample_keys is None:
            raise ConfigError("RandomHorizontalFlip needs a batch of fastload.DataLoader: this one has no sample_keys")
        flip = self.draw(batch.sample_keys.to(images.device))
        # one gather of columns: [B, W] says for each image which column comes where
        columns = torch.arange(images.shape[-1], device=images.device)
        columns = torch.where(flip[:, None], columns.flip(0), columns)
        index = columns[:, None, None, :].expand(images.shape)
        if images.dtype == torch.uint16:  # which gather does not know; it moves the same bits as int16
            return batch.replaced({self.field: torch.gather(images.view(torch.int16), -1, index).view(torch.uint16)})
        return batch.replaced({self.field: torch.gather(images, -1, index)})


class Normalize:
    """Makes images float and standardises each channel: (x - mean) / std. uint8 is scaled to [0, 1] first, uint16
    likewise.

    Args:
        mean, std: per channel, of pixels in [0, 1]. The default is ImageNet's.
        dtype: of the result: torch.float32, float16 or bfloat16.
        field: name of the image field.
    """

    def __init__(
        self,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        *,
        dtype: torch.dtype = torch.float32,
        field: str = "image",
    ) -> None:
        if len(mean) != len(std) or not mean or any(s <= 0 for s in std):
            raise ConfigError(f"Normalize(mean={mean}, std={std}): as many of both, and each std above 0")
        if not dtype.is_floating_point:
            raise ConfigError(f"Normalize(dtype={dtype}): pass a floating-point dtype")
        self.mean, self.std, self.dtype, self.field = tuple(mean), tuple(std), dtype, field
        self._constants: dict[tuple[torch.device, float], tuple[torch.Tensor, torch.Tensor]] = {}

    def __repr__(self) -> str:
        return f"Normalize(mean={self.mean}, std={self.std}, dtype={self.dtype}, field={self.field!r})"

    def __call__(self, batch: Batch) -> Batch:
        images = image_of(batch, self.field, "Normalize")
        if images.shape[1] != len(self.mean):
            raise ConfigError(
                f"Normalize: {images.shape[1]} channels in field {self.field!r}, and {len(self.mean)} in mean and std"
            )
        top = {torch.uint8: 255.0, torch.uint16: 65535.0}.get(images.dtype, 1.0)
        scale, shift = self._scale_and_shift(images.device, top)
        # computed in float32 and rounded once: x * 1/(top * std) - mean/std
        return batch.replaced({self.field: torch.addcmul(shift, images.to(torch.float32), scale).to(self.dtype)})

    def _scale_and_shift(self, device: torch.device, top: float) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 [1, C, 1, 1] each, on the device, made once."""
        if (device, top) not in self._constants:
            mean = torch.tensor(self.mean, dtype=torch.float64)[None, :, None, None]
            std = torch.tensor(self.std, dtype=torch.float64)[None, :, None, None]
            scale, shift = 1 / (top * std), -mean / std
            self._constants[device, top] = (scale.float().to(device), shift.float().to(device))
        return self._constants[device, top]
