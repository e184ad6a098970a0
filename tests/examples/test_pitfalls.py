"""The introduction's pitfall, in an app of a real framework: explained in the log of the server, after a real request."""

from __future__ import annotations

import http.client
import signal
from urllib.parse import urlencode

import pytest
from serving import EXAMPLES, WAIT_SECONDS, Program, free_port, wait_for

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def post(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)
    connection.request("POST", path, urlencode({"key": "value"}), FORM)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


@pytest.mark.parametrize(
    "server",
    [
        ["hypercorn", "--bind", "127.0.0.1:{port}", "quart_pitfall:app"],
        ["uvicorn", "--port", "{port}", "--loop", "whilst:new_event_loop", "quart_pitfall:app"],
    ],
    ids=lambda server: server[0],
)
def test_introduction(driver: str, server: list[str]) -> None:
    port = free_port()
    arguments = ["-m", "whilst", "-m", *(word.format(port=port) for word in server)]
    with Program(arguments, driver=driver, cwd=EXAMPLES, port=port) as program:
        assert post(port, "/right") == (200, "You sent: value")
        assert "whilst:" not in program.output()
        assert post(port, "/")[0] == 500
        failed = "AttributeError: 'coroutine' object has no attribute 'get'\n"
        wait_for(lambda: failed in program.output(), "the traceback in the log")
        program.signal(signal.SIGINT)
        program.wait()
        lines = program.output().splitlines()
    said = [number for number, line in enumerate(lines) if line.startswith("whilst: ")]
    assert said
    # Below the exception's own line, as Python prints notes; and again where the server logs it once more.
    assert {lines[number - 1] for number in said} == {
        "AttributeError: 'coroutine' object has no attribute 'get'"
    }
    assert {lines[number] for number in said} == {
        "whilst: `request.form` is a coroutine that was not awaited; write `(await request.form).get('key')`, with another "
        "`await` in front if what that gives is to be awaited as well"
    }
