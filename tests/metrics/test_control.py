"""The control socket of programs that were started with WHILST_CONTROL=1: who can reach it, what it says, and how it ends."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from whilst import _control

SECONDS = 30.0

PROGRAM = """
import asyncio, os, sys, time
import whilst

async def nap(secret):
    await asyncio.sleep(1000)

async def wait_for_the_nap(task):
    await task

async def main():
    naps = [asyncio.create_task(nap("S3CRET-ARGUMENT"), name=f"nap {n}") for n in range(3)]
    waiting = asyncio.create_task(wait_for_the_nap(naps[0]), name="waits")
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    loop = asyncio.get_running_loop()
    inbox = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(inbox), sys.stdin)
    print("up", flush=True)
    while line := (await inbox.readline()).decode().strip():
        exec(line, {**globals(), **locals()})
        print("done", flush=True)

whilst.run(main())
"""


class Program:
    """A program that does what it is told, line by line."""

    def __init__(self, source: str, folder: pathlib.Path, **environment: str) -> None:
        self.path = folder / "program.py"
        self.path.write_text(source)
        self.process = subprocess.Popen(
            [sys.executable, str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "WHILST_CONTROL": "1", **environment},
        )
        self.expect("up")

    def expect(self, line: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == line

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def do(self, line: str) -> None:
        self.tell(line)
        self.expect("done")

    def end(self) -> int:
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            return self.process.wait(SECONDS)
        finally:
            self.process.kill()
            self.process.wait(SECONDS)
            self.process.stdout.close()


@pytest.fixture
def runtime(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A folder for sockets that this test has for itself. Short enough for an address."""
    folder = tmp_path_factory.mktemp("run")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder


@pytest.fixture
def program(driver: str, runtime: pathlib.Path, tmp_path: pathlib.Path) -> Iterator[Program]:
    program = Program(PROGRAM, tmp_path)
    yield program
    assert program.end() == 0


def sockets(runtime: pathlib.Path) -> list[int]:
    """The processes with a socket in the test's own folder; `_control.programs()` knows also those of others in /tmp."""
    return sorted(int(path.stem) for path in (runtime / "whilst").glob("*.sock"))


def ask(pid: int, *questions: Any) -> list[dict[str, Any]]:
    """Put questions over one connection."""
    with _control.connect(pid) as connection, connection.makefile("rwb") as file:
        answers = []
        for question in questions:
            file.write((question if isinstance(question, bytes) else json.dumps(question).encode()) + b"\n")
            file.flush()
            answers.append(json.loads(file.readline()))
        return answers


def snapshot(program: Program, **members: Any) -> dict[str, Any]:
    (answer,) = ask(program.process.pid, {"ask": "snapshot", **members})
    return answer


