"""However a program that streams is left, nothing stays behind; and however long it runs, it does not grow."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import conformance
import psutil
import pytest
import samples
import warm
from ranks import PATIENCE_SECONDS, TESTS
from samples import Leftovers, own_memory

import fastload

Packed = Callable[..., Path]
SIZES = [20, 1, 25, 14]
SAMPLES = 60


class Program:
    """leaving_program in a session of its own; what it leaves is compared with what there was before."""

    def __init__(self, data: Path, kind: str, how: str, notes: Path) -> None:
        notes.mkdir(exist_ok=True)
        self.notes, self.temporary = notes, notes / "tmp"
        self.temporary.mkdir(exist_ok=True)
        self.shared_memory = set(os.listdir("/dev/shm"))
        path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
        env = {**os.environ, "TMPDIR": str(self.temporary), "PYTHONPATH": path}
        self.process = warm.Program(TESTS / "leaving_program.py", data, kind, how, notes, env=env)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "begun\n", self.process.communicate()

    def finish(self) -> str:
        """Wait for the end; what it printed as errors."""
        try:
            return self.process.communicate(timeout=PATIENCE_SECONDS)[1]
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise AssertionError(f"a hang: {self.process.communicate()[1]}") from None

    def assert_nothing_left(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS  # worker processes of torch look for their parent now and then
        while (left := self._relatives() + self._new_shared_memory()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert left == [], "processes or shared memory stay behind"
        # torch's worker processes leave folders of their own, with any dataset
        assert [path for path in self.temporary.iterdir() if not path.name.startswith("pymp-")] == []

    def _relatives(self) -> list[str]:
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
        return found

    def _new_shared_memory(self) -> list[str]:
        """That of torch, which has its maker's number in its name, and is none of another program's that runs."""
        new = set(os.listdir("/dev/shm")) - self.shared_memory
        made = [name for name in new if name.startswith("torch_")]
        return [name for name in made if not psutil.pid_exists(int(name.split("_")[1]))]

    @property
    def ids(self) -> list[int]:
        return [int(line) for line in (self.notes / "ids").read_text().split()]


@pytest.mark.parametrize("kind", ["threads", "processes"])
@pytest.mark.parametrize("how", ["end of the program", "error"])
def test_a_program_that_ends_in_mid_epoch(packed: Packed, tmp_path: Path, kind: str, how: str) -> None:
    program = Program(packed("tar", SIZES), kind, how, tmp_path / "notes")
    errors = program.finish()
    assert program.process.returncode == (1 if how == "error" else 0), errors
    assert errors.count("Traceback") == (how == "error")
    assert how != "error" or errors.rstrip().endswith("ArithmeticError: the consumer's own")
    program.assert_nothing_left()


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_control_c_ends_it(packed: Packed, tmp_path: Path, kind: str) -> None:
    program = Program(packed("tar", SIZES), kind, "wait", tmp_path / "notes")
    os.killpg(program.process.pid, signal.SIGINT)  # a terminal signals the whole group
    errors = program.finish()
    assert program.process.returncode == -signal.SIGINT, errors
    assert "KeyboardInterrupt" in errors
    assert "FastloadError" not in errors
    program.assert_nothing_left()


@pytest.mark.parametrize("shard_format", samples.FORMATS)
def test_killed_at_once_and_started_again_it_goes_on(packed: Packed, tmp_path: Path, shard_format: str) -> None:
    data, notes = packed(shard_format, SIZES), tmp_path / "notes"
    program = Program(data, "threads", "wait", notes)
    program.process.kill()
    program.finish()
    program.assert_nothing_left()
    consumed = len(program.ids)
    state = fastload.DataLoader(data, 2, fields={"label": fastload.Scalar()}, seed=0)
    state.load_state_dict(json.loads((notes / "state").read_text()))
    assert state.state_dict()["consumed"] in (consumed, consumed - 2), "killed between the two notes at most"
    (notes / "ids").write_text("".join(f"{i}\n" for i in program.ids[: state.state_dict()["consumed"]]))
    again = Program(data, "threads", "wait", notes)
    assert again.finish() == ""
    conformance.assert_exactly_once(again.ids, SAMPLES)


def test_killed_at_once_its_worker_processes_end_too(packed: Packed, tmp_path: Path) -> None:
    program = Program(packed("tar", SIZES), "processes", "wait", tmp_path / "notes")
    program.process.kill()
    program.finish()
    program.assert_nothing_left()


def test_a_fork_in_mid_epoch(packed: Packed, tmp_path: Path) -> None:
    program = Program(packed("tar", SIZES), "threads", "fork", tmp_path / "notes")
    errors = program.finish()
    assert (program.process.returncode, errors) == (0, "")
    conformance.assert_exactly_once(program.ids, SAMPLES)
    program.assert_nothing_left()


@pytest.mark.parametrize("shard_format", samples.FORMATS)
def test_many_epochs_keep_memory_and_descriptors_as_they_are(packed: Packed, shard_format: str) -> None:
    fields = {"image": fastload.Image(64, crop="random"), "label": fastload.Scalar(), "text": fastload.Text()}
    data = packed(shard_format, SIZES, ("image", "text", "label"))
    loader = fastload.DataLoader(data, 8, fields=fields, num_workers=2, window=2)

    def run(epochs: int) -> None:
        for epoch in range(epochs):
            for number, batch in enumerate(loader):
                assert batch.rows
                if epoch % 5 == 0 and number == 3:
                    break

    run(40)
    gc.collect()
    before, memory = Leftovers(), own_memory()
    run(100)
    before.assert_none()
    gc.collect()
    assert own_memory() - memory < 4 << 20, "one batch has 100 kB: 100 epochs of lost ones would be seen"


def test_an_epoch_takes_no_more_memory_than_the_batches_in_work(packed: Packed) -> None:
    fields = {"image": fastload.Image(512, crop="random")}
    batches = iter(fastload.DataLoader(packed("tar", SIZES), 4, fields=fields, num_workers=2))
    size = next(batches)["image"].nbytes
    memory = own_memory()
    most = max(own_memory() - memory for _ in batches)
    assert most < 4 * size + (4 << 20), "two are ahead, one is in hand and one about to be: not all 15"
