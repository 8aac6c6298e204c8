"""What the other tests marked `gpu` rely on: of a GPU, and of the one that is pretended where there is none."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


def test_all_tests_for_a_gpu_pass_on_the_pretended_one(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="Triton, whose interpreter runs the kernels, comes with torch for NVIDIA GPUs")
    if torch.cuda.is_available():
        pytest.skip("they run on the GPU that is there")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHON": sys.executable, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}

    def start(*command: str | Path, **more: str) -> subprocess.Popen[str]:
        told = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=tmp_path, env=environment | more, **told)  # type: ignore[call-overload]

    def output(process: subprocess.Popen[str]) -> str:
        told, _ = process.communicate()
        assert process.returncode == 0, told[-4000:]
        return told

    all_tests = [sys.executable, "-m", "pytest", "--all", "-c", ROOT / "pyproject.toml", "-p", "no:cacheprovider"]
    chosen = ["-p", "pretended.plugin", "-m", "gpu", "--collect-only", "-q", ROOT / "tests"]
    with (
        start(ROOT / "tools" / "gpu.sh", "--pretend") as running,
        start(*all_tests, *chosen, PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}") as collecting,
    ):
        found, ran = output(collecting), output(running)
    (there,) = re.findall(r"^(\d+)/\d+ tests collected", found, re.MULTILINE)
    assert re.findall(r"^(\d+) passed, \d+ deselected", ran, re.MULTILINE) == [there], ran[-4000:]
    assert int(there) >= 400


@pytest.mark.gpu
def test_tensors_of_two_devices_do_not_mix() -> None:
    there, here = torch.ones(3, device="cuda"), torch.ones(3)
    for mix in (lambda: there + here, lambda: torch.cat([there, here]), lambda: here[there.long()]):
        with pytest.raises(RuntimeError, match="device"):
            mix()
    assert (there * torch.tensor(2.0)).tolist() == [2, 2, 2]  # a single number may come from the CPU
    with pytest.raises(TypeError, match="can't convert cuda"):
        there.numpy()
    with pytest.raises(RuntimeError, match="pin"):
        there.pin_memory()


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # is a prototype, it says
def test_waiting_for_the_gpu_is_refused_where_it_is_to_be() -> None:
    there, here = torch.arange(3, device="cuda"), torch.arange(3)
    mask, pinned = there > 0, torch.arange(3).pin_memory()
    waiting = [
        there[0].item,
        there.cpu,
        mask.nonzero,
        lambda: there[mask],
        lambda: there[here],
        partial(here.to, "cuda"),
    ]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for wait in waiting:
            with pytest.raises(RuntimeError, match="called a synchronizing CUDA operation"):
                wait()
        moved = pinned.to("cuda", non_blocking=True)
        found = torch.where(mask, there[there], moved)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found.tolist() == [0, 1, 2]


@pytest.mark.gpu
@pytest.mark.parametrize("waited", [True, False])
def test_a_copy_is_there_once_its_event_was_waited_for_and_reads_its_source_until_then(waited: bool) -> None:
    source, there = torch.ones(1 << 16).pin_memory(), torch.zeros(1 << 16, device="cuda")
    torch.cuda.synchronize()
    side, copied = torch.cuda.Stream(), torch.cuda.Event()
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)  # cycles: 100 ms and more
        there.copy_(source, non_blocking=True)
        copied.record()
    source.fill_(2)  # too early
    assert not copied.query()
    if waited:
        torch.cuda.current_stream().wait_event(copied)
    assert there.mean().item() == (2 if waited else 0)
    copied.synchronize()
    assert there.mean().item() == 2
    assert copied.query()


@pytest.mark.gpu
def test_a_copy_to_the_cpu_is_late_too() -> None:
    there = torch.ones(1 << 16, device="cuda")
    torch.cuda._sleep(200_000_000)
    here = there.to("cpu", non_blocking=True)
    assert here.is_pinned()
    torch.cuda.synchronize()
    assert here.mean() == 1


@pytest.mark.gpu
def test_pinned_memory_is_known_by_its_address_for_as_long_as_it_is_used() -> None:
    pinned = torch.arange(8, pin_memory=True)
    assert torch.from_numpy(pinned.numpy()[2:5]).is_pinned()
    assert not pinned.clone().is_pinned()
    assert pinned.tolist() == list(range(8))
