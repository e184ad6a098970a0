"""TLS with both ends in the one loop, under a certificate that is made for the run."""

import asyncio
import ssl
import subprocess
import tempfile
from pathlib import Path

from .row import LoopFactory, Measurement, clock, inside, run
from .sockets import MEBIBYTE, Sink, Source
from .streams import MESSAGE, pong


def make_certificate(to: Path, name: str, *options: str) -> None:
    """Write `to`.pem, a certificate that is good for a day, and `to`-key.pem, of an elliptic curve as a site's is today."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += [
        "-days",
        "1",
        "-subj",
        f"/CN={name}",
        "-keyout",
        f"{to}-key.pem",
        "-out",
        f"{to}.pem",
        *options,
    ]
    subprocess.run(command, check=True, capture_output=True)


def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Make a context for the server and one for the client, which trusts the authority of the server's certificate alone.

    An authority of its own, since rustls, which rsloop uses, takes no certificate that has signed itself. The files stay where
    the process has its temporary ones, which whoever has started it removes: rsloop reads them again.
    """
    directory = Path(tempfile.mkdtemp(prefix="whilst-bench-"))
    authority, leaf = directory / "authority", directory / "server"
    make_certificate(authority, "whilst-bench", "-addext", "keyUsage=critical,keyCertSign")
    extensions = ["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"]
    make_certificate(
        leaf, "localhost", *extensions, "-CA", f"{authority}.pem", "-CAkey", f"{authority}-key.pem"
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(f"{leaf}.pem", f"{leaf}-key.pem")
    client = ssl.create_default_context(cafile=f"{authority}.pem")
    return server, client


@inside("TLS streams ping-pong, 64 B", group="TLS", operations=15_000, target=1.2)
def tls_ping_pong(new_loop: LoopFactory, n: int) -> Measurement:
    """A round trip between two tasks that read and write streams over TLS."""
    server_context, client_context = contexts()

    async def main() -> Measurement:
        server = await asyncio.start_server(pong, "127.0.0.1", 0, ssl=server_context)
        host, port = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(
            host, port, ssl=client_context, server_hostname="localhost"
        )
        start = clock()
        for _ in range(n):
            writer.write(MESSAGE)
            await writer.drain()
            await reader.readexactly(len(MESSAGE))
        seconds = clock() - start
        writer.close()
        server.close()
        return Measurement(n, seconds)

    return run(new_loop, main())


@inside("bulk TLS, per MiB", group="TLS", operations=256, target=1.2)
def bulk_tls(new_loop: LoopFactory, n: int) -> Measurement:
    """Chunks of 256 KiB one way over TLS, from a protocol that minds flow control to one that counts."""
    server_context, client_context = contexts()

    async def main() -> Measurement:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        server = await loop.create_server(
            lambda: Sink(n * MEBIBYTE, done), "127.0.0.1", 0, ssl=server_context
        )
        host, port = server.sockets[0].getsockname()
        transport, source = await loop.create_connection(
            lambda: Source(n * MEBIBYTE), host, port, ssl=client_context, server_hostname="localhost"
        )
        start = clock()
        source.begin()
        await done
        seconds = clock() - start
        transport.close()
        server.close()
        return Measurement(n, seconds)

    return run(new_loop, main())


@inside("TLS handshake, both ends", group="TLS", operations=300, target=1.0)
def tls_handshake(new_loop: LoopFactory, n: int) -> Measurement:
    """A connection made, its handshake done by both ends, and closed; no session is resumed.

    The server's end of TLS 1.3 is done later than the client's. It is waited for: a loop that closes the client's connection
    first would otherwise be spared much of the work.
    """
    server_context, client_context = contexts()

    async def main() -> Measurement:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None]

        class Accepted(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                done.set_result(None)

        server = await loop.create_server(Accepted, "127.0.0.1", 0, ssl=server_context)
        host, port = server.sockets[0].getsockname()
        start = clock()
        for _ in range(n):
            done = loop.create_future()
            transport, _ = await loop.create_connection(
                asyncio.Protocol, host, port, ssl=client_context, server_hostname="localhost"
            )
            await done
            transport.abort()
        seconds = clock() - start
        server.close()
        return Measurement(n, seconds)

    return run(new_loop, main())


ROWS = (tls_ping_pong, bulk_tls, tls_handshake)
