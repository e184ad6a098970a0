"""Processes that fork while a loop runs: the child finds none and may start its own, the parent is untouched.

Each test is a program of its own, which forks for real; its output is what is looked at. A child that does not end is ended by
an alarm, and a program by the limit of time.
"""

import textwrap
from typing import Any

import pytest
from oracle import program
from tls import authority, certificate

pytestmark = pytest.mark.usefixtures("driver")

#: What all programs begin with.
PRELUDE = """
import asyncio, contextlib, gc, multiprocessing, os, signal, socket, sys, threading, traceback, warnings
import whilst

DRIVERS = [os.environ["WHILST_DRIVER"]] + [name for name in ("epoll", "io_uring") if name != os.environ["WHILST_DRIVER"]]
signal.alarm(20)


def forked(body, leave=os._exit):
    '''Fork; the child runs a function and leaves. Return the child's number.'''
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(10)
    code = 1
    try:
        body()
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    if code == 0 and leave is not os._exit:
        leave(0)
    sys.stdout.flush()
    os._exit(code)


def ended(pid):
    '''Wait for a child. Return how it ended.'''
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


async def ended_soon(pid):
    '''The same without stopping the loop.'''
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        await asyncio.sleep(0.001)


async def leaving(body=lambda: None, code=0):
    '''Fork in a callback; the child leaves by sys.exit(), through the loop and its runner. Return the child's number.'''
    future = asyncio.get_running_loop().create_future()

    def fork():
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            signal.alarm(10)
            # Tasks that are cancelled may complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            body()
            sys.exit(code)
        future.set_result(pid)

    asyncio.get_running_loop().call_soon(fork)
    return await future


def no_loop():
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        assert asyncio._get_running_loop() is None
        return
    raise AssertionError("a loop runs in the child")


async def echo(reader, writer):
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def end(reader, writer):
    '''Close a connection to the server above, and see it end there.'''
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    await asyncio.sleep(0.01)


async def round_trips(count=3):
    '''Serve, connect, and talk.'''
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for number in range(count):
            writer.write(b"%d" % number * 1000)
            assert await reader.readexactly(1000) == b"%d" % number * 1000
            await asyncio.sleep(0.001)
        writer.close()
        await writer.wait_closed()
    return "talked"


def own_loops():
    '''What a child does: no loop, then one of its own on every driver.'''
    no_loop()
    for driver in DRIVERS:
        os.environ["WHILST_DRIVER"] = driver
        assert whilst.run(round_trips()) == "talked"
    no_loop()
"""


def outcome(source: str, **keywords: Any) -> str:
    """Run a program. Return what it printed; it must have ended well and said nothing on stderr."""
    done = program(PRELUDE + textwrap.dedent(source), timeout=30, **keywords)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return str(done.stdout)


