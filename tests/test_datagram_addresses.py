"""Whom datagrams are for and whom they are from: every family and form of address, beside asyncio's own loop."""

import asyncio
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from endpoints import Recorder, datagram_socket, echo, endpoint, name_of, pair
from oracle import error_of, error_of_awaiting, handler_notes, program, run, same, turns, until

pytestmark = pytest.mark.usefixtures("driver")

# Numbers of Linux that Python's socket module has no names for (linux/in6.h).
IPV6_FLOWINFO_SEND = 33
IPV6_FLOWLABEL_MGR = 32
IPV6_FREEBIND = 78


# -- The internet's families --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_question_and_answer(host: str) -> None:
    async def scenario(notes: list[Any]) -> None:
        server, client = await pair(notes, host, datagram_received=echo)
        for data in (b"one", bytearray(b"two"), memoryview(b"three"), memoryview(bytearray(b"four"))):
            client.transport.sendto(data)
            await client.receive(len(client.received) + 1)
        notes.append([address == name_of(client.transport) for address in server.senders])
        notes.append([address == name_of(server.transport) for address in client.senders])
        notes.append([type(data) for data in server.received])
        await client.lose()
        await server.lose()

    same(scenario)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_extra_information(host: str) -> None:
    async def scenario(notes: list[Any]) -> None:
        server, client = await pair(notes, host)
        for transport in (server.transport, client.transport):
            sock = transport.get_extra_info("socket")
            notes.append((type(sock).__name__, sock.family, sock.type, sock.gettimeout()))
            notes.append(transport.get_extra_info("sockname") == sock.getsockname())
            notes.append(transport.get_extra_info("peername") is None)
            notes.append(transport.get_extra_info("nothing", "default"))
        notes.append(client.transport.get_extra_info("peername") == name_of(server.transport))
        notes.append(isinstance(client.transport, asyncio.Transport))
        await client.lose()
        await server.lose()
        for transport in (server.transport, client.transport):
            notes.append(transport.get_extra_info("socket").fileno())
            notes.append(len(transport.get_extra_info("sockname")))

    same(scenario)


def test_an_endpoint_without_addresses() -> None:
    async def scenario(notes: list[Any]) -> None:
        server = await endpoint(notes, "server", local_addr=("127.0.0.1", 0), datagram_received=echo)
        client = await endpoint(notes, "client", family=socket.AF_INET)
        notes.append(client.transport.get_extra_info("sockname"))
        client.transport.sendto(b"x", name_of(server.transport))
        await client.receive(1)
        notes.append(client.transport.get_extra_info("sockname"))
        await client.lose()
        await server.lose()

    same(scenario)


def test_several_senders() -> None:
    """The answer goes to whom the datagram is from, also when that is not the last one."""

    async def scenario(notes: list[Any]) -> None:
        server = await endpoint([], local_addr=("127.0.0.1", 0), datagram_received=echo)
        clients = [
            await endpoint([], f"client {number}", remote_addr=name_of(server.transport))
            for number in range(5)
        ]
        for round_ in range(3):
            for number, client in enumerate(clients):
                client.transport.sendto(b"%d in round %d" % (number, round_))
                client.transport.sendto(b"and more")
        for client in clients:
            notes.append(await client.receive(6))
        assert [server.senders.count(name_of(client.transport)) for client in clients] == [6] * 5
        # And later, to one that is not the last sender.
        for address in dict.fromkeys(server.senders):
            server.transport.sendto(b"later", address)
        for client in clients:
            notes.append((await client.receive(7))[-1])
            await client.lose()
        await server.lose()

    same(scenario)


ODD_IPV4: list[Any] = [
    ("127.0.0.1",),
    ("127.0.0.1", 1, 2),
    ("127.0.0.1", -1),
    ("127.0.0.1", 65536),
    ("127.0.0.1", 2**70),
    ("127.0.0.1", "9"),
    ("127.0.0.1", None),
    (None, 9),
    (9, 9),
    ("no.such.host.invalid", 9),
    ("127.0.0.1\0", 9),
    ("\ud800", 9),
    "127.0.0.1",
    b"127.0.0.1",
    9,
    (),
    ["127.0.0.1", 9],
    ("::1", 9),
]


