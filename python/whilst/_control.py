"""The control socket: by it ``whilst top`` looks into a program that was started with ``WHILST_CONTROL=1``.

A program that allows it has a Unix socket, which its user alone can reach, and one thread that sleeps until somebody asks.
A question is a line of JSON, and so is the answer: ``{"ask": "snapshot"}`` gives the loops, their numbers, and their tasks with
what each waits for (docs/metrics.md has the members). There are names, places and sizes in it, never payloads, arguments or
results.

Who asks pays: the loop itself does nothing for it. The thread takes the GIL in turns with the loop's, and looks at no more than
:data:`MOST_TASKS`. Without a GIL it is the loop that looks at its tasks, for no other thread may.

Clients use :func:`programs` and :func:`connect`; for them nothing is imported here but what the interpreter has at hand.
"""

import _thread
import contextlib
import os
import socket
import stat
import struct
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

    from whilst._census import Wanted
    from whilst._loop.lifecycle import Lifecycle
    from whilst._waits import Place

PROTOCOL = 1

#: So many bytes a question may have.
LONGEST_QUESTION = 4096

#: So many clients may be connected at a time.
MOST_CLIENTS = 8

#: So many tasks are looked at for one answer. How many are described is :mod:`whilst._census`'s.
MOST_TASKS = 10_000

#: So long must the present iteration have been running for the answer to say where, in seconds.
HELD = 0.05

#: Without a GIL: so long may the loop take to begin to describe its tasks, in seconds.
PATIENCE = 0.5

#: So many frames of a stack at most.
MOST_FRAMES = 20

_FREE_THREADED = not getattr(sys, "_is_gil_enabled", lambda: True)()

# Longer paths do not fit into an address (`sun_path` of unix(7)).
_LONGEST_FOLDER = 80


# Where the sockets are: for both sides.


def folders(uid: int | None = None) -> list[str]:
    """Where sockets of a user's programs may be, the likeliest first."""
    uid = os.geteuid() if uid is None else uid
    found = [f"/tmp/whilst-{uid}"]
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    if uid != os.geteuid():
        # Where systemd has it.
        found.insert(0, f"/run/user/{uid}/whilst")
    elif os.path.isabs(own) and len(os.fsencode(own)) < _LONGEST_FOLDER:
        with contextlib.suppress(OSError):
            status = os.stat(own)
            if stat.S_ISDIR(status.st_mode) and status.st_uid == uid:
                found.insert(0, os.path.join(own, "whilst"))
    return found


def folder() -> str:
    """Where the socket of this process is, if it has one."""
    return folders()[0]


def address(pid: int, uid: int | None = None) -> str:
    """The path of the socket of a process, if it has one."""
    paths = [os.path.join(folder, f"{pid}.sock") for folder in folders(uid)]
    return next((path for path in paths if os.path.lexists(path)), paths[0])


def programs(uid: int | None = None) -> list[int]:
    """The processes of a user that have a socket, or had one when they were killed."""
    found: set[int] = set()
    for folder in folders(uid):
        with contextlib.suppress(OSError):
            found.update(pid for name in os.listdir(folder) if (pid := _pid_of(name)) is not None)
    return sorted(found)


def connect(pid: int, uid: int | None = None, timeout: float = 5.0) -> socket.socket:
    """Connect to a program. Raises OSError if it does not run or does not allow it."""
    client = socket.socket(socket.AF_UNIX)
    try:
        client.settimeout(timeout)
        client.connect(address(pid, uid))
    except BaseException:
        client.close()
        raise
    return client


def _pid_of(name: str) -> int | None:
    pid, point, kind = name.partition(".")
    return int(pid) if point and kind == "sock" and pid.isascii() and pid.isdigit() else None


# The server's side.

_server: "_Server | None" = None

_serving = _thread.allocate_lock()

#: A process that cannot have a socket says so once.
_failed = False

#: What is to happen at a fork and at the end of the process is said once, too.
_registered = False


