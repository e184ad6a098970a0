"""A slow handler of a real server, reported while it is slow; and the span that OpenTelemetry makes of it."""

import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")

APP = """
import time

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("http only")
    await handler()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})

async def handler():
    time.sleep(2)
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.parametrize("way", ["the command", "WHILST_SLOW"])
def test_uvicorn(tmp_path: Path, driver: str, way: str) -> None:
    (tmp_path / "app.py").write_text(APP)
    port = free_port()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    environment.pop("WHILST_SLOW", None)
    if way == "WHILST_SLOW":
        environment["WHILST_SLOW"] = "0.1"
    command = ["-m", "whilst"] if way == "the command" else []
    uvicorn = ["-m", "uvicorn", "app:app", "--port", str(port), "--loop", "whilst:new_event_loop"]
    process = subprocess.Popen(
        [sys.executable, *command, *uvicorn], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    lines: queue.Queue[tuple[float, str]] = queue.Queue()

    def read() -> None:
        assert process.stderr
        for line in process.stderr:
            lines.put((time.monotonic(), line.rstrip()))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        while "Uvicorn running" not in lines.get(timeout=30)[1]:
            pass
        begin = time.monotonic()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as response:
            assert response.read() == b"done"
        answered = time.monotonic() - begin
        told, text = lines.get(timeout=30)
        while "event loop is blocked" not in text:
            told, text = lines.get(timeout=30)
    finally:
        process.terminate()
        process.wait(30)
        reader.join(30)
        process.stderr and process.stderr.close()
    line = APP.splitlines().index("    time.sleep(2)") + 1
    assert answered > 2
    # Well before the end of that.
    assert told - begin < answered - 1
    assert text.endswith(f"by time.sleep(2) at {tmp_path / 'app.py'}:{line}, in handler")
    rest = [lines.get(timeout=1)[1] for _ in range(lines.qsize())]
    assert rest[0] == "  In a coroutine write: await asyncio.sleep(2)"
    # Reported once, and not again when it is over.
    assert not any("event loop" in text for text in rest)


SPANS = """
import asyncio, json, sys, time
import whilst
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter = InMemorySpanExporter()
trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))

async def handler():
    with trace.get_tracer("test").start_as_current_span("request"):
        time.sleep(0.5)

async def main():
    await asyncio.create_task(handler(), name="the handler")
    await asyncio.sleep(0.01)

whilst.run(main())
spans = {span.name: span for span in exporter.get_finished_spans()}
blocked, request = spans["event loop blocked"], spans["request"]
print(json.dumps({
    "attributes": dict(blocked.attributes),
    "seconds": (blocked.end_time - blocked.start_time) / 1e9,
    "is_inside": request.start_time - 1e8 < blocked.start_time < request.end_time,
    "parent": blocked.parent and blocked.parent.span_id == request.context.span_id,
}, default=list))
"""


def test_open_telemetry(tmp_path: Path, driver: str) -> None:
    pytest.importorskip("opentelemetry.sdk")
    file = tmp_path / "app.py"
    file.write_text(SPANS)
    ran = subprocess.run(
        [sys.executable, str(file)],
        env={**os.environ, "WHILST_SLOW": "0.1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    told = json.loads(ran.stdout)
    attributes = told["attributes"]
    assert attributes["code.file.path"] == str(file)
    assert attributes["code.line.number"] == SPANS.splitlines().index("        time.sleep(0.5)") + 1
    assert attributes["code.function.name"] == "handler"
    assert attributes["whilst.task"] == "the handler"
    assert attributes["whilst.hint"] == "await asyncio.sleep(0.5)"
    assert told["is_inside"]
    assert 0.3 < told["seconds"] < 1
    # Before 3.12 a task does not tell its context.
    assert told["parent"] is (True if sys.version_info >= (3, 12) else None)


def test_open_telemetry_is_not_imported_for_it(tmp_path: Path) -> None:
    file = tmp_path / "app.py"
    file.write_text(
        "import asyncio, sys, time, whilst\n"
        "async def main(): time.sleep(0.4)\n"
        "whilst.run(main())\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])\n"
    )
    ran = subprocess.run(
        [sys.executable, str(file)],
        env={**os.environ, "WHILST_SLOW": "0.1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ran.stdout == "[]\n"
    assert "time.sleep(0.4)" in ran.stderr