@pytest.mark.parametrize("address", ODD_IPV4, ids=ascii)
def test_what_is_no_address(address: Any) -> None:
    """The system's refusals are for `error_received()`; anything else is fatal."""

    async def scenario(notes: list[Any]) -> None:
        handler_notes(asyncio.get_running_loop(), notes)
        client = await endpoint(notes, family=socket.AF_INET)
        notes.append(error_of(client.transport.sendto, b"x", address))
        notes.append(client.transport.is_closing())
        await turns()
        await client.lose()

    same(scenario)


class Number(int):
    """An int, nearly."""


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "", b"127.0.0.1", bytearray(b"127.0.0.1"), "127.1", "0x7f.0.0.1"],
    ids=repr,
)
def test_forms_of_a_host(host: Any) -> None:
    async def scenario(notes: list[Any]) -> None:
        server = await endpoint(notes, "server", local_addr=("127.0.0.1", 0))
        client = await endpoint(notes, "client", family=socket.AF_INET)
        port = name_of(server.transport)[1]
        client.transport.sendto(b"x", (host, port))
        client.transport.sendto(b"y", (host, Number(port)))
        client.transport.sendto(b"z", Pair((host, port)))
        notes.append(await server.receive(3))
        await client.lose()
        await server.lose()

    same(scenario)


class Pair(tuple[Any, ...]):
    """A tuple, nearly."""


@pytest.mark.parametrize(
    ("host", "rest"),
    [
        ("::1", ()),
        ("::1", (0,)),
        ("::1", (5, 0)),
        ("::1", (0xFFFFF, 0)),
        ("::1", (0x100000, 0)),
        ("::1", (-1, 0)),
        ("::1", (0, 1)),
        ("::1", (0, 2**32 - 1)),
        ("::1", (0, 2**32)),
        ("::1", (0, 0, 0)),
        ("0:0::0:1", ()),
        ("localhost", ()),
        ("::1%lo", ()),
        ("::ffff:127.0.0.1", ()),
        ("127.0.0.1", ()),
    ],
)
def test_forms_of_an_ipv6_address(host: str, rest: tuple[int, ...]) -> None:
    async def scenario(notes: list[Any]) -> None:
        handler_notes(asyncio.get_running_loop(), notes)
        server = await endpoint(notes, "server", local_addr=("::", 0), family=socket.AF_INET6)
        client = await endpoint(notes, "client", family=socket.AF_INET6)
        client.transport.sendto(b"x", (host, name_of(server.transport)[1], *rest))
        await asyncio.sleep(0.01)
        notes.append((server.received, client.transport.is_closing()))
        await client.lose()
        await server.lose()

    same(scenario)


def test_ipv4_through_an_ipv6_socket() -> None:
    async def scenario(notes: list[Any]) -> None:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", 0))
        server = await endpoint(notes, "server", sock=sock, datagram_received=echo)
        client = await endpoint(notes, "client", remote_addr=("127.0.0.1", name_of(server.transport)[1]))
        client.transport.sendto(b"x")
        await client.receive(1)
        await client.lose()
        await server.lose()

    assert ("server", "datagram_received", b"x", ("::ffff:127.0.0.1", "PORT", 0, 0)) in same(scenario)


def test_a_sender_with_an_ipv4_compatible_address() -> None:
    """Rust and inet_ntop(3) write such addresses differently."""

    async def scenario(notes: list[Any]) -> None:
        server = await endpoint(notes, "server", local_addr=("::1", 0))
        for host in ("::1.2.3.4", "::1:0", "::ffff", "1::1", "::1:0:0", "1:0:0:2::"):
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
                sender.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
                sender.bind((host, 0))
                sender.sendto(b"x", name_of(server.transport))
                await server.receive(len(server.received) + 1)
        await server.lose()

    assert ("server", "datagram_received", b"x", ("::1.2.3.4", "PORT", 0, 0)) in same(scenario)


def link_local() -> tuple[str, str] | None:
    """A link-local address of this machine and its interface, if there is one."""
    for line in Path("/proc/net/if_inet6").read_text().splitlines():
        figures, _, _, scope, _, interface = line.split()
        if scope == "20":
            return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(figures)), interface
    return None