def serve() -> None:
    """Begin to answer, if this process does not already. A failure is a warning: the program goes on without."""
    global _server, _failed, _registered
    import atexit
    import warnings

    # The first loops of two threads may begin at once.
    with _serving:
        if _server is not None or _failed:
            return
        try:
            server = _Server()
            server.start()
        except (OSError, RuntimeError) as error:
            _failed = True
            warnings.warn(f"WHILST_CONTROL: no control socket: {error}", RuntimeWarning, stacklevel=2)
            return
        if not _registered:
            _registered = True
            os.register_at_fork(after_in_child=_after_fork_in_child)
            atexit.register(_stop)
        _server = server


def _stop() -> None:
    if _server is not None:
        _server.remove()


def _after_fork_in_child() -> None:
    """Let go of what is the parent's. The child has a socket of its own as soon as a loop runs in it, or is made."""
    global _server, _serving
    from whilst._loop import running

    # Another thread may have been in the middle of it.
    _serving = _thread.allocate_lock()
    if _server is not None:
        _server.abandon()
        _server = None
        running.to_be_shown = True


def _open_folder() -> int:
    """A descriptor of the folder, which is made if need be. Raises OSError where others could have a hand in it."""
    path = folder()
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    # Not by way of a symbolic link, which anybody can have put into /tmp.
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid():
            raise PermissionError(f"{path} belongs to another user")
        if status.st_mode & 0o077:
            raise PermissionError(f"{path} is open to others (its mode must be 0700)")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class _Client:
    """A connection, what of its questions has come, and what of an answer it has not taken yet."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.received = b""
        self.unsent = b""
        #: It is disconnected when it has its answer.
        self.ends = False


class _Server:
    """The socket, its clients, and the thread that answers."""

    def __init__(self) -> None:
        import time

        self._folder = _open_folder()
        self._began = time.monotonic()
        self._clients: dict[int, _Client] = {}
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._listen()
            self._identity = self._stat(f"{os.getpid()}.sock")
            self._remove_dead()
        except BaseException:
            self.abandon()
            raise

    def _listen(self) -> None:
        # By way of the descriptor, so that it is the folder that was looked at.
        folder = f"/proc/self/fd/{self._folder}"
        pid = os.getpid()
        # Before it has a name: from the first moment on it is the user's alone, without touching the process's umask.
        os.fchmod(self._socket.fileno(), 0o600)
        # What has this name is of a process that has gone, or of this one before it called exec.
        fresh = f".{pid}.new"
        for name in (fresh, f"{pid}.sock"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._folder)
        self._socket.bind(f"{folder}/{fresh}")
        os.chmod(fresh, 0o600, dir_fd=self._folder)
        self._socket.listen(MOST_CLIENTS)
        # Now that it listens: who finds it refusing takes it for a dead one's.
        os.rename(fresh, f"{pid}.sock", src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def _stat(self, name: str) -> tuple[int, int]:
        status = os.stat(name, dir_fd=self._folder, follow_symlinks=False)
        return status.st_dev, status.st_ino

    def _remove_dead(self) -> None:
        """Remove the sockets that nobody listens on any more."""
        for name in os.listdir(self._folder):
            if _pid_of(name) in (None, os.getpid()):
                continue
            with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
                probe.setblocking(False)
                try:
                    probe.connect(f"/proc/self/fd/{self._folder}/{name}")
                except ConnectionRefusedError:
                    os.unlink(name, dir_fd=self._folder)

    def start(self) -> None:
        import threading

        threading.Thread(target=self._run, name="whilst-control", daemon=True).start()

    def remove(self) -> None:
        """Take the socket's name away, at the end of the process."""
        name = f"{os.getpid()}.sock"
        with contextlib.suppress(OSError):
            # Unless it is another's: in another container a process may have the same number.
            if self._stat(name) == self._identity:
                os.unlink(name, dir_fd=self._folder)

    def abandon(self) -> None:
        """Close what there is, and leave the name to whom it belongs."""
        self._socket.close()
        for client in self._clients.values():
            client.connection.close()
        os.close(self._folder)

    def _run(self) -> None:
        import select
        import signal

        # Signals are for the program's threads.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor != self._socket.fileno():
                    client = self._clients[descriptor]
                    try:
                        self._serve(client)
                    except OSError:
                        poll.unregister(descriptor)
                        del self._clients[descriptor]
                        client.connection.close()
                    else:
                        # Who does not take an answer is not asked for another question.
                        poll.modify(descriptor, select.POLLOUT if client.unsent else select.POLLIN)
                elif (connection := self._accept()) is not None:
                    poll.register(connection, select.POLLIN)
                    self._clients[connection.fileno()] = _Client(connection)

    def _accept(self) -> socket.socket | None:
        try:
            connection, _ = self._socket.accept()
        except OSError:
            # It has gone again; or there are no descriptors left, and then it is waited for some to be closed.
            import time

            time.sleep(0.1)
            return None
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, _ = struct.unpack("3i", peer)
        if uid not in (0, os.geteuid()) or len(self._clients) >= MOST_CLIENTS:
            connection.close()
            return None
        connection.setblocking(False)
        return connection

    def _serve(self, client: _Client) -> None:
        """Answer what has come, as far as it is taken. Raises OSError if the connection is at its end."""
        if not client.unsent:
            received = client.connection.recv(LONGEST_QUESTION)
            if not received:
                raise ConnectionResetError
            client.received += received
        while True:
            if client.unsent:
                with contextlib.suppress(BlockingIOError):
                    client.unsent = client.unsent[client.connection.send(client.unsent) :]
                if client.unsent:
                    return
            if client.ends:
                raise ConnectionAbortedError
            question, end, rest = client.received.partition(b"\n")
            if len(question) > LONGEST_QUESTION:
                client.unsent = _line({"error": f"a line is longer than {LONGEST_QUESTION} bytes"})
                client.ends = True
            elif end:
                client.received = rest
                client.unsent = self._answer(question)
            else:
                return

    def _answer(self, line: bytes) -> bytes:
        import json

        from whilst._census import Wanted

        try:
            try:
                question = json.loads(line)
            except ValueError as error:
                return _line({"error": f"not JSON: {error}"})
            if not isinstance(question, dict) or question.get("ask") != "snapshot":
                return _line({"error": 'ask for a snapshot: {"ask": "snapshot"}'})
            try:
                wanted = Wanted(question)
            except ValueError as error:
                return _line({"error": str(error)})
            return _line(_snapshot(wanted, self._began))
        except Exception as error:
            # A program may be at anything, its end among it; who asks is told, and may ask again.
            return _line({"error": f"{type(error).__name__}: {error}"})


