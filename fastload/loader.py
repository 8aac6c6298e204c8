"""The loader: wires plan, engine, device and augmentation, and keeps the place in the run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Literal, NoReturn, SupportsFloat

import torch

from fastload.batch import KEY, Batch, BufferPool
from fastload.collated import ByNumber, Iterated, collated
from fastload.dataset import StreamingDataset
from fastload.decode import Decoder
from fastload.device import resolve_device
from fastload.engine import Engine
from fastload.errors import ConfigError, StateError
from fastload.export.summary import line
from fastload.faults import Fault
from fastload.flow import flow
from fastload.headstart import head_start
from fastload.iteration import Iteration
from fastload.machine import cores
from fastload.meter import Meter, Stats
from fastload.order.arguments import integer
from fastload.order.buckets import BoundBuckets
from fastload.order.cursor import State
from fastload.order.distribute import LastBatch, Share
from fastload.shards.open import Data
from fastload.stream import Streamed, check_rank_is_known, detect_rank
from fastload.trainers import lightning_asks, lightning_begins_an_epoch, passage, refuse_skipping, sharing_of
from fastload.tune import AUTO, MOST_AHEAD, Choice, Tuner

_log = logging.getLogger(__name__)

VALID_NAME = "valid"  # in as_tuple: batch.valid

# A disk or network file system that gives nothing for this long is taken to hang. Slow storage answers within seconds.
DEFAULT_TIMEOUT_SECONDS = 300.0


class DataLoader:
    """Batches of packed shards, decoded by threads, on your device, augmented; exact and resumable.

    An iteration is one epoch; the next one goes on with the next epoch. Breaking out abandons the epoch: the next
    iteration begins the next one, unless a state is loaded first. Of several iterators at a time the newest is the
    loader's place in the run; the others go on by themselves.

    At the end of each iteration, the logger `fastload.loader` is told in a line where its time went, at level INFO.

    Args:
        data: a StreamingDataset or Mix, or what StreamingDataset takes (a path, a pattern, a list); then also its
            keyword arguments. Or any other dataset of torch, or a `webdataset` pipeline; see `fastload.collated` for
            what is promised then, and for the keyword arguments.
        batch_size: rows per rank. A mapping is a schedule: samples consumed over all ranks -> rows from there on, e.g.
            {0: 64, 100_000: 128}. Under a LengthBuckets sampler, the most rows of a batch. None: an iterable dataset
            gives whole batches.
        num_workers: decode threads. 0: decode in the caller's thread. So is what threads would only slow down:
            undecoded bytes and text, whose cost is in Python itself; where `augment` changes strings (EachText), one
            thread makes the batches. Tokens and tensors of one shape in tars are copied by that many threads outside of
            Python. "auto": as many as the first batches show to be needed, from 1 to 4 a core, and as many batches
            ahead, from `prefetch_factor` on; what was chosen and why is in `tuned` and logged (INFO). The attributes
            num_workers and prefetch_factor tell what is in force.
        prefetch_factor: batches in work or ready ahead of the one handed out. All threads work on the same batches, so
            this is in all and not per thread.
        pin_memory: host buffers in pinned memory. None: if the device is CUDA.
        device: where tensors go; None is the CPU.
        augment: operations on the batch, in order: `fastload.augment` classes, Kornia or torchaudio modules, functions.
            A function that makes a new Batch, and moves rows, passes it `valid=` and `sample_keys=` in their new order.
        last_batch: what becomes of an epoch's remainder, see `fastload.order.distribute`: "partial", "pad", "drop" or
            "wrap"; "auto" is partial on one rank and pad on several.
        as_tuple: names of fields: batches come as tuples of these; "valid" stands for batch.valid.
        timeout: seconds without progress before an error; None waits for ever. Only threads can be waited for: without
            (num_workers=0) it has no effect. "auto": 300 s where threads decode; a number has one thread make the
            batches where threads would not help, so that it holds for these too.
        dataset: keyword arguments of StreamingDataset (fields, shuffle, seed, window, ...), if `data` is not one.

    Raises:
        ConfigError: an argument out of range, or dataset arguments beside a dataset.
    """

    def __init__(
        self,
        data: Streamed | Data | Sequence[Data] | torch.utils.data.IterableDataset[Any] | ByNumber,
        batch_size: int | Mapping[int, int] | None = 1,
        *,
        num_workers: int | Literal["auto"] = 0,
        prefetch_factor: int = 2,
        pin_memory: bool | None = None,
        device: torch.device | str | None = None,
        augment: Sequence[Any] | Callable[..., Any] | None = None,
        last_batch: LastBatch | Literal["auto"] = "auto",
        as_tuple: Sequence[str] | None = None,
        timeout: float | Literal["auto"] | None = AUTO,
        **dataset: Any,
    ) -> None:
        self.dataset = _dataset(data, dataset)
        if isinstance(self.dataset, Iterated):
            self.dataset.whole_batches = batch_size is None
            batch_size = 1 if batch_size is None else batch_size
        if not isinstance(batch_size, Mapping):
            batch_size = integer("batch_size", batch_size, least=1)  # type: ignore[arg-type]
        self.batch_size: int | Mapping[int, int] = batch_size
        self.prefetch_factor = integer("prefetch_factor", prefetch_factor, least=1)
        self.num_workers, self._tuner = self._threads(num_workers)
        self.last_batch = last_batch
        self.timeout = DEFAULT_TIMEOUT_SECONDS if timeout == AUTO else _seconds("timeout", timeout)
        self._watched = timeout not in (AUTO, None)
        self.device = resolve_device(device)
        self.pin_memory = self.device.type == "cuda" if pin_memory is None else pin_memory
        if self.pin_memory and not torch.cuda.is_available():
            raise ConfigError("pin_memory=True: torch sees no CUDA device here; leave it out")
        self.as_tuple = None if as_tuple is None else _check_names(as_tuple, self.dataset)
        self._chain, self._head_start = head_start(augment, self.dataset, self.device)
        if num_workers == AUTO and self._head_start.strings:
            self.num_workers = max(1, self.num_workers)
        self._consumed = 0
        self._resuming = False  # a state was loaded, and no iteration begun since
        self._iterations: list[Iteration] = []  # begun, and their ends not seen to
        self._current: Iteration | None = None  # the newest
        self._began: int | None = None  # where the last iteration began; None after a state or epoch was set
        self._jump: int | None = None  # what set_epoch said during an iteration, for the next one
        self._before = 0  # batches of the running epoch that a trainer counts as handed over before a resume
        self._handed_out = 0  # batches of it since
        self._meter = Meter()
        most_ahead = self.prefetch_factor if self._tuner is None else max(MOST_AHEAD, self.prefetch_factor)
        spare = most_ahead + 4  # batches in work, the one being copied, and those that the consumer holds
        self._pool = BufferPool(pinned=self.pin_memory, limit=spare * max(1, len(self.dataset.fields)))
        share = self._share()
        self.dataset.check(share)
        self._planned = isinstance(self.dataset.order, BoundBuckets)
        if self._planned and last_batch in ("drop", "wrap"):
            raise ConfigError(f"last_batch={last_batch!r}: LengthBuckets plans all batches; leave it at 'auto'")
        if self._planned and isinstance(batch_size, Mapping):
            raise ConfigError(
                "batch_size is a schedule: LengthBuckets sizes its batches itself; pass the most rows of one"
            )
        self._check_drop(share)

    def _check_drop(self, share: Share) -> None:
        """Raise ConfigError where a global batch, of any size of a schedule, is larger than an epoch: from there on
        there would be no batch."""
        rows = max((size for _, size in share.schedule), default=share.batch_size)
        if share.last_batch == "drop" and 0 < self.dataset.samples < share.world_size * rows:
            raise ConfigError(
                f"last_batch='drop' would drop everything: {self.dataset.samples} samples, and a global batch of "
                f"{share.world_size * rows} ({share.world_size} ranks x {rows})"
            )

    def _threads(self, wanted: int | str) -> tuple[int, Tuner | None]:
        """How many to begin with, and what finds out how many are needed, if they are to be found."""
        if wanted != AUTO:
            if isinstance(wanted, str):
                raise ConfigError(f"num_workers={wanted!r}: pass a number of threads, or 'auto'")
            return integer("num_workers", wanted, least=0), None
        most = self.dataset.threads(cores()) or self.dataset.crew_threads(1)  # a crew of two is not faster
        # where one is all that can be used, there is nothing to find
        return most, Tuner(ahead=self.prefetch_factor) if self.dataset.threads(2) > 1 else None

    @property
    def tuned(self) -> Choice | None:
        """What num_workers="auto" has chosen, and why; None before, and where nothing was to be chosen."""
        return None if self._tuner is None else self._tuner.choice

    def _share(self) -> Share:
        rank, world_size = detect_rank(self.dataset.rank, self.dataset.world_size)
        return Share.auto(
            rank=rank,
            world_size=world_size,
            batch_size=self.batch_size,
            last_batch=self.last_batch,
            lanes=self.dataset.lanes,
        )

    def _marks(self) -> dict[str, Any]:
        """What states depend on besides the data set: the batch size, where batches are cut by it."""
        return {"batch_size": self.batch_size} if self._planned else {}

    def _fingerprint(self) -> dict[str, Any]:
        """What saved states must agree with."""
        return {**self.dataset.fingerprint, **self._marks()}

    def _start(self) -> int:
        """Where the iteration that is running began or the next one begins: after an abandoned epoch, the next one."""
        if self._current is not None and self._began is not None:
            return self._began
        samples = self.dataset.samples
        if samples and self._began is not None and self._consumed % samples:
            epoch = self._consumed // samples
            if epoch == self._began // samples:
                return (epoch + 1) * samples
        return self._share().settle(samples, self._consumed)

    def __len__(self) -> int:
        """Batches of the iteration that runs or comes next, the same on every rank; of a resumed epoch, the rest (for
        Lightning, which counts on, with those before)."""
        return self._before + self.dataset.batches_left(self._share(), self._start())

    def __iter__(self) -> Generator[Any, None, None]:
        iteration = Iteration()
        iterator = self._iterate(iteration)
        iteration.handed_to(iterator)
        return iterator

    def _iterate(self, iteration: Iteration) -> Generator[Any, None, None]:
        # This runs at the first next(), not before: an iterator that is never used changes nothing.
        self._end_ended()
        self._current = None
        self._take_jump()  # set during an iteration that somebody still holds
        start = self._start()
        if not self._resuming:
            self._before = 0
        self._iterations.append(iteration)
        self._current, self._began, self._consumed, self._resuming = iteration, start, start, False
        self._handed_out = 0
        iteration.begin(self.epoch, self._meter)
        try:
            engine, tuner = self._begin(start)
            iteration.engine = engine
            iteration.passage = passage(lambda: self.dataset.batches_left(self._share(), start))
            with engine:
                for batch in flow(engine, self.device, self._chain):
                    if self._current is iteration and batch.state is not None:
                        self._consumed = batch.state["consumed"]
                        self._handed_out += 1
                    if iteration.passage is not None:
                        iteration.passage.hand_over()
                    yield self._hand_out(batch)
                    if tuner is not None and self._current is iteration:
                        self._tune(tuner, engine)
        finally:
            self._end(iteration)

    def _begin(self, start: int) -> tuple[Engine[Batch], Tuner | None]:
        """What makes the batches from `start` to the end of its epoch, and what tunes it."""
        share, dataset = self._share(), self.dataset
        check_rank_is_known(dataset.rank)
        dataset.check(share)  # ranks may be known only now
        sharing = sharing_of(self, share.world_size)
        if sharing is not None:
            sharing.check()
        self._check_drop(share)
        threads, crew_threads = self._threads_to_run()
        jobs = dataset.jobs(
            share,
            start,
            self._pool,
            threads=threads,
            crew_threads=crew_threads,
            marks=self._marks(),
            decoders=self._decoders(),
        )
        tuner = None if self._tuner is None or self._tuner.choice is not None else self._tuner
        if tuner is not None:
            tuner.begin()
        engine: Engine[Batch] = Engine(
            jobs,
            threads=threads,
            ahead=self.prefetch_factor if threads or crew_threads else 1,
            timeout_seconds=self.timeout,
            meter=self._meter,
        )
        return engine, tuner

    def _end(self, iteration: Iteration) -> None:
        """See to the end of an iteration; again, where an interrupt has cut that off."""
        iteration.close(self._meter)
        if self._current is iteration:
            self._current, self._before = None, 0
            self._take_jump()
        if iteration in self._iterations:
            self._iterations.remove(iteration)
            if _log.isEnabledFor(logging.INFO):
                self._log_times(iteration)

    def _end_ended(self) -> None:
        for iteration in [each for each in self._iterations if each.has_ended]:
            self._end(iteration)

    def _log_times(self, iteration: Iteration) -> None:
        """Where the time of an iteration went, for who wants to know: level INFO of this module's logger."""
        took = iteration.took(self._meter)
        if took.batches:
            _log.info("epoch %d: %s", iteration.epoch, line(took))

    def _tune(self, tuner: Tuner, engine: Engine[Batch]) -> None:
        """Go on with what the tuner tries next. Neither the order nor the batches depend on it."""
        setting = tuner.asked(self._meter.stats())
        if setting is not None:
            self.num_workers, self.prefetch_factor = setting.threads, setting.ahead
            engine.resize(setting.threads, setting.ahead)

    def _decoders(self) -> dict[str, Decoder]:
        """Decoders in place of the data set's own."""
        return self._head_start.decoders(self.dataset)

    def _threads_to_run(self) -> tuple[int, int]:
        """Decode threads and crew threads of an iteration that begins now."""
        threads = self.dataset.threads(self.num_workers)
        if self.num_workers and not threads and (self._watched or self._head_start.strings):
            return 1, 0
        return threads, self.dataset.crew_threads(self.num_workers)

    def _take_jump(self) -> None:
        if self._jump is not None:
            self._consumed, self._began, self._jump, self._before = self._jump, None, None, 0

    def _hand_out(self, batch: Batch) -> Any:
        if self.as_tuple is None:
            return self.dataset.give(batch)
        for name in self.as_tuple:
            if name != VALID_NAME and name not in batch:
                raise ConfigError(f"as_tuple names {name!r}; the batch has {', '.join(map(repr, batch))}")
        return tuple(batch.valid if name == VALID_NAME else batch[name] for name in self.as_tuple)

    @property
    def epoch(self) -> int:
        """The epoch of the iteration that is running or comes next."""
        return self._start() // self.dataset.samples if self.dataset.samples else 0

    @property
    def faults(self) -> list[Fault]:
        """Samples masked so far on this rank (on_error="mask"); `errors_file` lists those of all."""
        return self.dataset.faults

    @property
    def drop_last(self) -> NoReturn:
        """None: whoever asks wants to make another loader of this one."""
        refuse_skipping()

    def stats(self) -> Stats:
        """Where the time went since the loader was made, by stage; `after - before` is what lay between. Cheap; may be
        called at any time, by any thread."""
        return self._meter.stats()

    def set_epoch(self, epoch: int) -> None:
        """The next iteration begins at the start of this epoch. If a state inside this very epoch was loaded, or an
        iteration of it is running, nothing changes, so that trainers that call set_epoch every epoch do not undo a
        resume.

        Raises:
            ConfigError: a negative epoch.
        """
        epoch, samples = integer("epoch", epoch, least=0), self.dataset.samples
        if isinstance(self.dataset, Iterated):
            self.dataset.set_epoch(epoch)
        if (self._resuming or self._current is not None) and samples and self.epoch == epoch:
            self._jump = None
            return
        self._jump, self._resuming = epoch * samples, False
        if self._current is None:
            self._take_jump()

    def state_dict(self) -> dict[str, Any]:
        """Where the run stands after the last batch that was handed over: version, consumed, fingerprint. The same on
        every rank.

        Raises:
            StateError: the dataset only gives one sample after the other. Lightning, which asks at every checkpoint,
                gets the epoch that comes next, for it can go on between epochs.
        """
        if isinstance(self.dataset, Iterated) and lightning_asks():
            return {"epoch": self.dataset.epoch}
        state = State(consumed=self._consumed, fingerprint=self._fingerprint()).to_dict()
        if lightning_asks():
            state["batches"] = self._before + self._handed_out if self._is_inside_epoch() else 0
        return state

    def _is_inside_epoch(self) -> bool:
        """Whether the epoch in which the last iteration began has not ended."""
        samples = max(1, self.dataset.samples)
        return self._began is not None and self._consumed // samples == self._began // samples

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken: the next iteration yields the rest of that epoch. Costs the same at any
        position.

        Any world size, batch size and number of workers may differ from the run that saved it; under LengthBuckets the
        batch size must be the same.

        Raises:
            StateError: another data set, seed, window, lanes or version (each named), an iteration is running, or
                Lightning would not go through with the epoch.
        """
        self._end_ended()
        if self._iterations:
            raise StateError(
                "load_state_dict while an iteration is running; load before the loop, or close its iterator first"
            )
        if isinstance(self.dataset, Iterated) and lightning_begins_an_epoch():
            # what it reads is not told of it: Lightning does not either, between the epochs of one run
            self.dataset.epoch = integer("epoch", state.get("epoch", 0), least=0)
            return
        self._consumed = State.from_dict(state, self._fingerprint()).consumed
        self._resuming, self._began, self._jump, self._before = True, None, None, 0
        if lightning_asks():
            self._count_from(integer("batches", state.get("batches", 0), least=0))

    def _count_from(self, before: int) -> None:
        """Count batches as Lightning does: from the beginning of an epoch, up to where a whole one ends.

        Raises:
            StateError: at this world size and batch size it would stop before the epoch's end.
        """
        left = len(self)
        epoch = self.dataset.batches_left(self._share(), self.epoch * self.dataset.samples)
        if before < epoch < before + left:
            raise StateError(
                f"the state was saved after {before} batches of an epoch, and {left} are left at this world size and "
                f"batch size; Lightning counts both and stops at {epoch}. Resume at the old ones, or from the end of "
                "an epoch"
            )
        self._before = epoch - left if before else 0


def _dataset(data: Any, options: dict[str, Any]) -> Streamed:
    if isinstance(data, Streamed):
        if options:
            raise ConfigError(f"{', '.join(options)}: pass these to the StreamingDataset and not to the DataLoader")
        return data
    others = collated(data, options)
    if others is not None:
        return others
    try:
        return StreamingDataset(data, **options)
    except TypeError as error:
        raise ConfigError(f"DataLoader: {error}".replace("StreamingDataset.__init__() ", "")) from None


def _seconds(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, SupportsFloat) or not float(value) > 0:
        raise ConfigError(f"{name}={value!r}: must be positive seconds, or None to wait for ever")
    return float(value)


def _check_names(names: Sequence[str], dataset: Streamed) -> tuple[str, ...]:
    if isinstance(names, str):
        raise ConfigError(f"as_tuple={names!r}: pass a tuple of field names, e.g. ({names!r},)")
    known = dataset.names
    for name in names:
        if known is not None and name not in (*known, VALID_NAME, KEY):
            raise ConfigError(
                f"as_tuple names {name!r}; the batch has {', '.join(map(repr, known))}, {VALID_NAME!r} and {KEY!r}"
            )
    return tuple(names)
