from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import samples
import torch
from samples import content

import fastload
import fastload.device
from fastload.augment import Normalize, RandomHorizontalFlip
from fastload.batch import Batch, BufferPool
from fastload.device import QUEUED, _side, move, resolve_device
from fastload.errors import ConfigError
from fastload.loader import DataLoader

Packed = Callable[..., Path]
FIELDS = ("image", "audio", "tokens", "text", "bytes", "label")
KINDS = {
    "image": fastload.Image(8, crop="random"),
    "audio": fastload.Audio(),  # a list of tensors
    "tokens": fastload.Tokens(3),
    "text": fastload.Text(),
    "bytes": fastload.Bytes(5),
    "label": fastload.Scalar(),
}


def test_devices_by_name() -> None:
    assert resolve_device(None) == resolve_device("cpu") == resolve_device(torch.device("cpu")) == torch.device("cpu")
    assert resolve_device("meta") == torch.device("meta")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", ""])
def test_what_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"device={name!r}: "):
        resolve_device(name)


def test_on_the_cpu_batches_pass_through() -> None:
    batches: Iterator[Batch] = iter([Batch()])
    assert move(batches, torch.device("cpu")) is batches


def test_other_devices_get_every_tensor_and_nothing_is_read_ahead() -> None:
    drawn = []

    def source() -> Iterator[Batch]:
        for number in range(3):
            drawn.append(number)
            yield Batch({"x": torch.ones(2), "text": ["a", "b"]}, valid=torch.ones(2, dtype=torch.bool))

    moved = move(source(), torch.device("meta"))
    batch = next(moved)
    assert batch["x"].device.type == "meta"
    assert batch["text"] == ["a", "b"]
    assert drawn == [0]
    assert len(list(moved)) == 2


# On CUDA, without a GPU: batches of strings have nothing to copy.


class Still:
    """A stream or an event whose work is done at once."""

    made = 0

    def __init__(self, *_: Any, blocking: bool = False) -> None:
        type(self).made += 1

    def record(self, *_: Any) -> None:
        pass

    synchronize = wait_event = record

    def query(self) -> bool:
        return True


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> type[Still]:
    """The class of all streams that are made."""
    kind = type("Stream", (Still,), {"made": 0})
    for name, stand_in in {"Stream": kind, "Event": Still, "current_stream": Still}.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(fastload.device, "_sides", {})
    return kind


GPU = torch.device("cuda", 0)


def test_all_iterations_copy_on_one_stream_of_their_device(streams: type[Still]) -> None:
    """What one stream freed torch gives to no other, so that a new one for each epoch would take memory of its own."""
    for device, made in ((GPU, 1), (GPU, 1), (torch.device("cuda", 1), 2), (GPU, 2)):
        assert [batch["text"] for batch in move(iter([Batch({"text": ["a"]})]), device)] == [["a"]]
        assert streams.made == made


