"""The numbers of this process's loops for Prometheus. Needs the package ``prometheus_client``.

``whilst.prometheus.register()`` once, and each scrape has the numbers of all loops that there are by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from whilst._loop import running
from whilst._metrics import Metrics

__all__ = ["LoopCollector", "register"]

_Number = Callable[[Metrics], float]

_COUNTERS: tuple[tuple[str, str, _Number], ...] = (
    ("iterations", "Iterations of the loop.", lambda metrics: metrics.iterations),
    ("callbacks", "Callbacks and pieces of work of transports run.", lambda metrics: metrics.callbacks),
    ("polls", "Questions to the kernel what is ready.", lambda metrics: metrics.polls),
    ("wakes", "Waits ended or forestalled by other threads.", lambda metrics: metrics.wakes),
    ("thread_calls", "Callbacks sent by other threads.", lambda metrics: metrics.thread_calls),
    ("received_bytes", "Bytes received, on the wire.", lambda metrics: metrics.bytes_received),
    ("sent_bytes", "Bytes sent, on the wire.", lambda metrics: metrics.bytes_sent),
    (
        "callback_seconds",
        "Time in callbacks since times are measured.",
        lambda metrics: metrics.callback_seconds,
    ),
    ("poll_seconds", "Time in waits since times are measured.", lambda metrics: metrics.poll_seconds),
)

_GAUGES: tuple[tuple[str, str, _Number], ...] = (
    ("ready", "Callbacks and pieces of work that wait for their turn.", lambda metrics: metrics.ready),
    ("timers", "Timers that wait for their time.", lambda metrics: metrics.timers),
    ("servers", "Sockets that the loop accepts connections on.", lambda metrics: metrics.servers),
    ("watches", "Descriptors that are watched.", lambda metrics: metrics.watches),
    (
        "held_seconds",
        "How long the present iteration has been running.",
        lambda metrics: metrics.held,
    ),
    (
        "lag_max_seconds",
        "The longest lag of the last minute, the present iteration's included.",
        lambda metrics: metrics.lag_max_60s,
    ),
)


class LoopCollector(Collector):
    """Collects the numbers of the process's loops when Prometheus asks. Those that are closed have none.

    The label ``loop`` is the loop's number in the process, from 1. Asking begins to measure times, as
    :meth:`whilst.Loop.metrics` does.
    """

    def describe(self) -> Iterator[Metric]:
        """Name what is collected, without asking any loop."""
        return _families([])

    def collect(self) -> Iterator[Metric]:
        """Ask the loops."""
        metrics = [loop.metrics() for loop in running.loops()]
        return _families([numbers for numbers in metrics if numbers.state != "closed"])


def register(registry: CollectorRegistry = REGISTRY) -> LoopCollector:
    """Have *registry* collect the numbers of the loops. Return the collector, for ``registry.unregister()``.

    Raises ValueError if the registry has one already.
    """
    collector = LoopCollector()
    registry.register(collector)
    return collector


def _families(loops: list[Metrics]) -> Iterator[Metric]:
    info = InfoMetricFamily("whilst_loop", "The loop's driver.", labels=["loop"])
    for metrics in loops:
        info.add_metric([str(metrics.loop)], {"driver": metrics.driver})
    yield info

    for name, documentation, number in _COUNTERS:
        counter = CounterMetricFamily(f"whilst_loop_{name}", documentation, labels=["loop"])
        for metrics in loops:
            counter.add_metric([str(metrics.loop)], number(metrics))
        yield counter

    for name, documentation, number in _GAUGES:
        gauge = GaugeMetricFamily(f"whilst_loop_{name}", documentation, labels=["loop"])
        for metrics in loops:
            gauge.add_metric([str(metrics.loop)], number(metrics))
        yield gauge

    transports = GaugeMetricFamily(
        "whilst_loop_transports", "Open transports, by kind.", labels=["loop", "kind"]
    )
    for metrics in loops:
        for kind, count in metrics.transports.items():
            transports.add_metric([str(metrics.loop), kind], count)
    yield transports

    lag = HistogramMetricFamily(
        "whilst_loop_lag_seconds", "How long what became ready had to wait at most.", labels=["loop"]
    )
    for metrics in loops:
        buckets = [(repr(bound), float(count)) for bound, count in metrics.lag_buckets]
        buckets.append(("+Inf", float(metrics.lag_count)))
        lag.add_metric([str(metrics.loop)], buckets, metrics.lag_seconds)
    yield lag
