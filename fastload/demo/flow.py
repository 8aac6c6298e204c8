"""The demo from nothing to a trained model and its pictures, telling of each step on the console."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fastload.demo.pictures import training_curve
from fastload.demo.recipes import Recipe, audio_recipe, image_recipe, text_recipe
from fastload.demo.samples import make_images, make_sentences, make_sounds
from fastload.demo.train import Epoch, train
from fastload.errors import ConfigError
from fastload.pack import pack
from fastload.report.pictures import new_figure

MARK = ".fastload-demo"  # in a folder that a demo made, and that the next one may therefore clear
SPLIT = {"train": 0.9, "val": 0.1}
SHARD_SIZE = "2MiB"  # small, so that there are several to shuffle


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What a demo came to.

    Attributes:
        epochs: one entry per epoch.
        shards: the packed folder.
        batch_picture, curve_picture: PNG files.
        seconds: wall time of all of it.
    """

    kind: str
    epochs: tuple[Epoch, ...]
    shards: Path
    batch_picture: Path
    curve_picture: Path
    seconds: float

    @property
    def accuracy(self) -> float:
        """Share of the validation samples that are classified rightly after the last epoch, in [0, 1]."""
        return self.epochs[-1].accuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoKind:
    """The samples of one kind and what to do with them.

    Attributes:
        make: writes `samples` samples of classes in turn into a folder; yields the number written so far.
        source: what of that folder is packed; "" for the folder itself.
    """

    make: Callable[..., Iterator[int]]
    samples: int
    recipe: Callable[..., Recipe]
    source: str = ""


KINDS = {
    "image": DemoKind(make=make_images, samples=3200, recipe=image_recipe),
    "audio": DemoKind(make=make_sounds, samples=2400, recipe=audio_recipe),
    "text": DemoKind(make=make_sentences, samples=4800, recipe=text_recipe, source="sentences.csv"),
}


def run(
    kind: str = "image",
    out: Path | None = None,
    *,
    samples: int | None = None,
    epochs: int | None = None,
    workers: int = 2,
    seed: int = 0,
    device: str | None = None,
    console: Console | None = None,
) -> DemoResult:
    """Make samples, pack them, stream them, train a small model on them, and draw what came of it.

    Args:
        kind: "image", "audio" or "text".
        out: folder for samples, shards and pictures; None: demo-out/<kind> here. An earlier demo's is cleared.
        samples: how many to make; None: as many as the model needs to learn its classes well.
        epochs: how often to go through them; None: the recipe's own.
        workers: decode threads.
        seed: of samples, split, order, augmentation and weights.
        device: where the model is; None: "cuda" where there is one, else "cpu".
        console: where progress goes; None: standard output.

    Raises:
        ConfigError: an unknown kind, too few samples or epochs, or an `out` that holds something else.
        MissingExtraError: matplotlib, for the pictures, is not installed.
    """
    started = perf_counter()
    console = console or Console(highlight=False)
    demo, recipe, count = _settle(kind, samples, epochs)
    out = _fresh_folder(out or Path("demo-out") / kind)
    _make_samples(demo, out / "samples", count, seed, console)
    classes = _pack(out / "samples" / demo.source, out / "shards", seed, console)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    done = _train(recipe, out / "shards", len(classes), workers, device, seed, console)
    batch_picture, curve_picture = out / "batch.png", out / "curve.png"
    first = next(iter(recipe.train_batches(out / "shards" / "train", workers=workers, device=device, seed=seed)))
    recipe.sheet(first, classes, batch_picture)
    training_curve(done, curve_picture)
    result = DemoResult(
        kind=kind,
        epochs=tuple(done),
        shards=out / "shards",
        batch_picture=batch_picture,
        curve_picture=curve_picture,
        seconds=perf_counter() - started,
    )
    console.print(f"\naccuracy {result.accuracy:.1%} on samples never trained on, {result.seconds:.0f} s in all")
    console.print(f"pictures {batch_picture}\n         {curve_picture}", soft_wrap=True)
    return result


