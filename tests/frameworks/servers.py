"""The servers under test: how each is started, what it can do, and what must hold of it after any client."""

from __future__ import annotations

import http.client
import json
from types import TracebackType
from typing import Any

import certificates
from serving import WAIT_SECONDS, Program, free_port, open_sockets, wait_for

UVICORN = [
    "-m",
    "uvicorn",
    "--loop",
    "whilst:new_event_loop",
    "--host",
    "127.0.0.1",
    "--no-access-log",
    "--timeout-keep-alive",
    "30",
]

TLS = str(certificates.ALL_NAMES)
"""The file with certificate and key of the servers with TLS."""

COMMANDS = {
    "hypercorn": ["quart_app.py"],
    "uvicorn-h11": [*UVICORN, "--http", "h11", "--ws", "wsproto", "starlette_app:app"],
    "uvicorn-httptools": [*UVICORN, "--http", "httptools", "--ws", "websockets-sansio", "starlette_app:app"],
    "aiohttp": ["aiohttp_app.py"],
    "websockets": ["websockets_app.py"],
    "hypercorn-tls": ["quart_app.py", "--tls", TLS],
    "uvicorn-tls": [*UVICORN, "--ssl-certfile", TLS, "--ssl-keyfile", TLS, "starlette_app:app"],
    "aiohttp-tls": ["aiohttp_app.py", "--tls", TLS],
    "websockets-tls": ["websockets_app.py", "--tls", TLS],
}
"""Each kind of server; uvicorn takes its port as an option, the others as their last argument."""

HTTP_KINDS = ("hypercorn", "uvicorn-h11", "uvicorn-httptools", "aiohttp")

BACK_PRESSURE_KINDS = ("uvicorn-h11", "uvicorn-httptools", "aiohttp")
"""The servers that stop reading when the app does not read. Quart's request body takes all that comes."""

WEBSOCKET_KINDS = ("websockets", "hypercorn", "uvicorn-h11", "uvicorn-httptools", "aiohttp")


HTTPS_KINDS = ("hypercorn-tls", "uvicorn-tls", "aiohttp-tls")

WSS_KINDS = ("websockets-tls", *HTTPS_KINDS)


class RunningServer(Program):
    """A server of one kind, and the questions that the tests ask it."""

    def __init__(self, kind: str, driver: str) -> None:
        port = free_port()
        extra = ["--port", str(port)] if kind.startswith("uvicorn") else [str(port)]
        super().__init__([*COMMANDS[kind], *extra], driver=driver, port=port)
        self.kind = kind
        self.number = port
        self.tls = kind.endswith("-tls")
        self.broken = False

    def __enter__(self) -> RunningServer:
        super().__enter__()
        self.tasks_at_rest, self.sockets_at_rest = 0, 0
        if self.kind in HTTP_KINDS + HTTPS_KINDS:
            # The first request may start what stays (a thread, a helper task); the second sees the server
            # at rest.
            self.facts()
            first = self.facts()
            self.tasks_at_rest, self.sockets_at_rest = first["tasks"], first["sockets"]
        else:
            self.sockets_at_rest = open_sockets(self.pid)
        return self

    def connect(self) -> http.client.HTTPConnection:
        """A connection for requests, which is made by the first of them."""
        if self.tls:
            context = certificates.client_context()
            return http.client.HTTPSConnection(
                "127.0.0.1", self.number, timeout=WAIT_SECONDS, context=context
            )
        return http.client.HTTPConnection("127.0.0.1", self.number, timeout=WAIT_SECONDS)

    def get(self, path: str) -> Any:
        """The JSON that `path` answers, over a connection of its own."""
        connection = self.connect()
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200, (response.status, body, self.output())
            return json.loads(body)
        finally:
            connection.close()

    def post(self, path: str) -> int:
        """The status that an empty POST to `path` is answered with."""
        connection = self.connect()
        try:
            connection.request("POST", path, headers={"Connection": "close"})
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            connection.close()

    def facts(self) -> dict[str, Any]:
        facts = self.get("/facts")
        assert isinstance(facts, dict)
        return facts

    def check_nothing_left(self) -> None:
        """The server runs on, no connection or task of a client is left, and it has printed no complaint."""
        self.broken = True
        assert self.process.poll() is None, f"the server ended with {self.process.returncode}"
        if self.kind in HTTP_KINDS + HTTPS_KINDS:

            def at_rest() -> bool:
                facts = self.facts()
                seen.update(facts)
                return facts["tasks"] <= self.tasks_at_rest and facts["sockets"] <= self.sockets_at_rest

            seen: dict[str, Any] = {}
            what = f"at most {self.tasks_at_rest} tasks and {self.sockets_at_rest} sockets"
            try:
                wait_for(at_rest, what)
            except TimeoutError as error:
                raise AssertionError(f"{error}: {seen}") from None
        else:
            wait_for(lambda: open_sockets(self.pid) <= self.sockets_at_rest, "no more sockets than at rest")
        assert self.complaints(self._allowed()) == []
        self.broken = False

    def _allowed(self) -> tuple[str, ...]:
        """What this kind of server prints on any loop.

        hypercorn waits for the end of a connection that it closes, and lets through what that raises when the client was still
        sending: with TLS, on asyncio's own loop as well, that more data came after close_notify.
        """
        if self.kind == "hypercorn-tls" and "APPLICATION_DATA_AFTER_CLOSE_NOTIFY" in self.output():
            return ("Traceback (most recent call last)", "Unhandled exception in client_connected_cb")
        return ()


class Servers:
    """At most one running server of each kind and driver, made when a test first asks."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, str], RunningServer] = {}

    def get(self, kind: str, driver: str) -> RunningServer:
        """The running server; a new one where there is none, or where a test before has broken it."""
        server = self._running.get((kind, driver))
        if server is not None and (server.broken or server.process.poll() is not None):
            self._running.pop((kind, driver)).__exit__()
            server = None
        if server is None:
            server = RunningServer(kind, driver).__enter__()
            self._running[kind, driver] = server
        return server

    def __enter__(self) -> Servers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._running.values():
            server.__exit__()
