"""Triton's kernels in place of torch's operators: where they run, and what becomes of it where they turn out not to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from interpreting import by_torch, kernels_on, triton
from made import DEVICES, as_dtype, batch, keys, pictures

from fastload.augment import ColorJitter, Compose, Normalize, RandomAffine, gpu, keyed


class Broken:
    """Kernels that nothing launches, as where there is no C compiler."""

    BLOCK = 256

    def __init__(self) -> None:
        self.tried: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.tried.append(name)
        raise RuntimeError("Failed to find C compiler")


@pytest.mark.parametrize("drawn_before", [True, False])
def test_where_kernels_do_not_run_torch_takes_over_and_says_so_once(
    drawn_before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Broken()
    monkeypatch.setattr(gpu, "kernels", lambda: broken)
    monkeypatch.setattr(gpu, "_on_gpu", lambda tensor: True)
    monkeypatch.setattr(gpu, "_gave_up", [])
    given = batch(as_dtype(pictures(2), torch.uint8))
    chain = Compose([RandomAffine(10), ColorJitter(0.1, 0.1), Normalize()])
    with by_torch():
        drawn = chain.draw(given)
        expected = chain(given)["image"]
    with pytest.warns(RuntimeWarning, match="kernels do not run here.*Failed to find C compiler"):
        first = (chain.replay(given, drawn) if drawn_before else chain(given))["image"]
    second = chain(given)["image"]
    assert broken.tried == ["one_pass" if drawn_before else "draws"]
    assert first.equal(expected)
    assert second.equal(expected)


def test_another_triton_than_the_kernels_are_written_for_is_torchs_passes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def jit(**options: Any) -> Any:
        raise TypeError("jit() got an unexpected keyword argument")

    monkeypatch.setattr(gpu, "_on_gpu", lambda tensor: True)
    monkeypatch.setattr(gpu, "_gave_up", [])
    monkeypatch.setattr(gpu, "kernels", gpu.kernels.__wrapped__)
    monkeypatch.setattr(triton, "jit", lambda function=None, **options: jit(**options) if options else function)
    monkeypatch.delitem(sys.modules, "fastload.augment.kernels", raising=False)
    with pytest.warns(RuntimeWarning, match="do not run here.*unexpected keyword"):
        assert keyed.uniforms(keys(3), 1, 4).shape == (3, 4)
    assert keyed.uniforms(keys(3), 1, 4).shape == (3, 4)


def test_on_a_cpu_no_kernel_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Broken()
    monkeypatch.setattr(gpu, "kernels", lambda: broken)
    keyed.uniforms(keys(3), 1, 4)
    assert not broken.tried


OPERATION = keyed.operation_number("x")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("count", "columns"), [(1, 1), (3, 30), (2, 256), (2, 700)])
def test_draws_of_the_kernel_are_torchs_to_the_bit(count: int, columns: int, device: str) -> None:
    of = keys(count).to(device)
    several = ((OPERATION, columns), (5, 2), (7, 0), ((1 << 33) + 1, 9))
    launched: list[dict[str, Any]] = []
    with kernels_on(device, "draws", launched):
        alone, small = keyed.uniforms(of, OPERATION, columns), keyed.uniforms(of, 5, columns)
        together = keyed.drawn(of, several)
        normals = keyed.normals(of, columns)
        assert keyed.uniforms(of[:0], OPERATION, columns).shape == (0, columns)
        assert keyed.uniforms(of, OPERATION, 0).shape == (count, 0)
        far = keyed.uniforms(torch.stack([of, of], 1)[:, 0], OPERATION, columns)
    assert len(launched) == 5
    with by_torch():
        assert alone.equal(keyed.uniforms(of, OPERATION, columns))
        assert small.equal(keyed.uniforms(of, 5, columns))
        assert all(a.equal(b) for a, b in zip(together, keyed.drawn(of, several), strict=True))
        assert normals.equal(keyed.normals(of, columns))
        assert far.equal(alone)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("of", ["uniforms", "drawn", "normals"])
def test_draws_are_compiled_for_gpus(of: str, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = gpu.kernels().draws
    constants = {"TABLES": of == "drawn", "TWICE": of == "uniforms", "SECOND": of == "normals", "BLOCK": 256}
    types = dict.fromkeys(("keys", "words", "numbers"), "*i64") | {"first": "*fp32", "second": "*fp32"}
    types |= {"word": "i64", "columns": "i32", "blocks": "i32"} | dict.fromkeys(constants, "constexpr")
    signature = {name: types[name] for name in kernel.arg_names}
    found = triton.compile(ASTSource(kernel, signature, constexprs=constants), target=GPUTarget("cuda", capability, 32))
    assert found.asm["cubin"][:4] == b"\x7fELF"
