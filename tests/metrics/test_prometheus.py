"""The numbers by way of Prometheus' own client and OpenTelemetry's own SDK."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import whilst

prometheus_client = pytest.importorskip("prometheus_client")
metrics_export = pytest.importorskip("opentelemetry.sdk.metrics.export")

import whilst.opentelemetry  # noqa: E402
import whilst.prometheus  # noqa: E402
from opentelemetry.sdk.metrics import MeterProvider  # noqa: E402
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics  # noqa: E402
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

SECONDS = 30.0


@pytest.fixture
def loop(driver: str) -> Iterator[whilst.Loop]:
    loop = whilst.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def registry() -> Any:
    registry = prometheus_client.CollectorRegistry()
    whilst.prometheus.register(registry)
    return registry


@contextlib.contextmanager
def running_in_a_thread() -> Iterator[whilst.Loop]:
    loop = whilst.new_event_loop()
    begun = threading.Event()

    def run() -> None:
        loop.call_soon(begun.set)
        loop.run_forever()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert begun.wait(SECONDS)
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(SECONDS)
        loop.close()


def label(loop: whilst.Loop) -> dict[str, str]:
    return {"loop": str(loop.metrics().loop)}


def work(loop: whilst.Loop) -> None:
    async def main() -> None:
        await asyncio.sleep(0.01)
        time.sleep(0.02)
        await asyncio.sleep(0.01)

    loop.run_until_complete(main())


def test_counters_are_the_loops(loop: whilst.Loop, registry: Any) -> None:
    loop.metrics()
    work(loop)
    metrics = loop.metrics()
    assert registry.get_sample_value("whilst_loop_iterations_total", label(loop)) == metrics.iterations
    assert registry.get_sample_value("whilst_loop_callbacks_total", label(loop)) == metrics.callbacks
    assert registry.get_sample_value("whilst_loop_polls_total", label(loop)) == metrics.polls
    seconds = registry.get_sample_value("whilst_loop_callback_seconds_total", label(loop))
    assert seconds == metrics.callback_seconds >= 0.02
    assert registry.get_sample_value("whilst_loop_poll_seconds_total", label(loop)) >= 0.02
    assert registry.get_sample_value("whilst_loop_sent_bytes_total", label(loop)) == 0
    assert registry.get_sample_value("whilst_loop_lag_max_seconds", label(loop)) >= 0.02


def test_lag_is_a_histogram(loop: whilst.Loop, registry: Any) -> None:
    loop.metrics()
    work(loop)
    count = registry.get_sample_value("whilst_loop_lag_seconds_count", label(loop))
    assert count == loop.metrics().lag_count
    assert registry.get_sample_value("whilst_loop_lag_seconds_bucket", {**label(loop), "le": "+Inf"}) == count
    short = registry.get_sample_value("whilst_loop_lag_seconds_bucket", {**label(loop), "le": "0.01"})
    assert 0 < short < count
    assert registry.get_sample_value("whilst_loop_lag_seconds_sum", label(loop)) >= 0.02


def test_the_text_is_prometheus_own(loop: whilst.Loop, registry: Any) -> None:
    text = prometheus_client.generate_latest(registry).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["whilst_loop_iterations"].type == "counter"
    assert families["whilst_loop_ready"].type == "gauge"
    assert families["whilst_loop_lag_seconds"].type == "histogram"
    assert all(family.documentation for family in families.values())
    kinds = {
        sample.labels["kind"]
        for sample in families["whilst_loop_transports"].samples
        if sample.labels["loop"] == label(loop)["loop"]
    }
    assert kinds == {"tcp", "udp", "unix", "pipe", "tls", "other"}
    assert b"# EOF" in generate_openmetrics(registry)


def test_registered_twice_is_refused(registry: Any) -> None:
    with pytest.raises(ValueError, match="Duplicated"):
        whilst.prometheus.register(registry)


def test_it_can_be_taken_away_again(loop: whilst.Loop) -> None:
    registry = prometheus_client.CollectorRegistry()
    collector = whilst.prometheus.register(registry)
    assert registry.get_sample_value("whilst_loop_ready", label(loop)) == 0
    registry.unregister(collector)
    assert registry.get_sample_value("whilst_loop_ready", label(loop)) is None


def test_all_loops_that_are_not_closed(driver: str, registry: Any) -> None:
    with running_in_a_thread() as one, running_in_a_thread() as other:
        for loop in (one, other):
            info = {**label(loop), "driver": driver}
            assert registry.get_sample_value("whilst_loop_info", info) == 1
            assert registry.get_sample_value("whilst_loop_iterations_total", label(loop)) >= 1
    for loop in (one, other):
        assert registry.get_sample_value("whilst_loop_iterations_total", label(loop)) is None


def test_scraped_over_http_while_the_loop_works(loop: whilst.Loop, registry: Any) -> None:
    """Prometheus' own server is in a thread of its own."""
    import urllib.request

    server, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry)
    try:

        async def main() -> str:
            url = f"http://127.0.0.1:{server.server_port}/metrics"
            answer = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=SECONDS).read())
            return str(answer.decode())

        text = loop.run_until_complete(main())
    finally:
        server.shutdown()
        server.server_close()
        thread.join(SECONDS)
    assert f'whilst_loop_iterations_total{{loop="{label(loop)["loop"]}"}}' in text


def test_opentelemetry(loop: whilst.Loop) -> None:
    reader = metrics_export.InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    whilst.opentelemetry.instrument(provider)
    loop.metrics()
    work(loop)
    metrics = loop.metrics()
    data = reader.get_metrics_data()
    found = {
        metric.name: metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }

    def value(name: str, **attributes: str) -> float:
        wanted = {"whilst.loop.id": metrics.loop} | {
            key.replace("__", "."): text for key, text in attributes.items()
        }
        points = [point for point in found[name].data.data_points if dict(point.attributes) == wanted]
        assert len(points) == 1
        return float(points[0].value)

    assert value("whilst.loop.iterations") == metrics.iterations
    assert value("whilst.loop.callbacks") == metrics.callbacks
    assert value("whilst.loop.time", whilst__loop__state="active") == metrics.callback_seconds
    assert value("whilst.loop.time", whilst__loop__state="idle") == metrics.poll_seconds
    assert value("whilst.loop.io", network__io__direction="receive") == 0
    assert value("whilst.loop.transports", whilst__transport__kind="tcp") == 0
    assert value("whilst.loop.lag.max") >= 0.02
    assert (found["whilst.loop.time"].unit, found["whilst.loop.io"].unit) == ("s", "By")
    assert found["whilst.loop.iterations"].data.is_monotonic
    assert not found["whilst.loop.timers"].data.is_monotonic
    provider.shutdown()
