"""The example `echo_server.py`, as a protocol and with streams."""

from __future__ import annotations

import re
import signal

import pytest
from serving import EXAMPLES, MIB, Program, connect, listens, open_sockets, payload, reset, wait_for


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("streams", [False, True], ids=["protocol", "streams"])
def test_echo_server(driver: str, streams: bool, number: signal.Signals) -> None:
    arguments = ["echo_server.py", "--port", "0", *(["--streams"] if streams else [])]
    with Program(arguments, driver=driver, cwd=EXAMPLES) as program:
        found = wait_for(
            lambda: re.search(r"Listening on 127\.0\.0\.1:(\d+)", program.output()) or program.process.poll(),
            "the server says where it listens",
        )
        assert isinstance(found, re.Match), program.output()
        port = int(found[1])
        at_rest = open_sockets(program.pid)

        clients = [connect(port) for _ in range(50)]
        for turn in range(20):
            for index, client in enumerate(clients):
                client.sendall(f"{turn} {index}\n".encode())
            for index, client in enumerate(clients):
                with client.makefile("rb") as file:
                    assert file.readline() == f"{turn} {index}\n".encode()
        for index, client in enumerate(clients[1:]):
            if index % 2:
                reset(client)
            client.close()
        wait_for(lambda: open_sockets(program.pid) == at_rest + 1, "the clients that left are forgotten")

        # A client that sends and does not read makes the server stop reading, and loses nothing.
        patient = connect(port)
        sent = bytearray()
        patient.settimeout(0)
        stuck = 0
        for piece in payload(64 * MIB):
            rest = memoryview(piece)
            while rest and stuck < 30:
                try:
                    done = patient.send(rest)
                except BlockingIOError:
                    stuck += 1
                    clients[0].sendall(b"are you there?\n")
                    with clients[0].makefile("rb") as file:
                        assert file.readline() == b"are you there?\n"
                else:
                    stuck = 0
                    sent += rest[:done]
                    rest = rest[done:]
            if stuck == 30:
                break
        assert stuck == 30, "the server keeps 64 MiB that its client does not read"
        patient.settimeout(20)
        received = bytearray()
        while len(received) < len(sent):
            piece = patient.recv(MIB)
            assert piece
            received += piece
        assert received == sent
        patient.close()

        # The end: a client that is idle is let go, what was sent to it is there, and nobody is let in any
        # more.
        clients[0].sendall(b"last words\n")
        with clients[0].makefile("rb") as file:
            assert file.readline() == b"last words\n"
            program.signal(number)
            assert file.read() == b""
        clients[0].close()
        assert program.wait() == 0
        assert not listens(port)
        assert program.output().endswith("Goodbye\n")
        assert program.complaints() == []