def _settle(kind: str, samples: int | None, epochs: int | None) -> tuple[DemoKind, Recipe, int]:
    """Check what was asked for before anything is made."""
    if kind not in KINDS:
        raise ConfigError(f"demo {kind!r}: pass one of {', '.join(map(repr, KINDS))}")
    demo = KINDS[kind]
    recipe = demo.recipe() if epochs is None else demo.recipe(epochs=epochs)
    count = demo.samples if samples is None else samples
    least = 2 * recipe.batch_size
    if count < least:
        raise ConfigError(f"demo: {count} samples; make at least {least}, two batches")
    if recipe.epochs < 1:
        raise ConfigError(f"demo: {recipe.epochs} epochs; train for at least 1")
    new_figure(1, 1)  # a missing matplotlib is better told now than after the training
    return demo, recipe, count


def _fresh_folder(out: Path) -> Path:
    """`out`, empty but for the mark; what an earlier demo made there is removed, anything else is refused."""
    if out.exists() and any(out.iterdir()) and not (out / MARK).exists():
        raise ConfigError(f"{out} is not empty and no demo made it; pass another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).touch()
    for part in ("samples", "shards"):
        shutil.rmtree(out / part, ignore_errors=True)
    return out


def _make_samples(demo: DemoKind, folder: Path, count: int, seed: int, console: Console) -> None:
    started = perf_counter()
    with _progress(console, "making samples", count) as step:
        for _ in demo.make(folder, samples=count, seed=seed):
            step()
    console.print(f"made     {count:,} samples, {perf_counter() - started:.1f} s")


def _pack(source: Path, shards: Path, seed: int, console: Console) -> tuple[str, ...]:
    """Pack into shards of train and val; returns the names of the classes."""
    started = perf_counter()
    index = pack(source, shards, format="tar", shard_size=SHARD_SIZE, split=SPLIT, seed=seed)
    parts = ", ".join(f"{index.samples(name):,} {name}" for name in index.splits)
    megabytes = sum(shard.bytes for shard in index.shards) / 1e6
    seconds = perf_counter() - started
    console.print(f"packed   {parts}: {len(index.shards)} tar shards, {megabytes:.1f} MB, {seconds:.1f} s")
    classes = index.fields["label"].classes
    assert classes is not None  # of a folder of classes, and of a text column "label"
    return classes


def _train(
    recipe: Recipe, shards: Path, classes: int, workers: int, device: str, seed: int, console: Console
) -> list[Epoch]:
    train_batches = recipe.train_batches(shards / "train", workers=workers, device=device, seed=seed)
    val_batches = recipe.val_batches(shards / "val", workers=workers, device=device)
    done = []
    with (
        _torch_settings(seed, workers, device),
        _progress(console, "training", recipe.epochs * len(train_batches)) as step,
    ):
        model = recipe.model(classes).to(device)
        console.print(f"training on {device}\n\nepoch   samples/s    loss   accuracy")
        for epoch in train(
            model,
            train_batches,
            val_batches,
            epochs=recipe.epochs,
            learning_rate=recipe.learning_rate,
            after_step=step,
        ):
            done.append(epoch)
            console.print(
                f"{epoch.number:>5} {epoch.samples_per_second:>11,.0f} {epoch.loss:>7.3f} {epoch.accuracy:>10.1%}"
            )
    return done


@contextmanager
def _torch_settings(seed: int, workers: int, device: str) -> Iterator[None]:
    """torch's random state seeded and its CPU threads cut to the cores that decoding leaves; both as before at the end.

    More threads than cores make torch's wait for each other at every operation: up to ten times slower, measured with
    2 decode threads and 2 of torch's on 2 cores that had other work too.
    """
    threads = torch.get_num_threads()
    with torch.random.fork_rng([torch.device(device)] if device.startswith("cuda") else []):
        torch.manual_seed(seed)
        torch.set_num_threads(max(1, min(threads, len(os.sched_getaffinity(0)) - workers)))
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@contextmanager
def _progress(console: Console, what: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar that is gone at the end; gives the function that moves it on by one."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)
