"""A loader's stats as Prometheus, TensorBoard and the log see them."""

from __future__ import annotations

import logging
import socket
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

import prometheus_client
import prometheus_client.parser
import pytest

import fastload
from fastload.errors import ConfigError
from fastload.export.prometheus import collect, serve
from fastload.export.summary import line, rates
from fastload.export.tensorboard import Scalars
from fastload.loader import DataLoader

Packed = Callable[..., Path]
IMAGE = {"image": fastload.Image(8), "label": fastload.Scalar()}


@pytest.fixture
def loader(packed: Packed) -> DataLoader:
    return DataLoader(packed("tar", [40]), 8, fields=IMAGE, num_workers=1, prefetch_factor=3)


def scraped(port: int) -> dict[tuple[str, ...], float]:
    """What a Prometheus server would read: (name, label values ...) -> value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        families = prometheus_client.parser.text_string_to_metric_families(answer.read().decode())
        return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}


def test_a_server_reads_what_stats_say_while_the_loader_goes_on(loader: DataLoader) -> None:
    threads = threading.active_count()
    with serve({"train": loader, "val": loader}, port=0) as port:
        before = scraped(port)
        assert before["fastload_batches_total", "train"] == 0
        for _ in loader:
            pass
        after, stats = scraped(port), loader.stats()
    for name, value in (
        ("batches", stats.batches),
        ("samples", stats.samples),
        ("consumer_seconds", stats.consumer_seconds),
        ("waiting_seconds", stats.waiting_seconds),
        ("thread_seconds", stats.thread_seconds),
        ("idle_seconds", stats.idle_seconds),
    ):
        assert after[f"fastload_{name}_total", "train"] == pytest.approx(value), name
        assert after[f"fastload_{name}_total", "val"] == pytest.approx(value), name
    for stage, passed in stats.stages.items():
        assert after["fastload_stage_busy_seconds_total", "train", stage] == pytest.approx(passed.busy_seconds)
        assert after["fastload_stage_items_total", "train", stage] == passed.items
        assert after["fastload_stage_bytes_total", "train", stage] == passed.bytes
    ready = {int(labels[1]): value for (name, *labels), value in after.items() if name == "fastload_batches_ready_total"
             and labels[0] == "train"}  # fmt: skip
    assert ready == dict(enumerate(stats.ready))
    assert (after["fastload_threads", "train"], after["fastload_prefetch", "train"]) == (1, 3)
    assert threading.active_count() == threads, "the server ends with its context"


def test_a_registry_reads_loaders_as_long_as_it_is_told_to(loader: DataLoader) -> None:
    registry = prometheus_client.CollectorRegistry()
    with collect({"train": loader}, registry):
        assert registry.get_sample_value("fastload_samples_total", {"loader": "train"}) == 0
        with (
            pytest.raises(ConfigError, match="the registry has such metrics already"),
            collect({"b": loader}, registry),
        ):
            pass
    assert registry.get_sample_value("fastload_samples_total", {"loader": "train"}) is None
    with collect({"train": loader}):
        assert prometheus_client.REGISTRY.get_sample_value("fastload_samples_total", {"loader": "train"}) == 0
    with pytest.raises(ConfigError, match="prometheus: no loaders"), collect({}):
        pass


def test_a_port_that_is_taken_is_refused_by_name(loader: DataLoader) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(ConfigError, match=f"prometheus: cannot listen on 127.0.0.1:{port}"),
            serve({"train": loader}, port),
        ):
            pass


def test_tensorboard_gets_what_lies_between_two_writes(loader: DataLoader, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        scalars = Scalars(writer, loader, "train")
        scalars.write(0)  # nothing was handed out, and nothing is written
        for epoch in range(2):
            before = loader.stats()
            for _ in loader:
                pass
            expected = rates(loader.stats() - before)
            scalars.write(10 * (epoch + 1))
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    assert set(read.Tags()["scalars"]) == {"train/samples_per_second", "train/waiting"}
    for tag in ("samples_per_second", "waiting"):
        events = read.Scalars(f"train/{tag}")
        assert [event.step for event in events] == [10, 20]
        assert events[-1].value == pytest.approx(expected[tag], rel=1e-3)
    for stage in loader.stats().stages:
        one = EventAccumulator(str(tmp_path / f"train_stage_ms_{stage}"))
        one.Reload()
        events = one.Scalars("train/stage_ms")
        assert events[-1].value == pytest.approx(expected[f"{stage}_ms"], rel=1e-3, abs=1e-6)


def test_every_epoch_is_a_line_in_the_log_where_info_is_wanted(
    loader: DataLoader, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in loader:
        pass
    assert caplog.records == [], "nobody asked"
    with caplog.at_level(logging.INFO, logger="fastload.loader"):
        before = loader.stats()
        for _ in loader:
            pass
        next(batches := iter(loader))
        batches.close()  # type: ignore[attr-defined]
        iter(loader)  # never used
    whole, left = (record.getMessage() for record in caplog.records)
    assert whole.startswith("epoch 1: 5 batches, 40 samples in ")
    assert " samples/s, " in whole
    assert left.startswith("epoch 2: 1 batches, 8 samples in ")
    text = line(loader.stats() - before)
    assert text.startswith("6 batches, 48 samples in ")
    assert [word for word in ("read", "decode", "assemble", "copy", "augment", "step") if f"{word} " not in text] == []