def test_scopes() -> None:
    """To oneself, which does not leave the machine."""
    found = link_local()
    if found is None:
        pytest.skip("this machine has no link-local address")
    host, interface = found

    async def scenario(notes: list[Any]) -> None:
        scope = socket.if_nametoindex(interface)
        sock = datagram_socket(socket.AF_INET6, (host, 0, 0, scope))
        server = await endpoint(notes, "server", sock=sock, datagram_received=echo)
        client = await endpoint(notes, "client", family=socket.AF_INET6)
        client.transport.sendto(b"x", (host, name_of(server.transport)[1], 0, scope))
        await client.receive(1)
        notes.append(client.senders[0][3] == scope)
        connected = await endpoint(
            notes, "connected", remote_addr=(f"{host}%{interface}", name_of(server.transport)[1])
        )
        connected.transport.sendto(b"y")
        await connected.receive(1)
        for protocol in (client, connected, server):
            await protocol.lose()

    same(scenario)


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_flow_labels(kind: int) -> None:
    """They have the network's byte order in the kernel and the machine's in Python."""

    async def scenario(notes: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        label = 0x12345
        with socket.socket(socket.AF_INET6, kind) as listener, socket.socket(socket.AF_INET6, kind) as sock:
            listener.bind(("::1", 0))
            if kind == socket.SOCK_STREAM:
                listener.listen()
            # struct in6_flowlabel_req: the address, the label, IPV6_FL_A_GET, IPV6_FL_S_ANY, IPV6_FL_F_CREATE and times.
            host = socket.inet_pton(socket.AF_INET6, "::1")
            request = struct.pack("16sIBBHHHI", host, socket.htonl(label), 0, 255, 1, 0, 0, 0)
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FLOWLABEL_MGR, request)
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FLOWINFO_SEND, 1)
            sock.connect(("::1", listener.getsockname()[1], label, 0))
            transport: asyncio.BaseTransport
            if kind == socket.SOCK_DGRAM:
                transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=sock)
            else:
                transport, _ = await loop.create_connection(asyncio.Protocol, sock=sock)
            notes.append(transport.get_extra_info("peername")[2])
            transport.close()
            await turns()

    assert same(scenario) == [0x12345]


# -- Connected and not --------------------------------------------------------------------------------------------------------


def test_another_address_than_the_endpoints() -> None:
    async def scenario(notes: list[Any]) -> None:
        server, client = await pair(notes)
        port = name_of(server.transport)[1]
        kind, words = error_of(client.transport.sendto, b"x", ("127.0.0.2", port))
        notes.append((kind, words.replace(str(port), "PORT")))
        notes.append(error_of(client.transport.sendto, b"x", ["127.0.0.1", port])[0])
        client.transport.sendto(b"equal", ("127.0.0." + "1", port + 0))
        client.transport.sendto(b"none", None)
        client.transport.sendto(b"named", addr=None)
        client.transport.sendto(data=b"both", addr=("127.0.0.1", port))
        notes.append(await server.receive(4))
        await client.lose()
        await server.lose()

    assert (
        "ValueError",
        "Invalid address: must be None or ('127.0.0.1', PORT)",
    ) in same(scenario)


def test_an_address_that_cannot_be_compared() -> None:
    async def scenario(notes: list[Any]) -> None:
        class Odd:
            def __eq__(self, other: object) -> bool:
                raise ZeroDivisionError("no comparison")

        server, client = await pair(notes)
        notes.append(error_of(client.transport.sendto, b"x", Odd()))
        notes.append(client.transport.is_closing())
        await client.lose()
        await server.lose()

    same(scenario)


def test_a_socket_that_is_connected_ignores_addresses() -> None:
    async def scenario(notes: list[Any]) -> None:
        server = await endpoint(notes, "server", local_addr=("127.0.0.1", 0))
        sock = datagram_socket()
        sock.connect(name_of(server.transport))
        client = await endpoint(notes, "client", sock=sock)
        client.transport.sendto(b"x")
        client.transport.sendto(b"y", ("127.0.0.1", 9))
        client.transport.sendto(b"z", "nonsense")
        notes.append(await server.receive(3))
        await client.lose()
        await server.lose()

    same(scenario)


def test_only_the_peer_is_heard_on_a_connected_socket() -> None:
    async def scenario(notes: list[Any]) -> None:
        server, client = await pair(notes)
        with datagram_socket() as stranger:
            stranger.sendto(b"psst", name_of(client.transport))
        server.transport.sendto(b"here", name_of(client.transport))
        notes.append(await client.receive(1))
        await client.lose()
        await server.lose()

    same(scenario)


def test_without_any_address() -> None:
    async def scenario(notes: list[Any]) -> None:
        handler_notes(asyncio.get_running_loop(), notes)
        client = await endpoint(notes, local_addr=("127.0.0.1", 0))
        notes.append(error_of(client.transport.sendto, b"x"))
        await until(lambda: client.is_lost)

    notes = same(scenario)
    assert ("it", "connection_lost", notes[1][2:]) in notes