PLACES = {
    "a task": """
        async def main():
            print("child", await ended_soon(forked(own_loops)))
            print(await round_trips())
    """,
    "a callback": """
        async def main():
            loop = asyncio.get_running_loop()
            future = loop.create_future()
            loop.call_soon(lambda: future.set_result(forked(own_loops)))
            print("child", await ended_soon(await future))
            print(await round_trips())
    """,
    "a timer": """
        async def main():
            loop = asyncio.get_running_loop()
            future = loop.create_future()
            loop.call_later(0.01, lambda: future.set_result(forked(own_loops)))
            print("child", await ended_soon(await future))
            print(await round_trips())
    """,
    "data_received": """
        async def main():
            loop = asyncio.get_running_loop()
            future = loop.create_future()

            class Forking(asyncio.Protocol):
                def connection_made(self, transport):
                    self.transport = transport
                def data_received(self, data):
                    if not future.done():
                        future.set_result(forked(own_loops))
                    self.transport.write(data)

            async with await loop.create_server(Forking, "127.0.0.1", 0) as server:
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                writer.write(b"fork")
                print("child", await ended_soon(await future))
                assert await reader.readexactly(4) == b"fork"
                for _ in range(10):
                    writer.write(b"more")
                    assert await reader.readexactly(4) == b"more"
                writer.close()
            print("talked")
    """,
    "another thread while the loop waits": """
        async def main():
            loop = asyncio.get_running_loop()
            future = loop.create_future()

            def fork():
                # The loop waits by now, or soon will.
                threading.Event().wait(0.05)
                pid = forked(own_loops)
                loop.call_soon_threadsafe(future.set_result, pid)

            thread = threading.Thread(target=fork)
            thread.start()
            print("child", await ended_soon(await future))
            thread.join()
            print(await round_trips())
    """,
    "another thread while the loop is busy": """
        async def main():
            loop = asyncio.get_running_loop()
            pids = []
            thread = threading.Thread(target=lambda: pids.append(forked(own_loops)))
            thread.start()
            while not pids:
                await round_trips(1)
            thread.join()
            print("child", await ended_soon(pids[0]))
            print(await round_trips())
    """,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("place", PLACES)
def test_a_child_has_no_running_loop_and_may_start_its_own(place: str) -> None:
    source = textwrap.dedent(PLACES[place]) + "\nwarnings.simplefilter('ignore')\nwhilst.run(main())\n"
    assert outcome(source) == "child 0\ntalked\n"


def test_a_child_of_a_child() -> None:
    source = """
        warnings.simplefilter("ignore")

        def generation(left):
            no_loop()
            async def main():
                assert await round_trips() == "talked"
                if left:
                    assert await ended_soon(forked(lambda: generation(left - 1))) == 0
                assert await round_trips() == "talked"
            whilst.run(main())

        generation(4)
        print("done")
    """
    assert outcome(source) == "done\n"


def test_the_parent_is_busy_while_children_come_and_go() -> None:
    """Sixteen connections talk, with bytes that tell of any loss or repetition, while forty children are made in four ways."""
    source = """
        warnings.simplefilter("ignore")

        async def talk(address, stop, counts):
            reader, writer = await asyncio.open_connection(*address)
            number = 0
            while not stop.is_set():
                data = number.to_bytes(4, "big") * (1 + number % 5000)
                writer.write(data)
                assert await reader.readexactly(len(data)) == data, "lost, or said twice"
                number += 1
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
            counts.append(number)

        async def main():
            stop, counts = asyncio.Event(), []
            async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
                address = server.sockets[0].getsockname()
                talks = [asyncio.create_task(talk(address, stop, counts)) for _ in range(16)]
                await asyncio.sleep(0.05)
                codes = []
                for number in range(40):
                    if number % 4 == 0:
                        pid = forked(lambda: None)
                    elif number % 4 == 1:
                        pid = forked(own_loops)
                    elif number % 4 == 2:
                        # Back through the loop, which has its tasks cancelled and is closed.
                        pid = await leaving()
                    else:
                        pid = await asyncio.to_thread(forked, own_loops)
                    codes.append(await ended_soon(pid))
                    await asyncio.sleep(0.002)
                stop.set()
                await asyncio.gather(*talks)
            print(set(codes), len(counts), all(counts))

        whilst.run(main())
    """
    assert outcome(source) == "{0} 16 True\n"


@pytest.mark.parametrize("size", [4, 4 << 20])
@pytest.mark.parametrize("end", ["os._exit", "sys.exit", "return"])
def test_what_was_written_before_the_fork_is_sent_once(size: int, end: str) -> None:
    source = f"""
        warnings.simplefilter("ignore")
        END, SIZE = {end!r}, {size}

        async def main():
            loop = asyncio.get_running_loop()
            here, there = socket.socketpair()
            there.setblocking(False)
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=here)
            data = os.urandom(SIZE)
            forking = loop.create_future()

            def fork():
                pid = os.fork()
                if pid:
                    return forking.set_result(pid)
                signal.alarm(10)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                there.close()
                if END == "os._exit":
                    os._exit(0)
                transport.write(b"of the child")
                if END == "sys.exit":
                    sys.exit(0)
                transport.close()

            loop.call_soon(fork)
            transport.write(data)
            pid = await forking
            transport.close()
            received = bytearray()
            while piece := await loop.sock_recv(there, 1 << 20):
                received += piece
            assert received == data, (len(received), len(data))
            print("child", await ended_soon(pid))
            print("the same")

        try:
            whilst.run(main())
        except RuntimeError:
            os._exit(0)  # The child: its run has ended.
    """
    assert outcome(source) == "child 0\nthe same\n"


def test_what_was_written_before_the_fork_has_left_by_then() -> None:
    source = """
        async def main():
            loop = asyncio.get_running_loop()
            here, there = socket.socketpair()
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=here)
            transport.write(b"early")
            def child():
                there.settimeout(5)
                print(there.recv(100))
            assert ended(forked(child)) == 0
            transport.write(b"late")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            print(there.recv(100))
            transport.close()
            there.close()

        warnings.simplefilter("ignore")
        whilst.run(main())
    """
    assert outcome(source) == "b'early'\nb'late'\n"


def test_what_the_child_closes_stays_open_in_the_parent(tmp_path: Any) -> None:
    source = """
        warnings.simplefilter("ignore")
        path = sys.argv[1]

        async def main():
            loop = asyncio.get_running_loop()
            tcp = await asyncio.start_server(echo, "127.0.0.1", 0)
            unix = await asyncio.start_unix_server(echo, path)
            reader, writer = await asyncio.open_connection(*tcp.sockets[0].getsockname())
            writer.write(b"before")
            assert await reader.readexactly(6) == b"before"
            read, write = os.pipe()
            pipe_reader = asyncio.StreamReader()
            read_transport, _ = await loop.connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(pipe_reader), open(read, "rb", 0))
            write_transport, _ = await loop.connect_write_pipe(asyncio.Protocol, open(write, "wb", 0))
            udp, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
            watched, other = socket.socketpair()
            seen = []
            loop.add_reader(watched, lambda: seen.append(watched.recv(10)))

            def close_all():
                for transport in (writer.transport, read_transport, write_transport, udp):
                    transport.close()
                writer.transport.abort()
                tcp.close()
                unix.close()
                loop.remove_reader(watched)
                for sock in (watched, other):
                    sock.close()

            def abort():
                writer.transport.abort()
                write_transport.abort()

            def forget():
                nonlocal writer, reader, read_transport, write_transport, tcp, unix, udp, watched, other
                writer = reader = read_transport = write_transport = tcp = unix = udp = watched = other = None
                gc.collect()

            for body in (close_all, abort, forget):
                for pid in (forked(body), await leaving(body)):
                    assert await ended_soon(pid) == 0
                    # The connection.
                    writer.write(b"after")
                    assert await reader.readexactly(5) == b"after"
                    # The servers.
                    for connection in (asyncio.open_connection(*tcp.sockets[0].getsockname()),
                                       asyncio.open_unix_connection(path)):
                        other_reader, other_writer = await connection
                        other_writer.write(b"new")
                        assert await other_reader.readexactly(3) == b"new"
                        other_writer.close()
                    # The pipe, the watch, and the timers.
                    write_transport.write(b"pipe")
                    assert await pipe_reader.readexactly(4) == b"pipe"
                    other.send(b"1")
                    while not seen:
                        await asyncio.sleep(0.001)
                    seen.clear()
            print("all well")
            os._exit(0 if sys.stdout.flush() is None else 1)

        whilst.run(main())
    """
    done = program(PRELUDE + textwrap.dedent(source), str(tmp_path / "socket"), timeout=30)
    assert (done.stdout, done.returncode) == ("all well\n", 0), done.stdout + done.stderr


def test_a_child_that_leaves_through_asyncio_run_ends_well() -> None:
    """`SystemExit` on its way through `asyncio.run()` has the loop cancel its tasks, and the interpreter shuts down."""
    source = """
        warnings.simplefilter("ignore")

        async def wait_for_ever(name):
            reader, writer = await asyncio.open_connection(*address)
            try:
                await reader.read()
            finally:
                writer.write(b"of the child or the parent\\n")
                writer.close()

        async def main():
            global address
            received = []

            async def serve(reader, writer):
                received.append(await reader.read())
                writer.close()

            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            tasks = [asyncio.create_task(wait_for_ever(name)) for name in range(3)]
            await asyncio.sleep(0.05)
            print(await ended_soon(await leaving(code=7)))
            await asyncio.sleep(0.05)
            print(received)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            while len(received) < 3:
                await asyncio.sleep(0.001)
            print(received)

        whilst.run(main())
    """
    line = b"of the child or the parent\n"
    assert outcome(source) == f"7\n[]\n{[line, line, line]}\n"


def test_a_tls_connection_and_a_process_survive_children(tmp_path: Any) -> None:
    source = """
        import ssl
        warnings.simplefilter("ignore")
        certificate, trusted = sys.argv[1:]

        async def main():
            server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            server_side.load_cert_chain(certificate)
            client_side = ssl.create_default_context(cafile=trusted)
            server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server_side)
            reader, writer = await asyncio.open_connection(
                *server.sockets[0].getsockname(), ssl=client_side, server_hostname="localhost")
            process = await asyncio.create_subprocess_exec(
                "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
            for number in range(6):
                writer.write(b"before")
                if number % 2:
                    pid = await leaving()
                else:
                    pid = forked(lambda: (writer.close(), process._transport.close(), gc.collect()))
                assert await ended_soon(pid) == 0
                writer.write(b"after")
                assert await reader.readexactly(11) == b"beforeafter"
                process.stdin.write(b"line\\n")
                assert await process.stdout.readline() == b"line\\n"
                assert process.returncode is None
            process.stdin.close()
            print(await process.wait())
            writer.close()
            await asyncio.sleep(0.05)
            print("done")

        whilst.run(main())
    """
    paths = [tmp_path / "certificate.pem", tmp_path / "authority.pem"]
    leaf = certificate("localhost")
    leaf.private_key_and_cert_chain_pem.write_to_path(str(paths[0]))
    authority().cert_pem.write_to_path(str(paths[1]))
    done = program(PRELUDE + textwrap.dedent(source), *map(str, paths), timeout=30)
    assert (done.stdout, done.returncode) == ("0\ndone\n", 0), done.stdout + done.stderr


def test_a_fork_then_exec() -> None:
    source = """
        warnings.simplefilter("ignore")

        async def main():
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGUSR1, print)
            async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                sys.stdout.flush()
                pid = os.fork()
                if pid == 0:
                    listing = "import os; print(sorted(os.listdir('/proc/self/fd'))[:-1])"
                    os.execv(sys.executable, [sys.executable, "-I", "-c", listing])
                assert await ended_soon(pid) == 0
                writer.write(b"1")
                assert await reader.readexactly(1) == b"1"
                writer.close()
            print(await round_trips())

        whilst.run(main())
    """
    assert outcome(source) == "['0', '1', '2']\ntalked\n"


def test_subprocesses_with_a_function_of_their_own_before_exec() -> None:
    source = """
        import subprocess
        warnings.simplefilter("ignore")

        async def main():
            async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                for number in range(10):
                    writer.write(b"written before")
                    done = subprocess.run(["true"], preexec_fn=lambda: os.nice(0), check=True)
                    assert await reader.readexactly(14) == b"written before"
                writer.close()
            print(await round_trips())

        whilst.run(main())
    """
    assert outcome(source) == "talked\n"


def test_signals_of_the_child_are_the_childs() -> None:
    source = """
        warnings.simplefilter("ignore")

        async def main():
            loop = asyncio.get_running_loop()
            seen = []
            loop.add_signal_handler(signal.SIGUSR1, seen.append, "parent")
            read, write = os.pipe()

            def child():
                caught = []
                signal.signal(signal.SIGUSR1, lambda *_: caught.append(1))
                os.kill(os.getpid(), signal.SIGUSR1)
                assert caught
                # And in a loop of its own.
                async def own():
                    own_loop = asyncio.get_running_loop()
                    future = own_loop.create_future()
                    own_loop.add_signal_handler(signal.SIGUSR1, future.set_result, "child")
                    os.kill(os.getpid(), signal.SIGUSR1)
                    return await future
                assert whilst.run(own()) == "child"
                # The inherited loop may be closed after that, and asked about its handlers.
                assert loop.remove_signal_handler(signal.SIGUSR1) is False

            assert await ended_soon(forked(child)) == 0
            await asyncio.sleep(0.01)
            print(seen)
            os.kill(os.getpid(), signal.SIGUSR1)
            while not seen:
                await asyncio.sleep(0.001)
            print(seen)

        whilst.run(main())
    """
    assert outcome(source) == "[]\n['parent']\n"


def test_a_programs_own_wakeup_descriptor_is_left_to_it() -> None:
    """Up to 3.11 asyncio does nothing at a fork; from 3.12 on it takes any descriptor away."""
    source = """
        warnings.simplefilter("ignore")
        here, there = socket.socketpair()
        there.setblocking(False)
        loop = whilst.new_event_loop()
        signal.set_wakeup_fd(there.fileno())

        def child():
            found = signal.set_wakeup_fd(-1)
            assert found == (there.fileno() if sys.version_info < (3, 12) else -1), found

        assert ended(forked(child)) == 0
        assert signal.set_wakeup_fd(-1) == there.fileno()
        loop.close()
        print("done")
    """
    assert outcome(source) == "done\n"


def test_waking_and_closing_the_parents_loop_from_the_child() -> None:
    source = """
        warnings.simplefilter("ignore")
        started = threading.Event()
        loop = whilst.new_event_loop()

        def run():
            loop.call_soon(started.set)
            loop.run_forever()

        thread = threading.Thread(target=run)
        thread.start()
        started.wait()

        def child():
            assert loop.is_running()
            handle = loop.call_soon_threadsafe(print, "never")
            loop.call_soon_threadsafe(loop.stop)
            try:
                loop.close()
            except RuntimeError as error:
                assert "running" in str(error)
            own_loops()

        for _ in range(10):
            assert ended(forked(child)) == 0
            assert asyncio.run_coroutine_threadsafe(round_trips(), loop).result(10) == "talked"
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        print(loop.is_running())
        loop.close()
    """
    assert outcome(source) == "False\n"


def test_multiprocessing_by_fork() -> None:
    source = """
        import concurrent.futures
        warnings.simplefilter("ignore")

        def work(number):
            no_loop()
            assert whilst.run(round_trips()) == "talked"
            return number * number

        async def main():
            loop = asyncio.get_running_loop()
            context = multiprocessing.get_context("fork")
            async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                with concurrent.futures.ProcessPoolExecutor(2, context) as pool:
                    calls = [loop.run_in_executor(pool, work, number) for number in range(6)]
                    for _ in range(20):
                        writer.write(b"meanwhile")
                        assert await reader.readexactly(9) == b"meanwhile"
                    print(await asyncio.gather(*calls))
                process = context.Process(target=work, args=(1,))
                process.start()
                await asyncio.to_thread(process.join)
                print(process.exitcode)
                await end(reader, writer)

        whilst.run(main())
    """
    assert outcome(source) == "[0, 1, 4, 9, 16, 25]\n0\n"


def test_a_loop_that_does_not_run_is_whole_in_the_child() -> None:
    """How a program goes into the background after it has opened its sockets; and two that serve what one has opened."""
    source = """
        warnings.simplefilter("ignore")
        loop = whilst.new_event_loop()
        here, there = socket.socketpair()
        there.settimeout(5)

        async def prepare():
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(sock=here)
            watched.extend(socket.socketpair())
            loop.add_reader(watched[0], lambda: loop.stop() if watched[0].recv(1) else None)
            return server, reader, writer

        watched = []
        server, reader, writer = loop.run_until_complete(prepare())
        loop.call_later(0.01, print, "timer of the child")

        async def serve():
            assert await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(await reader.readexactly(4))
            await asyncio.sleep(0.02)

        def child():
            loop.run_until_complete(serve())
            watched[1].send(b"1")
            loop.run_forever()
            loop.close()

        pid = forked(child)
        there.send(b"ping")
        print(there.recv(10), ended(pid))
        # What the child has closed is open here, and the watch is there.
        loop.call_later(0.01, print, "timer of the parent")
        pending = loop.run_until_complete(asyncio.sleep(0.02))
        watched[1].send(b"1")
        loop.run_forever()
        there.send(b"pong")
        print(loop.run_until_complete(reader.readexactly(4)))
        loop.close()
    """
    lines = outcome(source).splitlines()
    assert sorted(lines) == sorted(
        ["timer of the child", "b'ping' 0", "timer of the child", "timer of the parent", "b'pong'"]
    )


def test_children_that_close_or_drop_a_loop_that_does_not_run() -> None:
    source = """
        warnings.simplefilter("ignore")
        loop = whilst.new_event_loop()

        async def connect():
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            return server, *(await asyncio.open_connection(*server.sockets[0].getsockname()))

        server, reader, writer = loop.run_until_complete(connect())

        def close():
            loop.close()

        def drop():
            global loop, server, reader, writer
            del loop, server, reader, writer
            gc.collect()

        async def talk():
            writer.write(b"of the parent")
            return await reader.readexactly(13)

        # Written between two runs and sent by none: it leaves before the fork, and once.
        writer.write(b"between")
        for body in (close, drop, own_loops):
            assert ended(forked(body)) == 0
        print(loop.run_until_complete(reader.readexactly(7)))
        print(loop.run_until_complete(talk()))
        loop.run_until_complete(end(reader, writer))
        loop.close()
    """
    # The child that drops the loop drops a task that waits, which says so.
    done = program(PRELUDE + textwrap.dedent(source), timeout=30)
    assert (done.stdout, done.returncode) == ("b'between'\nb'of the parent'\n", 0), done.stderr


def test_many_forks_leave_no_descriptor() -> None:
    source = """
        warnings.simplefilter("ignore")

        async def main():
            reader, writer = None, None
            async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                # For its first sleep the loop makes the descriptor by which it is woken.
                await asyncio.sleep(0.001)
                before = len(os.listdir("/proc/self/fd"))

                def count():
                    whilst.run(round_trips())
                    gc.collect()
                    # The ring or the epoll instance of the parent is closed in the child.
                    assert len(os.listdir("/proc/self/fd")) <= before

                for _ in range(30):
                    assert await ended_soon(forked(count)) == 0
                print(len(os.listdir("/proc/self/fd")) - before)
                await end(reader, writer)

        whilst.run(main())
    """
    assert outcome(source) == "0\n"


def test_the_policys_loop_in_the_child() -> None:
    """With `whilst.install()` the child of a running loop makes another one by asyncio's own names."""
    source = """
        warnings.simplefilter("ignore")
        whilst.install()

        def child():
            no_loop()
            made = asyncio.new_event_loop()
            assert type(made) is whilst.Loop and made is not loop
            assert made.run_until_complete(round_trips()) == "talked"
            made.close()
            assert asyncio.run(round_trips()) == "talked"

        async def main():
            global loop
            loop = asyncio.get_running_loop()
            assert await ended_soon(forked(child)) == 0
            print(await round_trips())

        asyncio.run(main())
    """
    assert outcome(source) == "talked\n"