@pytest.mark.usefixtures("streams")
def test_a_consumer_that_only_queues_its_work_is_kept_a_few_batches_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its batches take memory of the GPU until its stream has passed them."""
    waited: list[int] = []
    handed_over = 0

    class Passed(Still):
        def record(self, *_: Any) -> None:
            self.number = handed_over

        def synchronize(self, *_: Any) -> None:
            waited.append(self.number)

    monkeypatch.setattr(torch.cuda, "Event", Passed)
    for batch in move((Batch({"text": [str(number)]}) for number in range(20)), GPU):
        assert waited == list(range(1, handed_over - QUEUED + 1)), "each once, and in order"
        assert batch["text"] == [str(handed_over)]
        handed_over += 1


@pytest.mark.usefixtures("streams")
@pytest.mark.parametrize("before", [0, 1, 3])
def test_an_error_comes_at_its_own_batchs_turn(before: int) -> None:
    def failing() -> Iterator[Batch]:
        for number in range(before):
            yield Batch({"text": [str(number)]})
        raise ValueError("the next one is broken")

    moved = move(failing(), GPU)
    assert [next(moved)["text"] for _ in range(before)] == [[str(number)] for number in range(before)]
    with pytest.raises(ValueError, match="the next one is broken"):
        next(moved)
    assert list(moved) == []


# On the GPU.


@pytest.mark.gpu
def test_the_device_is_the_current_one_if_no_number_is_given() -> None:
    assert resolve_device("cuda") == torch.device("cuda", torch.cuda.current_device())
    with pytest.raises(ConfigError, match="device='cuda:99': there are "):
        resolve_device("cuda:99")


@pytest.mark.gpu
def test_buffers_are_pinned() -> None:
    pool = BufferPool(pinned=True)
    with torch.device("cuda"):
        assert torch.from_numpy(pool.take((3, 4), np.dtype(np.uint8))).is_pinned()
    for dtype in (np.uint8, np.uint16, np.int64, np.float32):
        array = pool.take((3, 4), np.dtype(dtype))
        assert (array.shape, array.dtype) == ((3, 4), dtype)
        assert torch.from_numpy(array).is_pinned()


@pytest.mark.gpu
@pytest.mark.parametrize("shard_format", samples.FORMATS)
@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("pin_memory", [None, False])
def test_batches_on_the_gpu_equal_those_on_the_cpu(
    packed: Packed, shard_format: str, workers: int, pin_memory: bool | None
) -> None:
    data = packed(shard_format, [9, 9, 9], FIELDS)
    expected = [content(batch) for batch in DataLoader(data, 4, fields=KINDS, last_batch="pad")]
    run = DataLoader(data, 4, fields=KINDS, last_batch="pad", device="cuda", num_workers=workers, pin_memory=pin_memory)
    assert run.pin_memory is (pin_memory is None)
    found = []
    for batch in run:
        tensors = [*batch.values(), *batch["audio"], batch.valid, batch.sample_keys]
        assert all(t.is_cuda for t in tensors if isinstance(t, torch.Tensor))
        assert run.state_dict() == batch.state
        found.append(batch)
    assert [content(batch.to("cpu")) for batch in found] == expected


@pytest.mark.gpu
def test_pictures_stay_channels_last_on_the_gpu(packed: Packed) -> None:
    batch = next(iter(DataLoader(packed("tar", [9, 9, 9], FIELDS), 4, fields=KINDS, device="cuda")))
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.gpu
def test_augmentation_on_the_gpu_agrees_with_the_cpu(packed: Packed) -> None:
    data, chain = packed("tar", [9, 9, 9], FIELDS), [RandomHorizontalFlip(), Normalize()]
    cpu = [batch["image"] for batch in DataLoader(data, 4, fields=KINDS, augment=chain)]
    cuda = [batch["image"].cpu() for batch in DataLoader(data, 4, fields=KINDS, augment=chain, device="cuda")]
    for one, other in zip(cpu, cuda, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-6)  # one rounding of float32 at |x| < 3, by fused or plain


@pytest.mark.gpu
def test_batches_are_right_while_the_consumers_stream_is_busy_and_host_buffers_are_used_again() -> None:
    """Large host buffers, filled anew as soon as they are free: a copy that were not waited for would show."""
    device, count, size = torch.device("cuda", torch.cuda.current_device()), 40, 1 << 22
    pool = BufferPool(pinned=True)

    def source() -> Iterator[Batch]:
        for number in range(count):
            array = pool.take((size,), np.dtype(np.float32))
            array[...] = number
            yield Batch({"x": torch.from_numpy(array)}, valid=torch.ones(1, dtype=torch.bool))

    busy = torch.randn(2000, 2000, device=device)
    sums = []
    for batch in move(source(), device):
        busy = busy @ busy / 50
        sums.append(batch["x"].double().sum() + 0 * busy[0, 0].nan_to_num(0, 0, 0))
        del batch
    assert [float(total) / size for total in sums] == list(range(count))


@pytest.mark.gpu
@pytest.mark.parametrize("late", ["copy", "read"])
def test_no_batch_is_read_before_its_copy_or_written_over_before_it_is_read(late: str) -> None:
    """Whichever of the two comes late: memory is used again as soon as the consumer has let go of a batch."""
    device, numbers = torch.device("cuda", torch.cuda.current_device()), range(1, 9)

    def sleep() -> None:
        torch.cuda._sleep(100_000_000)  # cycles: 50 ms and more

    def source() -> Iterator[Batch]:
        for number in numbers:
            if late == "copy":
                with torch.cuda.stream(_side(device)):
                    sleep()
            yield Batch({"x": torch.full((1 << 22,), float(number)).pin_memory()})

    means = []
    for batch in move(source(), device):
        if late == "read":
            sleep()
        means.append(batch["x"].double().mean())
        del batch
    assert [float(mean) for mean in means] == list(numbers)


@pytest.mark.gpu
def test_a_batch_in_hand_is_right_after_breaking_out() -> None:
    device, size = torch.device("cuda", torch.cuda.current_device()), 1 << 24
    pool = BufferPool(pinned=True)

    def source() -> Iterator[Batch]:
        for number in range(4):
            array = pool.take((size,), np.dtype(np.float32))
            array[...] = number
            yield Batch({"x": torch.from_numpy(array)}, valid=torch.ones(1, dtype=torch.bool))

    for _ in range(5):
        batches = move(source(), device)
        batch = next(batches)
        batches.close()  # type: ignore[attr-defined]
        for _ in range(4):  # host memory that was let go is written again
            pool.take((size,), np.dtype(np.float32))[...] = -1
        assert not batch["x"].any()


@pytest.mark.gpu
def test_work_on_a_stream_of_the_users_own(packed: Packed) -> None:
    data = packed("tar", [9, 9, 9], FIELDS)
    expected = [content(batch) for batch in DataLoader(data, 4, fields=KINDS)]
    with torch.cuda.stream(torch.cuda.Stream()):
        found = [content(batch.to("cpu")) for batch in DataLoader(data, 4, fields=KINDS, device="cuda", num_workers=2)]
    assert found == expected


@pytest.mark.gpu
def test_memory_of_the_gpu_stays_flat(packed: Packed) -> None:
    run = DataLoader(packed("tar", [9, 9, 9], FIELDS), 4, fields=KINDS, device="cuda", num_workers=2)
    for epoch in range(30):
        for _ in run:
            pass
        if epoch == 5:
            torch.cuda.synchronize()
            before = torch.cuda.memory_reserved()
    torch.cuda.synchronize()
    assert torch.cuda.memory_reserved() <= before + (4 << 20)  # two of the allocator's smallest steps
