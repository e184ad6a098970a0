"""Mail (aiosmtpd, aiosmtplib) and remote shells (asyncssh), each with both ends on whilst's loop."""

from __future__ import annotations

import asyncio
import contextlib
import email.message
import smtplib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import certificates
import pytest
from serving import MIB, payload
from test_clients import no_socket_left, on_whilst  # noqa: F401

LARGE = 8 * MIB


# -- Mail ---------------------------------------------------------------------------------------------------------------------


class Box:
    """Where the mail server puts what it gets."""

    def __init__(self) -> None:
        self.letters: list[tuple[str, list[str], bytes, bool]] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.letters.append(
            (envelope.mail_from, envelope.rcpt_tos, envelope.content, session.ssl is not None)
        )
        return "250 OK"


@contextlib.asynccontextmanager
async def mail_server(**more: Any) -> AsyncIterator[tuple[Box, int]]:
    smtp: Any = pytest.importorskip("aiosmtpd.smtp")
    box = Box()

    def factory() -> Any:
        return smtp.SMTP(box, hostname="localhost", data_size_limit=2 * LARGE, **more)

    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    async with server:
        yield box, server.sockets[0].getsockname()[1]


def letter(size: int = 100) -> email.message.EmailMessage:
    message = email.message.EmailMessage()
    message["From"], message["To"], message["Subject"] = "one@localhost", "other@localhost", "a letter"
    message.set_content("line of the letter\n" * (size // 19))
    return message


def test_mail_from_a_client_without_a_loop() -> None:
    """smtplib, in a thread, with STARTTLS."""

    def send(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
            client.starttls(context=certificates.client_context())
            for size in (100, MIB):
                client.send_message(letter(size))

    async def main() -> None:
        async with mail_server(tls_context=certificates.server_context(), require_starttls=True) as (
            box,
            port,
        ):
            await asyncio.to_thread(send, port)
        assert [(sender, to, tls) for sender, to, _, tls in box.letters] == [
            ("one@localhost", ["other@localhost"], True)
        ] * 2
        assert len(box.letters[1][2]) > MIB

    on_whilst(main())


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "starttls"])
def test_mail_from_many_clients(tls: bool) -> None:
    smtplib_: Any = pytest.importorskip("aiosmtplib")

    async def main() -> None:
        more = {"tls_context": certificates.server_context(), "require_starttls": True} if tls else {}
        async with mail_server(**more) as (box, port):

            async def one() -> None:
                client = smtplib_.SMTP(
                    hostname="127.0.0.1",
                    port=port,
                    start_tls=tls,
                    tls_context=certificates.client_context() if tls else None,
                )
                async with client:
                    for size in (100, 100_000):
                        await client.send_message(letter(size))

            async with asyncio.TaskGroup() as group:
                for _ in range(20):
                    group.create_task(one())
        assert len(box.letters) == 40
        assert {secured for *_, secured in box.letters} == {tls}

    on_whilst(main())


# -- Remote shells ------------------------------------------------------------------------------------------------------------


class TestSsh:
    @staticmethod
    @contextlib.asynccontextmanager
    async def pair(folder: Path) -> AsyncIterator[tuple[Any, Any]]:
        """A server that runs what it is told to, and a connection to it."""
        asyncssh: Any = pytest.importorskip("asyncssh")
        key = asyncssh.generate_private_key("ssh-ed25519")

        class Server(asyncssh.SSHServer):  # type: ignore[misc]
            def connection_requested(self, *_: object) -> bool:
                return True  # forwards for its client

            def server_requested(self, *_: object) -> bool:
                return True  # and to it

        async def run(process: Any) -> None:
            """Run the command, with the client's streams."""
            child = await asyncio.create_subprocess_shell(
                process.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            out, err = await child.communicate(await process.stdin.read())
            process.stdout.write(out)
            process.stderr.write(err)
            process.exit(child.returncode)

        authorized = folder / "authorized"
        authorized.write_bytes(key.export_public_key())
        server = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_factory=Server,
            server_host_keys=[key],
            authorized_client_keys=str(authorized),
            process_factory=run,
            encoding=None,
            sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=str(folder).encode()),
        )
        async with server:
            connection = await asyncssh.connect(
                "127.0.0.1",
                server.get_port(),
                username="tester",
                client_keys=[key],
                known_hosts=None,
                config=[],
            )
            async with connection:
                yield asyncssh, connection
            await connection.wait_closed()

    def test_commands(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with self.pair(tmp_path) as (asyncssh, connection):
                done = await connection.run("echo out; echo err >&2; exit 3", stdin=asyncssh.DEVNULL)
                assert (done.stdout, done.stderr, done.exit_status) == ("out\n", "err\n", 3)
                data = b"".join(payload(LARGE))
                done = await connection.run("cat", input=data, encoding=None)
                assert done.stdout == data
                many = await asyncio.gather(
                    *(connection.run(f"echo {number}", stdin=asyncssh.DEVNULL) for number in range(20))
                )
                assert [int(done.stdout) for done in many] == list(range(20))

        on_whilst(main())

    def test_files(self, tmp_path: Path) -> None:
        data = b"".join(payload(LARGE))
        (tmp_path / "here").write_bytes(data)
        (tmp_path / "kept").mkdir()

        async def main() -> None:
            async with (
                self.pair(tmp_path / "kept") as (_, connection),
                connection.start_sftp_client() as sftp,
            ):
                await sftp.put(str(tmp_path / "here"), "/there")
                await sftp.get("/there", str(tmp_path / "back"))
                async with sftp.open("/there", "rb") as file:
                    await file.seek(LARGE - 10)
                    assert await file.read(20) == data[-10:]
                assert sorted(await sftp.listdir("/")) == [".", "..", "authorized", "there"]

        on_whilst(main())
        assert (tmp_path / "kept" / "there").read_bytes() == data == (tmp_path / "back").read_bytes()

    def test_forwarded_ports(self, tmp_path: Path) -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while piece := await reader.read(100_000):
                writer.write(piece)
                await writer.drain()
            writer.close()
            await writer.wait_closed()

        async def ask(port: int) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            data = b"".join(payload(MIB))

            async def send() -> None:
                writer.write(data)
                await writer.drain()
                writer.write_eof()

            async with asyncio.TaskGroup() as group:
                group.create_task(send())
                received = await reader.readexactly(len(data))
            assert received == data
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

        async def main() -> None:
            async with self.pair(tmp_path) as (_, connection):
                server = await asyncio.start_server(echo, "127.0.0.1", 0)
                async with server:
                    port = server.sockets[0].getsockname()[1]
                    there = await connection.forward_local_port("127.0.0.1", 0, "127.0.0.1", port)
                    back = await connection.forward_remote_port("127.0.0.1", 0, "127.0.0.1", port)
                    for listener in (there, back):
                        await asyncio.gather(*(ask(listener.get_port()) for _ in range(10)))
                        listener.close()
                        await listener.wait_closed()

        on_whilst(main())
