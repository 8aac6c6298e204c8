"""Loaders as metrics of Prometheus, read from their meters whenever a server asks: nothing runs in between.

    fastload_batches_total, fastload_samples_total              {loader}
    fastload_consumer_seconds_total                             {loader}  wall time of iterations
    fastload_waiting_seconds_total                              {loader}  of it, waiting for batches
    fastload_stage_busy_seconds_total, _items_total, _bytes_total   {loader, stage}
    fastload_thread_seconds_total, fastload_idle_seconds_total  {loader}  of the decode threads
    fastload_batches_ready_total                                {loader, ready}  asked when so many were ready
    fastload_threads, fastload_prefetch                         {loader}  in force

The share of waiting over five minutes is rate(fastload_waiting_seconds_total[5m]) /
rate(fastload_consumer_seconds_total[5m]).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from fastload.errors import ConfigError, missing_extra
from fastload.meter import Stats


class Measured(Protocol):
    """What is exported: a fastload.DataLoader."""

    num_workers: int
    prefetch_factor: int

    def stats(self) -> Stats: ...


_BY_LOADER: tuple[tuple[str, str, Callable[[Stats], float]], ...] = (
    ("batches", "Batches handed out.", lambda stats: stats.batches),
    ("samples", "Samples handed out.", lambda stats: stats.samples),
    ("consumer_seconds", "Wall time of iterations.", lambda stats: stats.consumer_seconds),
    ("waiting_seconds", "Of it, waiting for a batch and putting it together.", lambda stats: stats.waiting_seconds),
    ("thread_seconds", "Wall time of decode threads, summed.", lambda stats: stats.thread_seconds),
    ("idle_seconds", "Of it, without work.", lambda stats: stats.idle_seconds),
)
_BY_STAGE = (
    ("stage_busy_seconds", "Busy time, summed over threads.", "busy_seconds"),
    ("stage_items", "Samples that passed.", "items"),
    ("stage_bytes", "Bytes that passed, where they are counted.", "bytes"),
)


class _Collector:
    """What a registry asks."""

    def __init__(self, loaders: Mapping[str, Measured], client: Any) -> None:
        self._loaders, self._core = dict(loaders), client

    def describe(self) -> Iterator[Any]:
        """By these a registry notices that another reads loaders for it already."""
        return self.collect()

    def collect(self) -> Iterator[Any]:
        """The metrics, as of now; for any thread."""
        stats = {name: loader.stats() for name, loader in self._loaders.items()}
        for name, text, value in _BY_LOADER:
            family = self._core.CounterMetricFamily(f"fastload_{name}", text, labels=["loader"])
            for loader, found in stats.items():
                family.add_metric([loader], value(found))
            yield family
        for name, text, attribute in _BY_STAGE:
            family = self._core.CounterMetricFamily(f"fastload_{name}", text, labels=["loader", "stage"])
            for loader, found in stats.items():
                for stage, passed in found.stages.items():
                    family.add_metric([loader, stage], getattr(passed, attribute))
            yield family
        ready = self._core.CounterMetricFamily(
            "fastload_batches_ready", "How often so many were ready when one was asked for.", labels=["loader", "ready"]
        )
        for loader, found in stats.items():
            for number, count in enumerate(found.ready):
                ready.add_metric([loader, str(number)], count)
        yield ready
        for name, text, attribute in (
            ("threads", "Decode threads.", "num_workers"),
            ("prefetch", "Batches ahead.", "prefetch_factor"),
        ):
            gauge = self._core.GaugeMetricFamily(f"fastload_{name}", text, labels=["loader"])
            for loader, measured in self._loaders.items():
                gauge.add_metric([loader], getattr(measured, attribute))
            yield gauge


@contextmanager
def collect(loaders: Mapping[str, Measured], registry: Any = None) -> Iterator[None]:
    """Have a registry of `prometheus_client` read these loaders, for as long as the context lasts.

    Args:
        loaders: by the name that their label `loader` gets, such as {"train": loader}.
        registry: a CollectorRegistry; None: the default one, which a program that exports already serves.

    Raises:
        MissingExtraError: prometheus_client is not installed.
        ConfigError: no loaders, or the registry reads others under these metrics already: pass all at once.
    """
    try:
        import prometheus_client
        import prometheus_client.core
    except ImportError:
        raise missing_extra("prometheus_client", "prometheus", "metrics for Prometheus") from None
    if not loaders:
        raise ConfigError("prometheus: no loaders; pass {'train': loader}")
    registry = prometheus_client.REGISTRY if registry is None else registry
    collector = _Collector(loaders, prometheus_client.core)
    try:
        registry.register(collector)
    except ValueError as error:
        raise ConfigError(
            f"prometheus: the registry has such metrics already ({error}); pass all loaders in one call, or a registry "
            "of its own"
        ) from None
    try:
        yield
    finally:
        registry.unregister(collector)


@contextmanager
def serve(loaders: Mapping[str, Measured], port: int, address: str = "127.0.0.1") -> Iterator[int]:
    """Serve the metrics of these loaders, and nothing else, under http://address:port/metrics for as long as the
    context lasts. On several ranks, each needs a port of its own.

    Args:
        loaders: as for `collect`.
        port: 0 takes a free one.
        address: where to listen; "0.0.0.0" for all of the network, which then can read them.

    Yields:
        The port.

    Raises:
        MissingExtraError: prometheus_client is not installed.
        ConfigError: no loaders, or the port cannot be had.
    """
    try:
        import prometheus_client
    except ImportError:
        raise missing_extra("prometheus_client", "prometheus", "metrics for Prometheus") from None
    registry = prometheus_client.CollectorRegistry()
    with ExitStack() as stack:
        stack.enter_context(collect(loaders, registry))
        try:
            server, thread = prometheus_client.start_http_server(port, address, registry)
        except OSError as error:
            raise ConfigError(f"prometheus: cannot listen on {address}:{port}: {error.strerror or error}") from None
        try:
            yield server.server_port
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