# -- Unix sockets -------------------------------------------------------------------------------------------------------------


def test_unix_paths(tmp_path: Path) -> None:
    async def scenario(notes: list[Any]) -> None:
        directory = tmp_path / str(len(list(tmp_path.iterdir())))
        directory.mkdir()
        paths = [str(directory / name) for name in ("server", "client", "ünï")]
        server = await endpoint([], local_addr=paths[0], family=socket.AF_UNIX, datagram_received=echo)
        notes.append(server.transport.get_extra_info("sockname") == paths[0])
        notes.append(server.transport.get_extra_info("peername"))
        connected = await endpoint([], local_addr=paths[1], remote_addr=paths[0], family=socket.AF_UNIX)
        notes.append(connected.transport.get_extra_info("peername") == paths[0])
        connected.transport.sendto(b"x")
        connected.transport.sendto(b"y", paths[0])
        notes.append(await connected.receive(2))
        notes.append(connected.senders == [paths[0]] * 2)
        loose = await endpoint([], local_addr=paths[2], family=socket.AF_UNIX)
        loose.transport.sendto(b"z", paths[0])
        loose.transport.sendto(b"bytes", os.fsencode(paths[0]))
        notes.append(await loose.receive(2))
        notes.append(server.senders == [paths[1], paths[1], paths[2], paths[2]])
        for protocol in (connected, loose, server):
            await protocol.lose()

    same(scenario)


def test_a_unix_socket_that_is_left_over_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")

    async def scenario(notes: list[Any]) -> None:
        for _ in range(2):
            server = await endpoint(notes, local_addr=path, family=socket.AF_UNIX)
            await server.lose()
        notes.append(Path(path).is_socket())
        Path(path).unlink()
        Path(path).touch()
        kind, words = await error_of_awaiting(endpoint(notes, local_addr=path, family=socket.AF_UNIX))
        notes.append((kind, words.replace(path, "PATH")))
        Path(path).unlink()

    same(scenario)


def test_unix_names_in_the_abstract() -> None:
    name = f"\0whilst-{os.getpid()}"

    async def scenario(notes: list[Any]) -> None:
        server = await endpoint(
            notes, "server", local_addr=name + "s", family=socket.AF_UNIX, datagram_received=echo
        )
        client = await endpoint(notes, "client", local_addr=name + "c", family=socket.AF_UNIX)
        notes.append(server.transport.get_extra_info("sockname"))
        client.transport.sendto(b"str", name + "s")
        client.transport.sendto(b"bytes", (name + "s").encode())
        notes.append(await client.receive(2))
        client.transport.sendto(b"object", client.senders[0])
        notes.append(await client.receive(3))
        await client.lose()
        await server.lose()

    notes = same(scenario)
    assert ("server", "datagram_received", b"str", (name + "c").encode()) in notes


def test_unix_sockets_without_a_name() -> None:
    name = f"\0whilst-{os.getpid()}"

    async def scenario(notes: list[Any]) -> None:
        handler_notes(asyncio.get_running_loop(), notes)
        server = await endpoint(notes, "server", local_addr=name, family=socket.AF_UNIX)
        client = await endpoint(notes, "client", remote_addr=name, family=socket.AF_UNIX)
        client.transport.sendto(b"from nobody")
        await server.receive(1)
        # There is no answer to that.
        server.transport.sendto(b"", None)
        server.transport.sendto(b"x", server.senders[0])
        await turns()
        await client.lose()
        await server.lose()

    assert ("server", "datagram_received", b"from nobody", None) in same(scenario)


def test_no_such_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "nobody")

    async def scenario(notes: list[Any]) -> None:
        handler_notes(asyncio.get_running_loop(), notes)
        client = await endpoint(notes, family=socket.AF_UNIX)
        client.transport.sendto(b"x", path)
        notes.append(client.transport.is_closing())
        client.transport.sendto(b"x", "/" + "long" * 100)
        notes.append(client.transport.is_closing())
        client.transport.sendto(b"x", 7)
        notes.append(client.transport.is_closing())
        await client.lose()
        notes.append(await error_of_awaiting(endpoint(notes, remote_addr=path, family=socket.AF_UNIX)))

    same(scenario)