def test_the_socket_is_the_users_own(program: Program, runtime: pathlib.Path) -> None:
    path = runtime / "whilst" / f"{program.process.pid}.sock"
    assert _control.address(program.process.pid) == str(path)
    status = path.stat()
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert status.st_uid == os.geteuid()
    assert program.process.pid in _control.programs()
    # Nothing else is left there.
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_no_socket_unless_it_is_allowed(driver: str, runtime: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for value in ("", "0"):
        program = Program(PROGRAM, tmp_path, WHILST_CONTROL=value)
        try:
            assert not (runtime / "whilst").exists()
            with pytest.raises(OSError):
                _control.connect(program.process.pid)
        finally:
            program.end()


def test_a_snapshot(program: Program, driver: str) -> None:
    answer = snapshot(program)
    assert answer["protocol"] == 1
    assert answer["program"] == "program.py"
    assert answer["pid"] == program.process.pid
    assert answer["python"] == sys.version.split()[0]
    assert abs(answer["time"] - time.time()) < SECONDS
    assert 0.0 <= answer["uptime"] < SECONDS
    (loop,) = answer["loops"]
    assert (loop["id"], loop["thread"], loop["driver"], loop["debug"]) == (1, "MainThread", driver, False)
    assert loop["state"] in ("polling", "running")
    metrics = loop["metrics"]
    assert metrics["servers"] == 1
    assert metrics["transports"]["pipe"] == 1
    assert metrics["callbacks"] > 0
    assert metrics["timers"] >= 3
    again = snapshot(program)["loops"][0]["metrics"]
    assert again["timed"] > metrics["timed"]
    assert again["time"] > metrics["time"]


def test_tasks(program: Program) -> None:
    tasks = snapshot(program)["loops"][0]["tasks"]
    assert (tasks["total"], tasks["exact"], len(tasks["listed"])) == (5, True, 5)
    by_name = {task["name"]: task for task in tasks["listed"]}
    nap = by_name["nap 0"]
    assert (nap["coroutine"], nap["state"], nap["kind"]) == ("nap", "waiting", "sleep")
    line = PROGRAM.splitlines().index("    await asyncio.sleep(1000)") + 1
    assert nap["place"] == [str(program.path), line, "nap"]
    assert nap["awaited_by"] == [by_name["waits"]["id"]]
    assert by_name["waits"]["kind"] == "task"
    assert by_name["nap 1"]["awaited_by"] == []
    assert "stack" not in nap
    assert nap["age"] is None


def test_stacks_only_if_asked_for(program: Program) -> None:
    tasks = snapshot(program, stacks=True)["loops"][0]["tasks"]["listed"]
    stack = next(task["stack"] for task in tasks if task["name"] == "nap 0")
    assert [place[2] for place in stack] == ["nap", "sleep"]
    assert stack[0][0] == str(program.path)


def test_as_many_tasks_as_wanted(program: Program) -> None:
    none, two, all_of_them = (snapshot(program, tasks=limit)["loops"][0]["tasks"] for limit in (0, 2, 10**9))
    assert (none["total"], none["listed"]) == (5, [])
    assert (two["total"], len(two["listed"])) == (5, 2)
    assert (all_of_them["total"], len(all_of_them["listed"])) == (5, 5)


def test_nothing_of_arguments(program: Program) -> None:
    answer = json.dumps(snapshot(program, stacks=True))
    assert "S3CRET" not in answer


def test_a_loop_that_is_held_says_where(program: Program) -> None:
    snapshot(program)  # From now on it is timed.
    program.tell("time.sleep(1.5)")
    deadline = time.monotonic() + SECONDS
    while True:
        loop = snapshot(program)["loops"][0]
        if loop["held"] >= 0.3:
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert loop["state"] == "running"
    assert any(place[0] == str(program.path) and place[2] == "main" for place in loop["where"])
    running = next(task for task in loop["tasks"]["listed"] if task["state"] == "running")
    assert running["coroutine"] == "main"
    assert loop["metrics"]["lag_max_10s"] >= 0.3
    program.expect("done")
    program.do("pass")  # By its answer the callback that held the loop is over.
    assert snapshot(program)["loops"][0]["where"] == []


def test_wrong_questions_are_answered_in_words(program: Program) -> None:
    answers = ask(
        program.process.pid,
        {"ask": "the weather"},
        b"no json",
        b"[]",
        b"\xff\xfe",
        {"ask": "snapshot", "tasks": "all"},
        {"ask": "snapshot", "tasks": -1},
        {"ask": "snapshot", "tasks": 0, "unknown": 1},
    )
    assert [sorted(answer) for answer in answers[:6]] == [["error", "protocol"]] * 6
    assert all(answer["error"] for answer in answers[:6])
    assert answers[6]["pid"] == program.process.pid


def test_a_line_that_is_too_long_ends_the_connection(program: Program) -> None:
    with _control.connect(program.process.pid) as connection, connection.makefile("rb") as file:
        connection.sendall(b"x" * 5000)
        assert "longer" in json.loads(file.readline())["error"]
        assert file.readline() == b""
    assert snapshot(program)["pid"] == program.process.pid


def test_a_question_in_pieces_and_two_in_one(program: Program) -> None:
    with _control.connect(program.process.pid) as connection, connection.makefile("rb") as file:
        question = b'{"ask": "snapshot", "tasks": 0}\n'
        for byte in question:
            connection.sendall(bytes([byte]))
        assert json.loads(file.readline())["protocol"] == 1
        connection.sendall(question + question)
        assert [json.loads(file.readline())["protocol"] for _ in range(2)] == [1, 1]


def test_several_clients_but_not_too_many(program: Program) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(_control.connect(program.process.pid)) for _ in range(8)]
        files = [stack.enter_context(client.makefile("rwb")) for client in clients]
        for file in files:
            file.write(b'{"ask": "snapshot", "tasks": 0}\n')
            file.flush()
            assert json.loads(file.readline())["protocol"] == 1
        with _control.connect(program.process.pid) as ninth:
            assert ninth.recv(1) == b""
    deadline = time.monotonic() + SECONDS
    while True:
        with contextlib.suppress(ValueError, OSError):
            assert snapshot(program)["protocol"] == 1
            break
        assert time.monotonic() < deadline


