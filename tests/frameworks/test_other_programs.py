"""FastAPI, gunicorn, Tornado, and the two plugins that run coroutines as tests: less deep than the servers of
`test_http_servers`, far enough to say that they run."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from serving import MIB, WAIT_SECONDS, Program, free_port, payload, payload_sha256, wait_for
from test_clients import on_whilst

LARGE = 16 * MIB


def ask(
    port: int, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)
    try:
        connection.request(method, path, body, headers or {})  # type: ignore[arg-type]
        response = connection.getresponse()
        answer = response.read()
        assert response.status == 200, (response.status, answer)
        return answer
    finally:
        connection.close()


def check_fastapi(port: int) -> None:
    assert json.loads(ask(port, "GET", "/facts"))["tasks"] >= 1  # the app itself checks the loop's class
    item = json.dumps({"name": "tea", "price": 1.5})
    answer = ask(port, "POST", "/items/3", item, {"Content-Type": "application/json"})
    assert json.loads(answer) == {"number": 3, "total": 4.5}
    # A background task runs after the response, in a thread of its own.
    assert wait_for(lambda: json.loads(ask(port, "GET", "/done")), "the background task is done") == ["tea"]
    parts = [
        '--b\r\nContent-Disposition: form-data; name="key"\r\n\r\nvalue\r\n',
        '--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        + "x" * 3 * MIB
        + "\r\n--b--\r\n",
    ]
    answer = ask(port, "POST", "/form", "".join(parts), {"Content-Type": "multipart/form-data; boundary=b"})
    assert json.loads(answer) == {"key": "value", "size": 3 * MIB}
    from websockets.sync.client import connect

    with connect(f"ws://127.0.0.1:{port}/socket", proxy=None, open_timeout=WAIT_SECONDS) as socket:
        socket.send("hello")
        assert json.loads(socket.recv(WAIT_SECONDS)) == {"text": "hello"}


def test_fastapi_under_uvicorn(driver: str) -> None:
    port = free_port()
    arguments = ["-m", "uvicorn", "--loop", "whilst:new_event_loop", "--port", str(port), "fastapi_app:app"]
    with Program(arguments, driver=driver, port=port) as program:
        check_fastapi(port)
        program.signal(signal.SIGINT)
        assert program.wait() == 0
        assert program.complaints() == []


def test_fastapi_under_gunicorn(driver: str) -> None:
    """The worker is forked: the loop is made after the fork, in the child."""
    port = free_port()
    arguments = ["-m", "gunicorn", "--worker-class", "gunicorn_worker.WhilstWorker", "--workers", "1"]
    arguments += [
        "--worker-tmp-dir",
        "/dev/shm",
        "--no-control-socket",
        "--bind",
        f"127.0.0.1:{port}",
        "fastapi_app:app",
    ]
    with Program(arguments, driver=driver, port=port) as program:
        check_fastapi(port)
        program.signal(signal.SIGTERM)
        assert program.wait() == 0
        assert program.complaints() == []


def test_tornado_server(driver: str) -> None:
    port = free_port()
    with Program(["tornado_app.py", str(port)], driver=driver, port=port) as program:
        ask(port, "GET", "/facts")
        answer = ask(port, "POST", "/upload", payload(LARGE), {"Content-Length": str(LARGE)})
        assert json.loads(answer) == {"size": LARGE, "sha256": payload_sha256(LARGE)}
        body = ask(port, "GET", f"/download?size={LARGE}")
        assert hashlib.sha256(body).hexdigest() == payload_sha256(LARGE)
        from websockets.sync.client import connect

        with connect(f"ws://127.0.0.1:{port}/echo", proxy=None, open_timeout=WAIT_SECONDS) as socket:
            for message in ("hello", b"bytes" * 10_000):
                socket.send(message)
                assert socket.recv(WAIT_SECONDS) == message
        program.signal(signal.SIGTERM)
        assert program.wait() == 0
        assert "the app's own shutdown ran" in program.output()
        assert program.complaints() == []


@pytest.mark.usefixtures("here")
def test_tornado_client(driver: str) -> None:
    port = free_port()
    with Program(["tornado_app.py", str(port)], driver=driver, port=port):

        async def main() -> None:
            from tornado.httpclient import AsyncHTTPClient
            from tornado.websocket import websocket_connect

            client = AsyncHTTPClient()
            answers = await asyncio.gather(
                *(client.fetch(f"http://127.0.0.1:{port}/facts") for _ in range(20))
            )
            assert all(answer.code == 200 for answer in answers)
            client.close()
            socket = await websocket_connect(f"ws://127.0.0.1:{port}/echo")
            for number in range(100):
                await socket.write_message(str(number))
                assert await socket.read_message() == str(number)
            socket.close()
            assert await socket.read_message() is None

        on_whilst(main())


TEST_FILE = """
import asyncio
import pytest
import whilst

@pytest.fixture
async def echo_port():
    async def echo(reader, writer):
        writer.write(await reader.readline())
        writer.close()
    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]

