"""Tensors of the pretended GPU, and what operations do with them: the CPU's, where CUDA would do any."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from pretended import copies, graphs
from pretended.streams import Stream, checked, current_stream
from pretended.waits import host_waits

KERNEL_SECONDS = 3e-6
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
# Their result's size, or a number for the host, is known only when the GPU has done its work.
WAITING = {
    *("_local_scalar_dense", "equal", "nonzero", "masked_select", "unique_dim", "_unique2", "unique_consecutive"),
    *("bincount", "histc", "_linalg_check_errors"),
}


class OnGPU(torch.Tensor):
    """A tensor that says it is on the GPU; `held` is the CPU's."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnGPU:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="cuda:0",
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"OnGPU({self.held!r})"

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")
        return self.detach().cpu().numpy()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def record_stream(self, stream: Stream) -> None:
        """Memory is never given to others too early here."""
        assert isinstance(stream, Stream)


class Operations(TorchDispatchMode):
    """While it is on, tensors can be made on the GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
    given = [tensor for tensor in tensors if isinstance(tensor, OnGPU)]
    to_gpu = is_gpu(kwargs["device"]) if kwargs.get("device") is not None else bool(given)
    if name == "is_pinned":
        return not given and copies.is_pinned(*args)
    if name == "_pin_memory" or kwargs.get("pin_memory"):
        if to_gpu:
            raise RuntimeError("only dense CPU tensors can be pinned")
        return copies.pinned(args[0] if name == "_pin_memory" else func(*args, **{**kwargs, "pin_memory": False}))
    if name == "_to_copy" and to_gpu != bool(given):
        return copied(func, *args, **kwargs)
    if name == "copy_" and len(given) == 1:
        return copied_into(*args, **kwargs)
    if not given and not to_gpu:
        return func(*args, **kwargs)
    if name == "lift_fresh":
        return args[0]
    if given:
        refuse_mixed(func, args, [tensor for tensor in tensors if not isinstance(tensor, OnGPU)])
    if name in WAITING or (name == "repeat_interleave" and kwargs.get("output_size") is None):
        host_waits(func)
    return run_kernel(func, args, kwargs, given, to_gpu)


def run_kernel(func: Any, args: Any, kwargs: dict[str, Any], given: list[OnGPU], to_gpu: bool) -> Any:
    current_stream().work(KERNEL_SECONDS)
    current_stream().catch_up()
    outer, (args, kwargs) = args, tree_map(held, (args, kwargs))
    if to_gpu and "device" in kwargs:
        kwargs["device"] = torch.device("cpu")
    with drawing() if torch.Tag.nondeterministic_seeded in func.tags else nullcontext():
        found = func(*args, **kwargs)
    if torch.Tag.inplace_view in func.tags:  # another shape, which the tensor around `held` has to have too
        with no_dispatch():
            return func(*outer, **kwargs)
    if not to_gpu:
        return found  # as of x.new_zeros(3, device="cpu")
    graphs.capture(lambda: func(*args, **kwargs), found)
    written = {id(tensor.held): tensor for tensor in given}  # what is written in place is the same tensor after it

    def on_gpu(each: Any) -> Any:
        known = written.get(id(each), each)
        return OnGPU(known) if isinstance(known, torch.Tensor) and not isinstance(known, OnGPU) else known

    return tree_map(on_gpu, found)


def refuse_mixed(func: Any, args: Any, others: list[torch.Tensor]) -> None:
    """Beside tensors of the GPU, a CPU's may be a single number of an elementwise operation, or an index, which the
    host then brings to the GPU and waits. So it does for a mask, whose true elements it has to count."""
    if func.overloadpacket.__name__ in INDEXING:
        indices = [index for index in args[1] if index is not None]
        if any(not isinstance(index, OnGPU) or index.dtype in (torch.bool, torch.uint8) for index in indices):
            host_waits(func)
        others = [tensor for tensor in others if all(tensor is not index for index in indices)]
        numbers_are_taken = True
    else:
        numbers_are_taken = torch.Tag.pointwise in func.tags
    if any(tensor.ndim or not numbers_are_taken for tensor in others):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! ({func})"
        )


def copied(
    func: Any, source: torch.Tensor, *, non_blocking: bool = False, device: object, pin_memory: bool = False, **as_: Any
) -> torch.Tensor:
    """A copy on the other device; of dtype and layout `as_`."""
    to_gpu, source = not isinstance(source, OnGPU), held(source)
    found = func(source, **as_)
    if non_blocking:
        if not to_gpu:  # torch pins what it makes on the CPU for a copy that is not waited for
            found = copies.pinned(found)
        found.fill_(float("nan") if found.is_floating_point() else 7)  # what nobody may read
    copies.transfer(source, found, to_gpu, non_blocking, func)
    return OnGPU(found) if to_gpu else found


def copied_into(to: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    copies.transfer(held(source), held(to), isinstance(to, OnGPU), non_blocking, "copy_")
    return to


def held(each: Any) -> Any:
    return each.held if isinstance(each, OnGPU) else each


def is_gpu(device: Any) -> bool:
    return torch.device(device).type == "cuda" and checked(device) is not None


generator = torch.Generator()  # the GPU has random numbers of its own


@contextmanager
def drawing() -> Iterator[None]:
    before = torch.get_rng_state()
    torch.set_rng_state(generator.get_state())
    try:
        yield
    finally:
        generator.set_state(torch.get_rng_state())
        torch.set_rng_state(before)