def _line(answer: dict[str, Any]) -> bytes:
    import json

    return json.dumps({"protocol": PROTOCOL, **answer}, separators=(",", ":")).encode("ascii") + b"\n"


# The answer.


def _snapshot(wanted: "Wanted", began: float) -> dict[str, Any]:
    import threading
    import time

    from whilst._loop import running
    from whilst._whilst import __version__

    loops = [loop for loop in running.loops() if not loop.is_closed()]
    tasks = {} if _FREE_THREADED else _find_tasks(loops)
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return {
        "program": _program(),
        "pid": os.getpid(),
        "python": sys.version.partition(" ")[0],
        "whilst": __version__,
        "time": time.time(),
        "uptime": time.monotonic() - began,
        "threads": len(names),
        "loops": [_describe_loop(loop, names, tasks.get(id(loop)), wanted) for loop in loops],
    }


def _program() -> str:
    """What the user knows the program by."""
    path = sys.argv[0] if sys.argv else ""
    name = os.path.basename(path)
    if name == "__main__.py":
        name = os.path.basename(os.path.dirname(path))
    return name or "python"


class _Tasks:
    """The pending tasks of a loop, as far as they are looked at."""

    def __init__(self) -> None:
        self.found: list[asyncio.Task[Any]] = []
        #: How many there are, if not all were looked at.
        self.total: int | None = None
        #: False if that counts those of other loops, and such as are done.
        self.exact = True


