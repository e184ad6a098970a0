"""The web examples: each started as its documentation says, and asked over real sockets."""

from __future__ import annotations

import http.client
import json
import signal
from urllib.parse import urlencode

import pytest
from serving import EXAMPLES, WAIT_SECONDS, Program, free_port, payload, payload_sha256

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: str | bytes | None = None,
    headers: dict[str, str] | None = None,
) -> str:
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    text = response.read().decode()
    assert response.status == 200, text
    return text


def client(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)


@pytest.mark.parametrize("how", ["program", "command"])
def test_quart_site(driver: str, loop_name: str, how: str) -> None:
    port = free_port()
    if how == "program":
        arguments = ["-m", "quart_site", "--port", str(port)]
    else:
        arguments = ["-m", "whilst", "-m", "hypercorn", "--bind", f"127.0.0.1:{port}", "quart_site:app"]
    with Program(arguments, driver=driver, cwd=EXAMPLES, port=port) as program:
        connection = client(port)
        page = ask(connection, "GET", "/")
        assert "<h1>A Quart site on whilst</h1>" in page and 'id="answer"' not in page
        # The loop's name was rendered into the template's file.
        assert f"<code>{loop_name}</code>" in page
        page = ask(connection, "POST", "/", urlencode({"key": "brackets & <await>"}), FORM)
        assert "You sent: brackets &amp; &lt;await&gt;" in page
        boundary = "b" * 20
        part = 'Content-Disposition: form-data; name="key"\r\n\r\nin parts'
        body = f"--{boundary}\r\n{part}\r\n--{boundary}--\r\n"
        page = ask(
            connection, "POST", "/", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        )
        assert "You sent: in parts" in page
        connection.close()
        program.signal(signal.SIGINT)
        assert program.wait() == 0
        assert program.complaints() == []


def test_uvicorn_app(driver: str, loop_name: str) -> None:
    port = free_port()
    arguments = ["-m", "uvicorn", "--loop", "whilst:new_event_loop", "--port", str(port), "uvicorn_app:app"]
    with Program(arguments, driver=driver, cwd=EXAMPLES, port=port) as program:
        connection = client(port)
        for _ in range(3):
            assert json.loads(ask(connection, "GET", "/")) == {"hello": "world", "loop": loop_name}
        size = 1 << 20
        assert ask(connection, "POST", "/sha256", b"".join(payload(size))).strip() == payload_sha256(size)
        connection.close()
        program.signal(signal.SIGINT)
        assert program.wait() == 0
        assert program.complaints() == []


def test_template_server(driver: str) -> None:
    port = free_port()
    arguments = ["template_server.py", "--port", str(port)]
    with Program(arguments, driver=driver, cwd=EXAMPLES, port=port) as program:
        connection = client(port)
        for name, shown in (("Ada", "Ada"), ("<b>", "&lt;b&gt;"), ("", "")):
            assert f"<p>Hello, {shown}.</p>" in ask(connection, "GET", "/?" + urlencode({"name": name}))
        connection.close()
        program.signal(signal.SIGINT)
        assert program.wait() == 0
        assert program.complaints() == []


def test_aiohttp_server_and_client(driver: str, loop_name: str) -> None:
    port = free_port()
    with Program(
        ["aiohttp_server.py", "--port", str(port)], driver=driver, cwd=EXAMPLES, port=port
    ) as server:
        urls = [f"http://127.0.0.1:{port}/?name=name{number}" for number in range(20)]
        with Program(["aiohttp_client.py", *urls], driver=driver, cwd=EXAMPLES) as fetcher:
            assert fetcher.wait() == 0
            lines = fetcher.output().splitlines()
            assert fetcher.complaints() == []
        assert len(lines) == 20
        for number, line in enumerate(lines):
            answer = json.dumps({"hello": f"name{number}", "loop": loop_name})
            assert line.startswith(f"{urls[number]} 200 {len(answer)} bytes: {answer[:60]}")
        from websockets.sync.client import connect

        with connect(f"ws://127.0.0.1:{port}/echo", open_timeout=WAIT_SECONDS, proxy=None) as socket:
            for word in ("hello", "again"):
                socket.send(word)
                assert socket.recv(WAIT_SECONDS) == word.upper()
        server.signal(signal.SIGINT)
        assert server.wait() == 0
        assert server.complaints() == []


def test_aiohttp_client_without_an_address(driver: str) -> None:
    with Program(["aiohttp_client.py"], driver=driver, cwd=EXAMPLES) as program:
        assert program.wait() == 1
        assert program.output().startswith("usage:")


def test_no_example_is_untested() -> None:
    """An example added later needs a test here too."""
    names = {path.name for path in EXAMPLES.iterdir() if not path.name.startswith((".", "__"))}
    assert names == {
        "introduction.py",
        "quart_pitfall.py",
        "echo_server.py",
        "quart_site",
        "uvicorn_app.py",
        "aiohttp_server.py",
        "aiohttp_client.py",
        "template_server.py",
        "templates",
    }