def test_a_pair_of_unix_sockets() -> None:
    """CPython's transport does not send here without an address: it takes a peer that has no name for none."""

    async def main() -> None:
        first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        one = await endpoint([], sock=first)
        other = await endpoint(
            [], sock=second, datagram_received=lambda it, data, _: it.transport.sendto(data)
        )
        assert one.transport.get_extra_info("peername") == ""
        one.transport.sendto(b"x")
        assert await one.receive(1) == [b"x"]
        # What the kernel says of a sender without a name.
        assert one.senders == [None]
        await one.lose()
        await other.lose()

    run(main())


def test_a_pair_of_unix_sockets_and_an_address(tmp_path: Path) -> None:
    path = str(tmp_path / "third")

    async def scenario(notes: list[Any]) -> None:
        first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with second:
            one = await endpoint(notes, sock=first)
            third = await endpoint(notes, "third", family=socket.AF_UNIX, local_addr=path)
            one.transport.sendto(b"x", path)
            notes.append(await third.receive(1))
            await one.lose()
            await third.lose()

    same(scenario)


# -- To many ------------------------------------------------------------------------------------------------------------------


def test_broadcast() -> None:
    async def scenario(notes: list[Any]) -> None:
        server = await endpoint(notes, "server", local_addr=("0.0.0.0", 0))
        address = ("127.255.255.255", name_of(server.transport)[1])
        client = await endpoint(notes, "client", remote_addr=address, allow_broadcast=True)
        notes.append(client.transport.get_extra_info("peername"))
        client.transport.sendto(b"x")
        client.transport.sendto(b"y", address)
        notes.append(error_of(client.transport.sendto, b"z", ("127.0.0.1", 9))[0])
        notes.append(await server.receive(2))
        server.transport.sendto(b"back", server.senders[0])
        notes.append(await client.receive(1))
        await client.lose()
        # Without permission.
        other = await endpoint(notes, "other", local_addr=("127.0.0.1", 0))
        other.transport.sendto(b"x", address)
        other.transport.sendto(b"x", ("<broadcast>", 9))
        notes.append(other.transport.is_closing())
        await other.lose()
        await server.lose()

    notes = same(scenario)
    assert ("other", "error_received", ("PermissionError", "[Errno 13] Permission denied")) in notes


def test_multicast() -> None:
    """On the loopback interface only."""

    async def scenario(notes: list[Any]) -> None:
        group = socket.inet_aton("239.255.13.37") + socket.inet_aton("127.0.0.1")
        members = []
        port = 0
        for number in range(2):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("239.255.13.37", port))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
            port = sock.getsockname()[1]
            members.append(await endpoint([], f"member {number}", sock=sock))
        sock = datagram_socket()
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        sender = await endpoint(notes, "sender", sock=sock)
        sender.transport.sendto(b"to all", ("239.255.13.37", port))
        for member in members:
            notes.append(await member.receive(1))
            notes.append(member.senders == [sock.getsockname()])
            await member.lose()
        await sender.lose()

    same(scenario)


def test_reuse_port() -> None:
    async def scenario(notes: list[Any]) -> None:
        first = await endpoint(notes, "first", local_addr=("127.0.0.1", 0), reuse_port=True)
        address = name_of(first.transport)
        second = await endpoint(notes, "second", local_addr=address, reuse_port=True)
        notes.append(name_of(second.transport) == address)
        third = await error_of_awaiting(endpoint(notes, local_addr=address))
        notes.append((third[0], third[1].split("[")[0]))
        with datagram_socket() as sender:
            for _ in range(10):
                sender.sendto(b"x", address)
            await until(lambda: len(first.received) + len(second.received) == 10)
        notes.clear()
        await first.lose()
        await second.lose()

    same(scenario)


# -- Sockets that are not the kernel's own ------------------------------------------------------------------------------------


class Proxy(socket.socket):
    """A socket that puts something around each datagram, as a SOCKS proxy's does."""

    def sendto(self, data: Any, *rest: Any) -> int:
        return super().sendto(b"<" + data + b">", *rest)

    def send(self, data: Any, *rest: Any) -> int:
        return super().send(b"[" + data + b"]", *rest)

    def recvfrom(self, *rest: Any) -> tuple[bytes, Any]:
        data, address = super().recvfrom(*rest)
        return b"got " + data, address