{mark}
async def test_echo(echo_port):
    assert isinstance(asyncio.get_running_loop(), whilst.Loop)
    reader, writer = await asyncio.open_connection("127.0.0.1", echo_port)
    writer.write(b"hello\\n")
    assert await reader.readline() == b"hello\\n"
    writer.close()
    await writer.wait_closed()

{mark}
@pytest.mark.parametrize("number", range(20))
async def test_many_loops(number):
    await asyncio.sleep(0)
    assert isinstance(asyncio.get_running_loop(), whilst.Loop)
"""

PYTEST_ASYNCIO_CONFTEST = """
import whilst

def pytest_asyncio_loop_factories(config, item):
    return {"whilst": whilst.new_event_loop}
"""

ANYIO_CONFTEST = """
import pytest
import whilst

@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": whilst.new_event_loop}
"""


def run_pytest(folder: Path, driver: str, conftest: str, mark: str, command: list[str]) -> None:
    (folder / "conftest.py").write_text(conftest)
    text = TEST_FILE.replace("{mark}", mark)
    if "asyncio" in mark:
        text = text.replace("@pytest.fixture", "@pytest_asyncio.fixture").replace(
            "import pytest", "import pytest_asyncio, pytest"
        )
    (folder / "test_it.py").write_text(text)
    (folder / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = strict\nasyncio_default_fixture_loop_scope = function\n"
    )
    arguments = [*command, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(folder)]
    with Program(arguments, driver=driver, cwd=folder) as program:
        assert program.wait() == 0
        assert "21 passed" in program.output()


def test_pytest_asyncio_with_its_hook(driver: str, tmp_path: Path) -> None:
    plugin = pytest.importorskip("pytest_asyncio.plugin")
    if not hasattr(plugin.PytestAsyncioSpecs, "pytest_asyncio_loop_factories"):
        pytest.skip("this pytest-asyncio has no hook for loop factories yet")
    run_pytest(tmp_path, driver, PYTEST_ASYNCIO_CONFTEST, "@pytest.mark.asyncio", [])


def test_pytest_asyncio_under_the_command(driver: str, tmp_path: Path) -> None:
    pytest.importorskip("pytest_asyncio")
    run_pytest(tmp_path, driver, "", "@pytest.mark.asyncio", ["-m", "whilst"])


def test_anyio_s_plugin(driver: str, tmp_path: Path) -> None:
    run_pytest(tmp_path, driver, ANYIO_CONFTEST, "@pytest.mark.anyio", [])


KERNEL = """
import asyncio
print(type(asyncio.get_running_loop()).__name__)
async def echo(reader, writer):
    writer.write(await reader.readline())
    writer.close()
server = await asyncio.start_server(echo, "127.0.0.1", 0)
reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
writer.write(b"hello\\n")
print(await reader.readline())
writer.close()
server.close()
"""


@pytest.mark.parametrize("how", ["command", "install"])
@pytest.mark.usefixtures("here")
def test_jupyter_kernel(how: str) -> None:
    """A notebook's kernel. Its shell channel's loop runs in a thread, and is given a reader from another."""
    pytest.importorskip("ipykernel")
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import KernelManager

    if how == "command":
        start = ["-m", "whilst", "-m", "ipykernel_launcher"]
    else:
        start = [
            "-c",
            "import whilst; whilst.install(); import ipykernel.kernelapp as k; k.launch_new_instance()",
        ]
    manager = KernelManager()
    argv = [sys.executable, *start, "-f", "{connection_file}"]
    manager._kernel_spec = KernelSpec(argv=argv, display_name="whilst", language="python")
    printed = []

    def hear(message: Any) -> None:
        if message["msg_type"] in ("stream", "error"):
            printed.append(message["content"].get("text") or message["content"]["evalue"])

    manager.start_kernel(stderr=subprocess.DEVNULL)
    client = manager.client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=WAIT_SECONDS)
        client.execute_interactive(KERNEL, timeout=WAIT_SECONDS, output_hook=hear)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert "".join(printed) == "Loop\nb'hello\\n'\n"


DASK = """
import whilst
whilst.install()
import asyncio
from distributed import Client, LocalCluster

def increment(number):
    return number + 1

async def main():
    cluster = LocalCluster(
        n_workers=2, processes=False, dashboard_address=None, asynchronous=True, protocol="tcp://"
    )
    async with cluster, Client(cluster, asynchronous=True) as client:
        assert {type(worker.loop.asyncio_loop) for worker in cluster.workers.values()} == {whilst.Loop}
        large = await client.scatter(bytes(20_000_000))
        print(len(await client.submit(lambda data: data + data, large)))
        print(sum(await client.gather(client.map(increment, range(1000)))))

asyncio.run(main())
# From code without coroutines: the loop runs in a thread of Dask's.
with LocalCluster(n_workers=2, processes=False, dashboard_address=None) as cluster, Client(cluster) as client:
    assert type(client.loop.asyncio_loop) is whilst.Loop
    print(sum(client.gather(client.map(increment, range(1000)))))
"""


def test_dask(driver: str, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    (tmp_path / "with_dask.py").write_text(DASK)
    with Program(["with_dask.py"], driver=driver, cwd=tmp_path) as program:
        assert program.wait() == 0
        for line in ("40000000", "500500"):
            assert line in program.output().splitlines()
