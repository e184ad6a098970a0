"""The numbers of this process's loops for OpenTelemetry. Needs the package ``opentelemetry-api``.

``whilst.opentelemetry.instrument()`` once, and each collection has the numbers of all loops that there are by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider

from whilst._loop import running
from whilst._metrics import Metrics
from whilst._whilst import __version__

__all__ = ["instrument"]

#: The attribute that says which loop: its number in the process, from 1.
_LOOP = "whilst.loop.id"

_Observe = Callable[[Metrics], Iterable[tuple[float, dict[str, str]]]]


def instrument(meter_provider: MeterProvider | None = None) -> None:
    """Make the instruments, with this provider or OpenTelemetry's global one.

    Closed loops have no numbers. Each collection begins to measure times of loops that are new, as
    :meth:`whilst.Loop.metrics` does.
    """
    meter = (meter_provider or get_meter_provider()).get_meter("whilst", __version__)

    def count(name: str, unit: str, description: str, observe: _Observe) -> None:
        meter.create_observable_counter(
            f"whilst.loop.{name}", [_observer(observe)], unit=unit, description=description
        )

    def measure(name: str, unit: str, description: str, observe: _Observe) -> None:
        meter.create_observable_up_down_counter(
            f"whilst.loop.{name}", [_observer(observe)], unit=unit, description=description
        )

    count("iterations", "{iteration}", "Iterations of the loop.", lambda it: [(it.iterations, {})])
    count(
        "callbacks",
        "{callback}",
        "Callbacks and pieces of work of transports run.",
        lambda it: [(it.callbacks, {})],
    )
    count("polls", "{poll}", "Questions to the kernel what is ready.", lambda it: [(it.polls, {})])
    count("wakes", "{wake}", "Waits ended or forestalled by other threads.", lambda it: [(it.wakes, {})])
    count("thread_calls", "{call}", "Callbacks sent by other threads.", lambda it: [(it.thread_calls, {})])
    count(
        "io",
        "By",
        "Bytes received and sent, on the wire.",
        lambda it: [
            (it.bytes_received, {"network.io.direction": "receive"}),
            (it.bytes_sent, {"network.io.direction": "transmit"}),
        ],
    )
    count(
        "time",
        "s",
        "Time in callbacks (active) and in waits (idle).",
        lambda it: [
            (it.callback_seconds, {"whilst.loop.state": "active"}),
            (it.poll_seconds, {"whilst.loop.state": "idle"}),
        ],
    )
    measure(
        "ready",
        "{callback}",
        "Callbacks and pieces of work that wait for their turn.",
        lambda it: [(it.ready, {})],
    )
    measure("timers", "{timer}", "Timers that wait for their time.", lambda it: [(it.timers, {})])
    measure(
        "servers", "{socket}", "Sockets that the loop accepts connections on.", lambda it: [(it.servers, {})]
    )
    measure("watches", "{descriptor}", "Descriptors that are watched.", lambda it: [(it.watches, {})])
    measure(
        "transports",
        "{transport}",
        "Open transports, by kind.",
        lambda it: [(number, {"whilst.transport.kind": kind}) for kind, number in it.transports.items()],
    )
    meter.create_observable_gauge(
        "whilst.loop.lag.max",
        [_observer(lambda it: [(it.lag_max_60s, {})])],
        unit="s",
        description="How long what became ready had to wait at most, in the last minute.",
    )
    meter.create_observable_gauge(
        "whilst.loop.held",
        [_observer(lambda it: [(it.held, {})])],
        unit="s",
        description="How long the present iteration has been running.",
    )


def _observer(observe: _Observe) -> Callable[[CallbackOptions], Iterator[Observation]]:
    def look(_options: CallbackOptions) -> Iterator[Observation]:
        for loop in running.loops():
            metrics = loop.metrics()
            if metrics.state != "closed":
                for number, attributes in observe(metrics):
                    yield Observation(number, {_LOOP: metrics.loop, **attributes})

    return look
