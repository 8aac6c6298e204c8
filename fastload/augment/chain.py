"""Runs a chain of augmentations over a batch: fastload's own, any callable on a Batch, and modules of Kornia and
torchaudio."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from fastload.augment import keyed
from fastload.augment.colour import Normalize
from fastload.augment.fused import Drawn, Fused, check_normalised, params_of
from fastload.augment.geometry import Geometric
from fastload.augment.mix import MixUp
from fastload.augment.operation import ImageOperation, Operation
from fastload.augment.policies import AugMix, Policy
from fastload.augment.strings import aeda, eda
from fastload.augment.targets import Targets
from fastload.augment.text import check_order
from fastload.batch import Batch
from fastload.errors import ConfigError
from fastload.fields import Audio, Field, Image
from fastload.order.hashing import combine

Function = Callable[[Batch], Batch]


class On:
    """Runs a module on one field of the batch. Pixels (uint8 and uint16) are scaled to float32 [0, 1] first, as Kornia
    expects.

    Random modules draw from torch's generators, or Python's: these are seeded from the loader's seed and position for
    the call and put back after it, so that a resumed run draws the same. The draws belong to the batch and not to the
    sample: at another batch size or world size they differ. Modules of different classes or on different fields draw
    apart, and so do several of one class in the same chain.

    Args:
        field: name of the field; its tensor [B, ...] is passed to the module. Or several names, for a module that takes
            and gives as many tensors, as Kornia's AugmentationSequential(data_keys=["input", "mask"]): only pixels of
            the first are scaled, integers of the others become float32 and come back in their own dtype.
        module: any callable from tensor to tensor.
    """

    def __init__(self, field: str | Sequence[str], module: Callable[..., Any]) -> None:
        self.fields, self.module = _names(field), module
        self.field = self.fields[0]
        # what its draws are seeded with
        self.name = f"On/{'+'.join(self.fields)}/{type(module).__qualname__}"
        keys = getattr(module, "data_keys", None)
        if keys is not None and len(keys) != len(self.fields):
            raise ConfigError(
                f"{type(module).__name__} takes {len(keys)} tensors (data_keys), and fields are {self.fields}; name "
                f'one for each, e.g. fastload.augment.On(("image", "mask"), module)'
            )

    def __repr__(self) -> str:
        return f"On({(self.field if len(self.fields) == 1 else self.fields)!r}, {self.module!r})"

    def __call__(self, batch: Batch) -> Batch:
        for name in self.fields:
            if not isinstance(batch.get(name), torch.Tensor):
                raise ConfigError(f"{self!r}: the batch has no tensor {name!r}; it has {', '.join(map(repr, batch))}")
        value, *others = (batch[name] for name in self.fields)
        if value.dtype in (torch.uint8, torch.uint16):
            value = value.to(torch.float32) / torch.iinfo(value.dtype).max
        given = [value, *(v if v.dtype.is_floating_point else v.to(torch.float32) for v in others)]
        if isinstance(self.module, torch.nn.Module):  # constants of the module follow the batch to its device
            self.module.to(value.device)
        with _seeded(batch, value.device, keyed.operation_number(self.name)):
            found = self.module(*given)
        if len(self.fields) == 1:
            return batch.replaced({self.field: found})
        if not isinstance(found, list | tuple) or len(found) != len(given):
            raise ConfigError(f"{self!r}: the module must give {len(given)} tensors; it gave {type(found).__name__}")
        back = [found[0], *(new.to(old.dtype) for new, old in zip(found[1:], others, strict=True))]
        return batch.replaced(dict(zip(self.fields, back, strict=True)))


class _Checked:
    """A function of the user's own, which may give back anything. A batch made by hand gets the place in the run and,
    where it has as many rows, their keys, which what follows draws from, and which of them are valid."""

    def __init__(self, function: Callable[[Batch], Any]) -> None:
        self.function = function

    def __repr__(self) -> str:
        return repr(self.function)

    def __call__(self, batch: Batch) -> Batch:
        found = self.function(batch)
        if not isinstance(found, Batch):
            raise ConfigError(
                f"augment: {self.function!r} gave back {type(found).__name__}, not a batch; return it, changed by "
                f'e.g. batch.replaced({{"image": images}})'
            )
        found.complete(batch)
        return found


@contextmanager
def _seeded(batch: Batch, device: torch.device, operation: int) -> Iterator[None]:
    """Python's generator and those of the CPU and of `device`, seeded from the batch's place in the run, and put back
    at the end.

    `torch.manual_seed` would seed those of all other devices too, and for good.
    """
    keys = batch.host_keys
    first = int(keys[0]) if keys is not None and len(keys) else 0
    consumed = int(batch.state["consumed"]) if batch.state is not None else 0
    seed = combine(first, consumed, operation) >> 1
    pythons = random.getstate()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.default_generator.manual_seed(seed)
            random.seed(seed)
            if device.type == "cuda":
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            yield
    finally:
        random.setstate(pythons)


def make_chain(augment: Sequence[Any] | Callable[..., Any] | None, fields: dict[str, Field]) -> list[Function]:
    """The operations of `augment=`, each as a function from Batch to Batch.

    A torch.nn.Module is run on the field that it is for: Kornia's on the one Image field, torchaudio's on the one Audio
    field, others on the only field of either kind. Image operations of fastload's own in a row are fused. Any other
    callable gets the batch.

    Raises:
        ConfigError: something that cannot be called, a module whose field is not clear, or boxes or keypoints of images
            that are cropped while they are decoded.
    """
    if augment is None:
        return []
    if isinstance(augment, str) or not (callable(augment) or isinstance(augment, Sequence)):
        raise ConfigError(f"augment={augment!r}: pass a list of operations")
    parts: list[_Part] = []
    for item in [augment] if callable(augment) else augment:
        if isinstance(item, Compose):
            parts += item.parts
        else:
            function = (
                On(_field_for(item, fields), item) if isinstance(item, torch.nn.Module) else _function(item, "augment")
            )
            parts.append(_Part(function, Targets()))
    for part in parts:
        _check_decoded_whole(part, fields)
    return _stages(parts)


def _check_decoded_whole(part: _Part, fields: dict[str, Field]) -> None:
    """Raises ConfigError for boxes and keypoints of a picture that is cropped while it is decoded."""
    name, points = getattr(part.function, "field", ""), (*part.targets.boxes, *part.targets.keypoints)
    kind = fields.get(name) if isinstance(name, str) else None
    if points and isinstance(kind, Image) and kind.crop is not None:
        raise ConfigError(
            f"{', '.join(map(repr, points))} cannot follow the crop that decoding makes of fields[{name!r}]; declare "
            f"Image({kind.size!r}), the whole picture, have them in pixels of that, and crop in the chain"
        )


@dataclass(frozen=True)
class _Part:
    """One operation of a chain, what follows its geometry, and whether it may be fused with its neighbours."""

    function: Function
    targets: Targets
    fuse: bool = True


def _stages(parts: list[_Part]) -> list[Function]:
    """Operations numbered apart, and neighbours that may be fused as one."""
    check_order(part.function for part in parts)
    check_normalised(part.function for part in parts)
    stages: list[Function] = []
    for part, run in groupby(_numbered(parts), key=_run_key):
        members = [each.function for each in run]
        if part is None:
            stages += members
        else:
            operations = [m for m in members if isinstance(m, Operation)]
            stages.append(Fused(operations, part[1], fuse=part[2] is None))
    return stages


def _run_key(part: _Part) -> tuple[Any, ...] | None:
    """Equal for neighbours that are one run: image operations on one field with the same targets."""
    function = part.function
    if not isinstance(function, ImageOperation | Normalize):
        return None
    return (function.field, part.targets, None if part.fuse else id(part))


def _numbered(parts: list[_Part]) -> list[_Part]:
    """Those of which several stand in the chain numbered, so that they draw apart."""
    met: Counter[str] = Counter()
    found = []
    for part in parts:
        function = part.function
        if isinstance(function, On):
            numbered = On(function.fields, function.module)
            numbered.name = f"{function.name}/{met[function.name]}"
            met[function.name] += 1
            function = numbered
        elif isinstance(function, Operation):
            name = dataclasses.replace(function, place=0).name
            function = dataclasses.replace(function, place=met[name])
            met[name] += 1
        found.append(dataclasses.replace(part, function=function))
    return found


class Compose:
    """Operations one after another, as one: image operations of fastload's own are fused into few passes.

    Neighbouring flips, crops, rotations and other geometry become one matrix per sample and one resampling; linear
    colour operations and Normalize one 3x4 matrix per sample. Fused results differ from those of one operation after
    the other where the latter lose something on the way: corners that a rotation turns out of the picture and a second
    one would have turned back in as black are kept, and colours are cut to [0, 1] once. An antialiased resize or
    resized crop is not fused with a warp. What cannot be fused runs in its place.

    Args:
        operations: fastload's operations, torch modules (Kornia's too: run on `field`, see On), functions of a Batch,
            other Composes.
        field: what torch modules run on.
        masks, boxes, keypoints: names of fields that follow the geometry of the images, see Targets. What the loader
            itself crops and scales, by Image(224, crop="random"), only masks follow, declared as Image fields: boxes
            and keypoints have to be in pixels of the images as they are in the batch.
        images: names of image fields of the same size to which all is done alike, with the same draws, as to the two
            pictures of a stereo pair. Other fields of images draw apart.
        mask_fill: what masks hold where an image shows what lay outside of it.
        fuse: False runs each operation on its own, by torch alone.
    """

    def __init__(
        self,
        operations: Sequence[Any],
        *,
        field: str = "image",
        masks: str | Sequence[str] = (),
        boxes: str | Sequence[str] = (),
        keypoints: str | Sequence[str] = (),
        images: str | Sequence[str] = (),
        mask_fill: float = 0,
        fuse: bool = True,
    ) -> None:
        targets = Targets(_names(masks), _names(boxes), _names(keypoints), mask_fill, _names(images))
        self.operations, self.targets = tuple(operations), targets
        self.parts: list[_Part] = []
        for item in operations:
            if isinstance(item, Compose):  # what follows this chain follows its parts too
                self.parts += [dataclasses.replace(part, targets=part.targets or targets) for part in item.parts]
            elif isinstance(item, torch.nn.Module):
                self.parts.append(_Part(On(field, item), targets, fuse))
            else:
                self.parts.append(_Part(_function(item, "Compose"), targets, fuse))
        changed = {field} | {o.field for part in self.parts if isinstance(o := part.function, ImageOperation)}
        for part in self.parts:
            _check_followed(part, changed)
        _check_one_followed(self.parts)
        self.stages = _stages(self.parts)

    def __repr__(self) -> str:
        return f"Compose([{', '.join(map(repr, self.operations))}])"

    def draw(self, keys: torch.Tensor | Batch) -> Drawn:
        """The parameters of all of fastload's operations, by their names, from int64 [B] keys or from a batch, whose
        padding is then no partner for MixUp and CutMix."""
        valid = None
        if isinstance(keys, Batch):
            if keys.sample_keys is None:
                raise ConfigError("draw needs a batch of fastload.DataLoader: this one has no sample_keys")
            valid, keys = keys.valid, keys.sample_keys
            valid = None if valid is None else valid.to(keys.device)
        drawn: Drawn = {}
        for stage in self.stages:
            if isinstance(stage, Fused):
                drawn |= stage.draw(keys)
            elif isinstance(stage, MixUp):
                drawn[stage.name] = stage.draw(keys, valid)
            elif isinstance(stage, Operation):
                drawn[stage.name] = stage.draw(keys)
        return drawn

    def __call__(self, batch: Batch) -> Batch:
        for stage in self.stages:
            batch = stage(batch)
        return batch

    def replay(self, batch: Batch, drawn: Drawn) -> Batch:
        """The batch with parameters that `draw` gave before. Modules and functions run as ever."""
        for stage in self.stages:
            if isinstance(stage, Fused):
                batch = stage.replay(batch, drawn)
            elif isinstance(stage, Operation):
                batch = stage.replay(batch, params_of(drawn, stage))
            else:
                batch = stage(batch)
        return batch


def _check_followed(part: _Part, images: set[str]) -> None:
    """Raises ConfigError for what changes `images` (names of fields) in a way that targets cannot follow."""
    function, targets = part.function, part.targets
    if not targets:
        return
    names = set(targets.names)
    told = f"{', '.join(map(repr, sorted(names)))} cannot follow it"
    if isinstance(function, MixUp | AugMix) and function.field in images:
        raise ConfigError(
            f"{function!r} makes one picture of several, and {told}; leave it out, or put it outside of the Compose"
        )
    if isinstance(function, On) and images & set(function.fields) and not names <= set(function.fields):
        raise ConfigError(
            f"{function!r}: what the module does to pixels is not known, and {told}; give it all of them, "
            f'e.g. On(("image", "mask"), module), or put it outside of the Compose if it moves nothing'
        )


def _check_one_followed(parts: list[_Part]) -> None:
    """Raises ConfigError where the same targets would follow one field of images and then another."""
    for targets in {part.targets for part in parts if part.targets}:
        kinds = (ImageOperation, Normalize) if targets.images else (Geometric, Policy)
        fields = {o.field for part in parts if part.targets == targets and isinstance(o := part.function, kinds)}
        if len(fields) > 1:
            raise ConfigError(
                f"Compose: {', '.join(map(repr, targets.names))} would follow all of the fields "
                f"{', '.join(map(repr, sorted(fields)))}; give each field a Compose of its own, "
                f"or do the same to all: images={tuple(sorted(fields))[1:]}"
            )


def _names(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _function(item: Any, where: str) -> Function:
    if isinstance(item, type):
        raise ConfigError(f"{where}: {item.__name__} is a class; pass an instance, {item.__name__}(...)")
    if getattr(item, "func", item) in (eda, aeda):  # also with arguments, by functools.partial
        name = getattr(item, "func", item).__name__
        raise ConfigError(
            f"{where}: {name} changes a string and not a batch; say of which field: EachText('text', {name})"
        )
    if not callable(item):
        raise ConfigError(
            f"{where}: {item!r} cannot be called; pass operations, torch modules or functions of the batch"
        )
    return item if isinstance(item, Operation | On) else _Checked(item)


def _field_for(module: torch.nn.Module, fields: dict[str, Field]) -> str:
    library = type(module).__module__.split(".")[0]
    kinds = {"kornia": (Image,), "torchaudio": (Audio,)}.get(library, (Image, Audio))
    names = [name for name, kind in fields.items() if isinstance(kind, kinds)]
    if len(names) == 1:
        return names[0]
    found = (
        f"several fields could be meant ({', '.join(map(repr, names))})"
        if names
        else "no field of that kind is declared"
    )
    raise ConfigError(
        f"augment: {type(module).__name__}: {found}; "
        f"say which: fastload.augment.On('name', {type(module).__name__}(...))"
    )