def _find_tasks(loops: "list[Lifecycle]") -> dict[int, _Tasks]:
    """Find the tasks of the loops, and file them by the ``id()`` of their loop."""
    from asyncio import tasks

    filed = {id(loop): _Tasks() for loop in loops}
    if sys.version_info >= (3, 14):
        # They are in lists that C alone knows. It goes through them in one go, and fast.
        for loop in loops:
            all_tasks = list(tasks.all_tasks(loop))
            own = filed[id(loop)]
            own.found, own.total = all_tasks[:MOST_TASKS], len(all_tasks)
        return filed
    # What tasks.all_tasks() goes through, one by one, until no other thread has changed it meanwhile. A copy is made in one go.
    known: Any = tasks._scheduled_tasks if sys.version_info >= (3, 12) else tasks._all_tasks  # type: ignore[attr-defined]
    references = list(known.data)
    eager = list(tasks._eager_tasks) if sys.version_info >= (3, 12) else []  # type: ignore[attr-defined]
    for task in [reference() for reference in references[:MOST_TASKS]] + eager[:MOST_TASKS]:
        if task is not None and not task.done() and id(task.get_loop()) in filed:
            filed[id(task.get_loop())].found.append(task)
    total = len(references) + len(eager)
    if total > MOST_TASKS:
        for own in filed.values():
            own.total, own.exact = total, False
    return filed


def _describe_loop(
    loop: "Lifecycle",
    names: dict[int | None, str],
    tasks: "_Tasks | None",
    wanted: "Wanted",
) -> dict[str, Any]:
    metrics = loop.metrics()
    thread = loop._thread_id
    # Outermost first.
    stack = [
        (code.co_filename, line, code.co_qualname)
        for code, line, _, _ in loop._stack()[MOST_FRAMES - 1 :: -1]
    ]
    return {
        "id": metrics.loop,
        "thread": names.get(thread) if thread is not None else None,
        "driver": metrics.driver,
        "debug": loop.get_debug(),
        "state": metrics.state,
        "held": metrics.held,
        "where": stack if metrics.held >= HELD else [],
        "metrics": metrics.as_dict(),
        "tasks": _ask_for_tasks(loop, wanted) if tasks is None else _describe_tasks(tasks, stack, wanted),
    }


def _describe_tasks(tasks: _Tasks, stack: "list[Place]", wanted: "Wanted") -> dict[str, Any]:
    from whilst._census import Census

    # Where nothing is to be told of them they are only numbered.
    census = Census(tasks.found if wanted.limit else (), stack)
    return {
        "total": len(tasks.found) if tasks.total is None else tasks.total,
        "exact": tasks.exact,
        "groups": census.groups(),
        "listed": census.described(wanted),
    }


def _ask_for_tasks(loop: "Lifecycle", wanted: "Wanted") -> dict[str, Any]:
    """Have the loop itself describe its tasks, without a GIL. None are told of one that does not run, or is held for long.

    Other threads must not look at them then. Reading the frame of a coroutine that goes on meanwhile can end the process, and on
    CPython 3.14.5 so can ``asyncio.all_tasks()`` of another thread's loop, on asyncio's own loop as on this one.
    """
    import threading

    over = threading.Event()
    # Whoever has it first: the loop, to begin, or this thread, to give up.
    first = threading.Lock()
    answer: list[dict[str, Any]] = []
    failures: list[Exception] = []

    def describe() -> None:
        if not first.acquire(blocking=False):
            return
        try:
            answer.append(_describe_tasks(_find_tasks([loop])[id(loop)], [], wanted))
        except Exception as error:
            failures.append(error)
        over.set()

    if loop.is_running():
        with contextlib.suppress(RuntimeError):  # Closed by now.
            loop.call_soon_threadsafe(describe)
            if not over.wait(PATIENCE) and not first.acquire(blocking=False):
                over.wait()
    if failures:
        raise failures[0]
    return answer[0] if answer else {"total": 0, "exact": False, "groups": [], "listed": []}
