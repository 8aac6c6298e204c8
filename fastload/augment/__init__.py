"""Augmentation of whole batches where they are. `augment=[...]` of fastload.DataLoader takes:

RandomHorizontalFlip, Normalize   fastload's own: randomness belongs to the sample (seed, epoch, sample)
kornia and torchaudio modules     run on the image or audio field, seeded from the batch's place in the run
On("field", module)               any module on a field of your choice
any function Batch -> Batch
"""

from fastload.augment.chain import On
from fastload.augment.image import IMAGENET_MEAN, IMAGENET_STD, Normalize, RandomHorizontalFlip

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Normalize", "On", "RandomHorizontalFlip"]