def test_a_socket_with_methods_of_its_own() -> None:
    async def scenario(notes: list[Any]) -> None:
        server = await endpoint(notes, "server", local_addr=("127.0.0.1", 0), datagram_received=echo)
        loose = await endpoint(notes, "loose", sock=Proxy(socket.AF_INET, socket.SOCK_DGRAM))
        loose.transport.sendto(b"x", name_of(server.transport))
        notes.append(await loose.receive(1))
        sock = Proxy(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect(name_of(server.transport))
        connected = await endpoint(notes, "connected", sock=sock)
        connected.transport.sendto(b"y")
        notes.append(await connected.receive(1))
        for protocol in (loose, connected, server):
            await protocol.lose()

    notes = same(scenario)
    assert [b"got <x>"] in notes
    assert [b"got [y]"] in notes


def test_a_socket_that_raises() -> None:
    async def scenario(notes: list[Any]) -> None:
        class Failing(socket.socket):
            error: BaseException = ZeroDivisionError("of its own")

            def recvfrom(self, *rest: Any) -> tuple[bytes, Any]:
                super().recvfrom(*rest)
                raise self.error

            def sendto(self, *rest: Any) -> int:
                raise self.error

        loop = asyncio.get_running_loop()
        handler_notes(loop, notes)
        with datagram_socket() as other:
            for error in (OSError(5, "made up"), InterruptedError(), ValueError("no")):
                for write in (False, True):
                    sock = Failing(socket.AF_INET, socket.SOCK_DGRAM)
                    sock.bind(("127.0.0.1", 0))
                    sock.error = error
                    protocol = await endpoint(notes, repr(error), sock=sock)
                    if write:
                        notes.append(error_of(protocol.transport.sendto, b"x", other.getsockname()))
                    else:
                        other.sendto(b"x", sock.getsockname())
                    await asyncio.sleep(0.01)
                    notes.append(protocol.transport.is_closing())
                    protocol.transport.abort()
                    await until(lambda protocol=protocol: protocol.is_lost)  # type: ignore[misc]

    same(scenario)


@pytest.mark.skipif(os.geteuid() != 0, reason="raw sockets are for root")
@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio takes datagram sockets only, before 3.12")
def test_raw_sockets() -> None:
    async def scenario(notes: list[Any]) -> None:
        notes.append("begin")
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, 253)  # A protocol for experiments (RFC 3692).
        sock.bind(("127.0.0.1", 0))
        _, protocol = await loop.create_datagram_endpoint(lambda: Recorder([]), sock=sock)
        protocol.transport.sendto(b"raw", ("127.0.0.1", 0))
        await protocol.receive(1)
        notes.append((protocol.received[0][20:], protocol.senders))
        await protocol.lose()

    same(scenario)


def test_audit_events() -> None:
    """In a process of its own, for a hook stays to its end."""
    ran = program(
        """
        import asyncio, sys, whilst

        events = []

        def hook(name, arguments):
            if name == "socket.sendto":
                events.append(arguments[1])
                if arguments[1][1] == 9:
                    raise PermissionError("not there")

        class Protocol(asyncio.DatagramProtocol):
            def error_received(self, error):
                events.append(repr(error))

        async def main():
            sys.addaudithook(hook)
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(Protocol, local_addr=("127.0.0.1", 0))
            address = transport.get_extra_info("sockname")
            transport.sendto(b"x", address)
            transport.sendto(b"x", ("127.0.0.1", 9))
            transport.sendto(b"x", ("localhost", address[1]))
            assert events == [address, ("127.0.0.1", 9), "PermissionError('not there')", ("localhost", address[1])], events
            transport.close()

        whilst.run(main())
        """
    )
    assert ran.returncode == 0, ran.stderr


# -- Arguments of create_datagram_endpoint ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"local_addr": "text"},
        {"local_addr": ("127.0.0.1",)},
        {"local_addr": ("127.0.0.1", 0), "family": socket.AF_UNIX},
        {"local_addr": ("127.0.0.1", 0), "remote_addr": ("::1", 9)},
        {"local_addr": ("no.such.host.invalid", 9)},
        {"local_addr": ("192.0.2.1", 9)},
        {"local_addr": ("127.0.0.1", 0), "reuse_address": True},
    ],
    ids=str,
)
def test_wrong_arguments(arguments: dict[str, Any]) -> None:
    async def scenario(notes: list[Any]) -> None:
        notes.append(await error_of_awaiting(endpoint(notes, **arguments)))

    same(scenario)


def test_wrong_sockets() -> None:
    async def scenario(notes: list[Any]) -> None:
        with socket.socket() as stream, datagram_socket() as datagrams:
            notes.append((await error_of_awaiting(endpoint(notes, sock=stream)))[0])
            notes.append(
                await error_of_awaiting(endpoint(notes, sock=datagrams, local_addr=("127.0.0.1", 0)))
            )

    same(scenario)
