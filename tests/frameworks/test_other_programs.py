"""FastAPI, gunicorn, Tornado, and the two plugins that run coroutines as tests: less deep than the servers of
`test_http_servers`, far enough to say that they run."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import signal
from pathlib import Path

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