def test_another_user_gets_no_answer(program: Program, runtime: pathlib.Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    # As if the folder were open: the credentials count by themselves.
    path = pathlib.Path(_control.address(program.process.pid))
    opened = [path, *path.parents[:-1]]
    modes = [(folder, stat.S_IMODE(folder.stat().st_mode)) for folder in opened if folder.stat().st_uid == 0]
    try:
        for folder, mode in modes:
            folder.chmod(mode | 0o777)
        code = (
            "import os, socket, sys\n"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "s = socket.socket(socket.AF_UNIX); s.settimeout(30); s.connect(sys.argv[1])\n"
            'try: s.sendall(b\'{"ask": "snapshot"}\\n\'); print(len(s.recv(100)))\n'
            "except OSError: print(0)"
        )
        command = [sys.executable, "-c", code, str(path)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
        assert ran.stdout.strip() == "0"
    finally:
        for folder, mode in modes:
            folder.chmod(mode)
    assert snapshot(program)["protocol"] == 1


def test_one_that_does_not_read_is_disconnected_and_the_others_are_answered(program: Program) -> None:
    with _control.connect(program.process.pid) as lazy:
        lazy.sendall(b'{"ask": "snapshot", "stacks": true}\n' * 100)
        deadline = time.monotonic() + SECONDS
        assert snapshot(program)["protocol"] == 1
        assert time.monotonic() < deadline


def test_the_end_removes_the_socket(driver: str, runtime: pathlib.Path, tmp_path: pathlib.Path) -> None:
    program = Program(PROGRAM, tmp_path)
    with _control.connect(program.process.pid) as client, client.makefile("rb") as file:
        client.sendall(b'{"ask": "snapshot"}\n')
        assert file.readline()
        assert program.end() == 0
        assert file.readline() == b""
    assert list((runtime / "whilst").iterdir()) == []


def test_what_a_killed_program_has_left_is_removed_by_the_next(
    driver: str, runtime: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    killed = Program(PROGRAM, tmp_path)
    killed.process.send_signal(signal.SIGKILL)
    killed.process.wait(SECONDS)
    killed.end()
    left = runtime / "whilst" / f"{killed.process.pid}.sock"
    assert left.exists()
    (runtime / "whilst" / "notes.txt").write_text("not a socket of ours")
    living, other = Program(PROGRAM, tmp_path), Program(PROGRAM, tmp_path)
    try:
        assert not left.exists()
        assert sockets(runtime) == sorted([living.process.pid, other.process.pid])
        assert (runtime / "whilst" / "notes.txt").exists()
    finally:
        living.end()
        other.end()


def _fails_to_offer(tmp_path: pathlib.Path, **environment: str) -> str:
    """Run a program that cannot have its socket; what it says. It runs all the same."""
    ran = subprocess.run(
        [sys.executable, "-c", "import whilst, asyncio; print(whilst.run(asyncio.sleep(0, 'ran')))"],
        env={**os.environ, "WHILST_CONTROL": "1", **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    assert ran.stdout.strip() == "ran"
    return ran.stderr


def test_a_folder_of_another_user_is_not_used(
    driver: str, runtime: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a folder of somebody else's")
    (runtime / "whilst").mkdir(0o700)
    os.chown(runtime / "whilst", 65534, 65534)
    assert "belongs to another user" in _fails_to_offer(tmp_path)
    assert list((runtime / "whilst").iterdir()) == []


def test_a_symbolic_link_is_not_followed(driver: str, runtime: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "elsewhere").mkdir(0o700)
    (runtime / "whilst").symlink_to(tmp_path / "elsewhere")
    assert "no control socket" in _fails_to_offer(tmp_path)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_folder_that_is_open_to_others_is_not_used(
    driver: str, runtime: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (runtime / "whilst").mkdir()
    (runtime / "whilst").chmod(0o770)
    assert "open to others" in _fails_to_offer(tmp_path)
    assert list((runtime / "whilst").iterdir()) == []


def test_without_a_runtime_directory_it_is_in_tmp(monkeypatch: pytest.MonkeyPatch) -> None:
    own = f"/tmp/whilst-{os.geteuid()}"
    for value in ("", "relative", "/does/not/exist", "/" + "long" * 40):
        monkeypatch.setenv("XDG_RUNTIME_DIR", value)
        assert _control.folder() == own
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert _control.folder() == own
    assert _control.address(12) == f"{own}/12.sock"


def test_another_users_runtime_directory_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a folder of somebody else's")
    os.chown(tmp_path, 65534, 65534)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert _control.folder() == "/tmp/whilst-0"


FORKING = """
import asyncio, os, sys, time
import whilst

def child():
    async def wait():
        print("up", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
    whilst.run(wait())
    sys.stdout.flush()

loop = whilst.new_event_loop()
loop.run_until_complete(asyncio.sleep(0))
{before}
pid = os.fork()
if pid == 0:
    child()
    sys.exit(0)
os.waitpid(pid, 0)
loop.close()
"""


def test_a_forked_child_has_a_socket_of_its_own(
    driver: str, runtime: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    program = Program(FORKING.format(before=""), tmp_path)
    parent = program.process.pid
    try:
        (child,) = set(sockets(runtime)) - {parent}
        (answer,) = ask(child, {"ask": "snapshot"})
        assert answer["pid"] == child
        parents, own = (loop["state"] for loop in answer["loops"])
        assert parents == "stopped"
        assert own in ("running", "polling")
        (answer,) = ask(parent, {"ask": "snapshot"})
        assert answer["pid"] == parent
        assert [loop["state"] for loop in answer["loops"]] == ["stopped"]
    finally:
        program.tell("")
        assert program.end() == 0
    assert sockets(runtime) == []


def test_a_child_that_runs_the_parents_loop_has_one_too(
    driver: str, runtime: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """As a program that goes into the background does."""
    source = FORKING.format(before="").replace("whilst.run(wait())", "loop.run_until_complete(wait())")
    program = Program(source, tmp_path)
    try:
        (child,) = set(sockets(runtime)) - {program.process.pid}
        assert ask(child, {"ask": "snapshot"})[0]["loops"][0]["state"] in ("running", "polling")
    finally:
        program.tell("")
        assert program.end() == 0
    assert sockets(runtime) == []


def test_a_child_without_a_loop_has_none_and_leaves_the_parents(
    driver: str, runtime: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    source = FORKING.format(before="").replace("    child()\n", "    print('up', flush=True)\n")
    source = source.replace("os.waitpid(pid, 0)", "os.waitpid(pid, 0); sys.stdin.readline()")
    program = Program(source, tmp_path)
    try:
        # The child has ended by sys.exit(), with all that an interpreter does at its end.
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline and _children(program.process.pid):
            time.sleep(0.01)
        assert sockets(runtime) == [program.process.pid]
        assert ask(program.process.pid, {"ask": "snapshot"})[0]["pid"] == program.process.pid
    finally:
        program.tell("")
        assert program.end() == 0


def _children(pid: int) -> str:
    path = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
    return path.read_text().strip() if path.exists() else ""


def test_after_exec_the_new_program_has_the_name(
    driver: str, runtime: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    source = PROGRAM.replace(
        "whilst.run(main())",
        "if len(sys.argv) == 1:\n"
        "    whilst.run(asyncio.sleep(0))\n"
        "    os.execv(sys.executable, [sys.executable, sys.argv[0], 'again'])\n"
        "whilst.run(main())",
    )
    program = Program(source, tmp_path)
    try:
        answer = snapshot(program)
        assert (answer["pid"], len(answer["loops"])) == (program.process.pid, 1)
    finally:
        assert program.end() == 0
    assert sockets(runtime) == []


def test_several_loops(driver: str, runtime: pathlib.Path, tmp_path: pathlib.Path) -> None:
    source = PROGRAM.replace(
        "whilst.run(main())",
        "import threading\n"
        "other = whilst.new_event_loop()\n"
        "other.set_debug(True)\n"
        "threading.Thread(target=other.run_forever, name='the other', daemon=True).start()\n"
        "whilst.new_event_loop().close()\n"
        "whilst.run(main())",
    )
    program = Program(source, tmp_path)
    try:
        loops = snapshot(program)["loops"]
        assert [(loop["id"], loop["thread"], loop["debug"]) for loop in loops] == [
            (1, "the other", True),
            (3, "MainThread", False),
        ]
        assert [loop["tasks"]["total"] for loop in loops] == [0, 5]
    finally:
        program.process.stdin.close()
        program.process.wait(SECONDS)
        program.end()


def test_a_hundred_thousand_tasks(driver: str, runtime: pathlib.Path, tmp_path: pathlib.Path) -> None:
    program = Program(PROGRAM, tmp_path)
    try:
        program.do(
            "held = [asyncio.create_task(nap(0)) for _ in range(100_000)]; globals().update(held=held)"
        )
        begin = time.monotonic()
        tasks = snapshot(program)["loops"][0]["tasks"]
        lasted = time.monotonic() - begin
        assert tasks["total"] >= 100_000
        assert tasks["exact"] is (sys.version_info >= (3, 14))
        assert len(tasks["listed"]) == 200
        assert lasted < 10.0
    finally:
        program.process.kill()
        program.end()


def test_it_answers_while_tasks_come_and_go(program: Program) -> None:
    program.do(
        "exec('async def churn():\\n while True:\\n  await asyncio.gather(*[asyncio.sleep(0) for _ in range(200)])', "
        "globals()); asyncio.get_running_loop().churn = asyncio.ensure_future(globals()['churn']())"
    )
    begin = time.monotonic()
    while time.monotonic() - begin < 2.0:
        answer = snapshot(program)
        assert "error" not in answer
        assert answer["loops"][0]["tasks"]["total"] >= 5
    program.do("asyncio.get_running_loop().churn.cancel()")


def test_it_costs_nothing_when_nobody_asks(program: Program) -> None:
    """Its thread sleeps, and the loop is not looked after."""
    time.sleep(0.3)  # The loop waits for a moment before it waits for long.
    before = _switches(program.process.pid)
    time.sleep(1.0)
    assert _switches(program.process.pid) - before <= 2


def _switches(pid: int) -> int:
    """How often the threads of a process have let go of the processor by themselves: once a sleep."""
    total = 0
    for thread in pathlib.Path(f"/proc/{pid}/task").iterdir():
        for line in (thread / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total


def test_the_client_needs_neither_asyncio_nor_the_loop() -> None:
    code = "import sys, whilst._control; print([m for m in ('asyncio', 'whilst._whilst', 'json') if m in sys.modules])"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS, check=True
    )
    assert ran.stdout.strip() == "[]"


def test_a_client_in_the_programs_own_loop(
    driver: str, runtime: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program may look into itself: the answer does not need the loop."""
    code = """
import asyncio, json, os, whilst
from whilst import _control
async def main():
    reader, writer = await asyncio.open_unix_connection(_control.address(os.getpid()), limit=1 << 20)
    writer.write(b'{"ask": "snapshot"}\\n')
    answer = json.loads(await reader.readline())
    print(answer["loops"][0]["metrics"]["transports"]["unix"])
    writer.close()
whilst.run(main())
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "WHILST_CONTROL": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    assert ran.stdout.strip() == "1"
    assert ran.stderr == ""


def test_a_socket_that_is_being_made_is_not_taken_for_a_dead_ones(runtime: pathlib.Path) -> None:
    """What listens on a name has it until it is gone, and names of other kinds are left alone."""
    (runtime / "whilst").mkdir(0o700)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(runtime / "whilst" / "1.sock"))
        listening.listen()
        ran = subprocess.run(
            [sys.executable, "-c", "import whilst, asyncio; whilst.run(asyncio.sleep(0))"],
            env={**os.environ, "WHILST_CONTROL": "1"},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        )
        assert ran.stderr == ""
        assert (runtime / "whilst" / "1.sock").exists()
