"""The command `whilst`: all that a program sees of how it was started is as under `python`.

Most tests here run the same program under ``python`` and under ``python -m whilst`` and compare what it prints and how it
ends, to the letter. The programs print what they see; what is right is what this interpreter does.
"""

import os
import py_compile
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import textwrap
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from surroundings import environment

SECONDS = 60.0
PYTHON = [sys.executable]
WHILST = [sys.executable, "-m", "whilst"]
SCRIPT = [str(Path(sysconfig.get_path("scripts")) / "whilst")]


def run(
    arguments: Sequence[str],
    cwd: Path,
    *,
    stdin: str = "",
    env: dict[str, str] | None = None,
    python_options: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [arguments[0], *python_options, *arguments[1:]],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=environment(env),
    )


def compare(
    arguments: Sequence[str],
    cwd: Path,
    *,
    stdin: str = "",
    env: dict[str, str] | None = None,
    python_options: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Run under both, fail where anything differs, and return what it was."""
    expected = run([*PYTHON, *arguments], cwd, stdin=stdin, env=env, python_options=python_options)
    seen = run([*WHILST, *arguments], cwd, stdin=stdin, env=env, python_options=python_options)
    assert (seen.stdout, seen.stderr, seen.returncode) == (
        expected.stdout,
        expected.stderr,
        expected.returncode,
    )
    return expected


def write(directory: Path, name: str, source: str) -> Path:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source))
    return path


SHOW_MAIN = """
    import sys, inspect
    print(sys.argv, sys.path)
    main = sys.modules["__main__"]
    print(main.__dict__ is globals(), main.__name__, __name__, list(main.__dict__))
    for name in sorted(vars(main)):
        if name.startswith("__"):
            value = vars(main)[name]
            print(name, type(value) if name == "__builtins__" else value if isinstance(value, str) else repr(value)[:40])
            print(getattr(value, "path", ""), getattr(value, "name", ""), getattr(value, "origin", ""))
    print(sys.flags, sys.warnoptions, sys._xoptions, sorted(sys.builtin_module_names) != [])
"""


class TestWhatAProgramSees:
    def test_of_a_file(self, tmp_path: Path) -> None:
        write(tmp_path, "program.py", SHOW_MAIN)
        compare(["program.py"], tmp_path)
        compare(["program.py", "-c", "a b", "--help", "-m"], tmp_path)
        compare([str(tmp_path / "program.py"), ""], tmp_path)

    def test_of_a_file_in_another_directory(self, tmp_path: Path) -> None:
        write(tmp_path, "there/program.py", SHOW_MAIN)
        write(tmp_path, "here/unused.py", "")
        compare(["./../there/program.py"], tmp_path / "here")
        compare(["there/program.py"], tmp_path)

    def test_of_a_file_behind_a_link(self, tmp_path: Path) -> None:
        real = write(tmp_path, "real/program.py", SHOW_MAIN)
        (tmp_path / "links").mkdir()
        (tmp_path / "links/program.py").symlink_to(real)
        (tmp_path / "links/relative.py").symlink_to("../real/program.py")
        (tmp_path / "again.py").symlink_to("links/relative.py")
        compare(["links/program.py"], tmp_path)
        compare(["relative.py"], tmp_path / "links")
        compare(["again.py"], tmp_path)

    def test_in_a_directory_that_is_gone(self, tmp_path: Path) -> None:
        program = write(tmp_path, "program.py", SHOW_MAIN)
        for arguments in (str(program), "program.py", "-m program", "-c 'print(1)'"):
            seen = []
            for command in (PYTHON, WHILST):
                (tmp_path / "gone").mkdir()
                shell = f"rmdir ../gone; exec {shlex.join(command)} {arguments}"
                seen.append(run(["sh", "-c", shell], tmp_path / "gone", env={"PWD": ""}))
            assert seen[0].stdout == seen[1].stdout
            assert seen[0].stderr == seen[1].stderr
            assert seen[0].returncode == seen[1].returncode

    def test_of_code(self, tmp_path: Path) -> None:
        compare(["-c", textwrap.dedent(SHOW_MAIN)], tmp_path)
        compare(["-c" + textwrap.dedent(SHOW_MAIN), "-c", "x"], tmp_path)

    def test_of_a_module(self, tmp_path: Path) -> None:
        write(tmp_path, "program.py", SHOW_MAIN)
        compare(["-m", "program", "-m", "--help"], tmp_path)
        compare(["-mprogram"], tmp_path)

    def test_of_a_package(self, tmp_path: Path) -> None:
        write(tmp_path, "package/__init__.py", "import sys; print(sys.argv)")
        write(tmp_path, "package/__main__.py", SHOW_MAIN)
        write(tmp_path, "package/inner.py", SHOW_MAIN)
        compare(["-m", "package", "a"], tmp_path)
        compare(["-m", "package.inner", "a"], tmp_path)

    def test_of_a_directory_and_a_zip_file(self, tmp_path: Path) -> None:
        write(tmp_path, "directory/__main__.py", SHOW_MAIN)
        compare(["directory", "a"], tmp_path)
        compare(["./directory/"], tmp_path)
        with zipfile.ZipFile(tmp_path / "program.zip", "w") as archive:
            archive.write(tmp_path / "directory/__main__.py", "__main__.py")
        compare(["program.zip", "a"], tmp_path)

    def test_of_standard_input(self, tmp_path: Path) -> None:
        compare(["-", "a"], tmp_path, stdin=textwrap.dedent(SHOW_MAIN))
        compare([], tmp_path, stdin=textwrap.dedent(SHOW_MAIN))

    def test_of_a_compiled_file(self, tmp_path: Path) -> None:
        source = write(tmp_path, "program.py", SHOW_MAIN)
        py_compile.compile(str(source), cfile=str(tmp_path / "program.pyc"), doraise=True)
        source.unlink()
        compare(["program.pyc"], tmp_path)
        (tmp_path / "old.pyc").write_bytes(bytes(64))
        compare(["old.pyc"], tmp_path)

    @pytest.mark.parametrize(
        "options",
        [
            ["-X", "dev"],
            ["-W", "error", "-X", "utf8"],
            ["-P"],
            ["-I"],
            ["-OO"],
            ["-s", "-E"],
        ],
        ids=" ".join,
    )
    def test_with_options_for_python(self, options: list[str], tmp_path: Path) -> None:
        write(tmp_path, "program.py", SHOW_MAIN)
        write(tmp_path, "directory/__main__.py", SHOW_MAIN)
        compare(["program.py"], tmp_path, python_options=options)
        compare(["directory"], tmp_path, python_options=options)
        compare(["-c", textwrap.dedent(SHOW_MAIN)], tmp_path, python_options=options)
        compare(["-m", "program"], tmp_path, python_options=options)

    def test_modules_beside_the_program(self, tmp_path: Path) -> None:
        """A module of the current directory does not get in the way of the stdlib's, nor of the program's own."""
        write(tmp_path, "there/program.py", "import select, helper; print(select.__file__, helper.__file__)")
        write(tmp_path, "there/helper.py", "")
        write(tmp_path, "here/select.py", "raise SystemExit('taken for the stdlib')")
        write(tmp_path, "here/helper.py", "")
        compare(["../there/program.py"], tmp_path / "here")

    def test_the_script_sees_the_same(self, tmp_path: Path) -> None:
        """The script in the virtual environment's bin/ is the same command as ``python -m whilst``."""
        write(tmp_path, "program.py", SHOW_MAIN + "\n    1 / 0")
        for arguments in (["program.py", "a"], ["-m", "program"], ["-c", "1 / 0"], ["missing.py"]):
            expected = run([*PYTHON, *arguments], tmp_path)
            seen = run([*SCRIPT, *arguments], tmp_path)
            # The interpreter that the script's first line names may be another link to the same one.
            link = re.compile(r"^\S*/python[\d.]*: ", re.MULTILINE)
            assert (seen.stdout, link.sub("python: ", seen.stderr), seen.returncode) == (
                expected.stdout,
                link.sub("python: ", expected.stderr),
                expected.returncode,
            )


class TestEnds:
    """How a program ends: its exit status, and what is printed of the exception that it ended with."""

    @pytest.mark.parametrize(
        "source",
        [
            "pass",
            "raise SystemExit",
            "raise SystemExit(None)",
            "raise SystemExit(7)",
            "raise SystemExit(-1)",
            "raise SystemExit(256)",
            "raise SystemExit(True)",
            "raise SystemExit(1.5)",
            "raise SystemExit('said on the way out')",
            "raise SystemExit(3, 4)",
            "raise SystemExit([])",
            "import sys; sys.exit(5)",
            "import os; os._exit(6)",
            "exit(8)",
            "1 / 0",
            "raise KeyboardInterrupt",
            "raise KeyboardInterrupt('with words')",
            "raise GeneratorExit",
            "raise BaseException('base')",
            "raise BaseExceptionGroup('several', [ValueError(1), KeyboardInterrupt()])",
            "raise ValueError('first') from KeyError('cause')",
            "try:\n    1 / 0\nexcept ZeroDivisionError:\n    undefined",
            "def deeper(n):\n    return deeper(n - 1) if n else 1 / 0\ndeeper(3)",
            "x = = 1",
            "if True:\nprint()",
            "print('unfinished'",
            "exec('x = = 1')",
            "import missing_module",
            "import asyncio\nasync def main():\n    raise SystemExit(9)\nasyncio.run(main())",
            "import asyncio\nasyncio.run(3)",
            "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)",
            "import signal\ndef f():\n    signal.raise_signal(signal.SIGINT)\nf()",
            "import atexit, sys\natexit.register(lambda: print('last', sys.last_value))\n1 / 0",
            "import atexit, traceback, sys\n"
            "atexit.register(lambda: traceback.print_exception(None, sys.last_value, sys.last_traceback))\n1 / 0",
            "import sys\nsys.excepthook = lambda *a: print('hook', a[0], a[1], a[2].tb_frame.f_code.co_name)\n1 / 0",
            "import threading\nt = threading.Thread(target=lambda: 1 / 0, name='other')\nt.start(); t.join()",
            "import threading, time\n"
            "threading.Thread(target=lambda: (time.sleep(0.2), print('thread done'))).start()\nprint('main done')",
            "import warnings\nwarnings.warn('look', DeprecationWarning)\nwarnings.warn('there', UserWarning)",
            "import sys\nprint('out'); print('err', file=sys.stderr)\nsys.exit('end')",
            "import traceback\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    traceback.print_exc()",
            "class Late:\n    def __del__(self):\n        print('deleted')\nlate = Late()",
            "\N{BYTE ORDER MARK}print('after a mark')",
            "from __future__ import annotations\ndef f(x: undefined): pass\nprint(f.__annotations__)",
            "def f(x: int) -> str: pass\nprint(f.__annotations__)\ny: int = 3\nprint(__annotations__)",
        ],
    )
    def test_of_a_program(self, source: str, tmp_path: Path) -> None:
        write(tmp_path, "program.py", source)
        compare(["program.py"], tmp_path)
        compare(["-m", "program"], tmp_path)
        compare(["-c", source], tmp_path)
        compare(["-"], tmp_path, stdin=source)

    def test_of_what_cannot_be_run(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
        write(tmp_path, "package/__init__.py", "")
        write(tmp_path, "failing/__init__.py", "1 / 0")
        write(tmp_path, "failing/__main__.py", "")
        assert compare(["missing.py"], tmp_path).returncode == 2
        assert compare(["missing/program.py"], tmp_path).returncode == 2
        assert compare(["missing.pyc"], tmp_path).returncode == 2
        assert compare([""], tmp_path).returncode == 1
        assert compare(["empty"], tmp_path).returncode == 1
        compare(["broken.zip"], tmp_path)
        assert compare(["-m", "missing"], tmp_path).returncode == 1
        compare(["-m", "missing.py"], tmp_path)
        compare(["-m", "package"], tmp_path)
        compare(["-m", "package.missing"], tmp_path)
        compare(["-m", "failing"], tmp_path)
        compare(["-m", ".relative"], tmp_path)
        compare(["-m", ""], tmp_path)

    def test_of_a_file_in_another_encoding(self, tmp_path: Path) -> None:
        (tmp_path / "program.py").write_bytes(b"# coding: latin-1\nprint(ascii('\xe9'))\n")
        assert compare(["program.py"], tmp_path).stdout == "'\\xe9'\n"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_of_a_file_that_may_not_be_read(self, tmp_path: Path) -> None:
        write(tmp_path, "program.py", "").chmod(0)
        assert compare(["program.py"], tmp_path).returncode == 2

    def test_indented_code(self, tmp_path: Path) -> None:
        """`-c` takes indented code from 3.14 on."""
        compare(["-c", "\n    import sys\n    if sys:\n        1 / 0\n"], tmp_path)
        compare(["-c", "    print(1)\n  print(2)\n"], tmp_path)

    def test_the_lines_of_code_that_code_runs(self, tmp_path: Path) -> None:
        compare(["-c", "\ndef f():\n    exec('def g(): 1 / 0', globals())\nf()\ng()\n"], tmp_path)


INTERRUPTED = """
    import signal, sys, time
    try:
        print("ready", flush=True)
        while True:
            time.sleep(1)
    finally:
        print("cleaned up", flush=True)
"""

INTERRUPTED_IN_A_LOOP = """
    import asyncio
    async def main():
        try:
            print("ready", flush=True)
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            print("cancelled", flush=True)
            raise
    asyncio.run(main())
"""


def interrupt(command: Sequence[str], cwd: Path) -> tuple[str, str, int]:
    with subprocess.Popen(
        command, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as program:
        assert program.stdout is not None
        try:
            assert program.stdout.readline() == "ready\n"
            program.send_signal(signal.SIGINT)
            out, err = program.communicate(timeout=SECONDS)
        finally:
            program.kill()
    return out, err, program.returncode


class TestCtrlC:
    def test_between_lines_of_python(self, tmp_path: Path) -> None:
        write(tmp_path, "program.py", INTERRUPTED)
        for command in (PYTHON, WHILST, SCRIPT):
            for arguments in (["program.py"], ["-m", "program"]):
                out, err, status = interrupt([*command, *arguments], tmp_path)
                assert (out, status) == ("cleaned up\n", -signal.SIGINT)
                assert err.endswith("\nKeyboardInterrupt\n")
                assert "_command.py" not in err

    def test_in_a_loop(self, driver: str, tmp_path: Path) -> None:
        write(tmp_path, "program.py", INTERRUPTED_IN_A_LOOP)
        for command in (WHILST, SCRIPT):
            out, err, status = interrupt([*command, "program.py"], tmp_path)
            assert out == "cancelled\n"
            # The cancellation comes first, then what it became on its way out of the program.
            assert (
                f'\n\nTraceback (most recent call last):\n  File "{tmp_path / "program.py"}", line 10' in err
            )
            assert err.endswith("\nKeyboardInterrupt\n")
            assert "whilst/_command.py" not in err
            assert status == -signal.SIGINT


class TestMain:
    """`__main__` is the program's: what finds things through it finds the program's."""

    def test_pickles(self, tmp_path: Path) -> None:
        write(
            tmp_path,
            "program.py",
            """
            import pickle, sys
            class Thing:
                pass
            data = pickle.dumps(Thing())
            print(data)
            print(type(pickle.loads(data)) is Thing is sys.modules["__main__"].Thing)
            """,
        )
        compare(["program.py"], tmp_path)
        compare(["-m", "program"], tmp_path)

    @pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
    def test_multiprocessing(self, method: str, tmp_path: Path) -> None:
        source = """
            import multiprocessing, sys, warnings
            warnings.simplefilter("ignore")
            class Thing:
                def __init__(self, n):
                    self.n = n
            def work(thing):
                return Thing(thing.n + 1)
            if __name__ == "__main__":
                with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
                    print([thing.n for thing in pool.map(work, [Thing(1), Thing(2)])])
                    print({type(thing) is Thing for thing in pool.map(work, [Thing(1), Thing(2)])})
        """
        write(tmp_path, "program.py", source)
        assert compare(["program.py", method], tmp_path).returncode == 0
        assert compare(["-m", "program", method], tmp_path).returncode == 0

    @pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
    def test_loops_of_other_processes(self, method: str, tmp_path: Path) -> None:
        """Processes that the program starts through multiprocessing, and those that they start, have whilst's loops."""
        source = """
            import asyncio, multiprocessing, sys, warnings
            async def main(who):
                print(who, type(asyncio.get_running_loop()).__module__, flush=True)
            def work(deep):
                asyncio.run(main("grandchild" if deep else "child"))
                if not deep:
                    start(True)
            def start(deep):
                child = multiprocessing.get_context(sys.argv[1]).Process(target=work, args=(deep,))
                child.start()
                child.join(60)
                assert child.exitcode == 0
            if __name__ == "__main__":
                warnings.simplefilter("ignore")
                start(False)
        """
        write(tmp_path, "program.py", source)
        for arguments in (["program.py", method], ["-m", "program", method]):
            seen = run([*WHILST, *arguments], tmp_path)
            assert (seen.stdout, seen.stderr, seen.returncode) == ("child whilst\ngrandchild whilst\n", "", 0)

    def test_source_can_be_looked_up(self, tmp_path: Path) -> None:
        write(
            tmp_path,
            "program.py",
            "import inspect\ndef f():\n    return 1\nprint(inspect.getsource(f), inspect.getfile(f))",
        )
        compare(["program.py"], tmp_path)

    def test_unittest_and_doctest(self, tmp_path: Path) -> None:
        write(
            tmp_path,
            "program.py",
            '''
            """
            >>> 1 + 1
            2
            """
            import doctest, unittest
            class Test(unittest.TestCase):
                def test(self):
                    print(doctest.testmod())
            unittest.main(argv=["program", "-q"], exit=False, verbosity=0)
            print(__name__)
            ''',
        )
        expected = run([*PYTHON, "program.py"], tmp_path)
        seen = run([*WHILST, "program.py"], tmp_path)
        assert (seen.stdout, seen.returncode) == (expected.stdout, expected.returncode)


TOP_LEVEL_LOOP = """
    import asyncio

    async def fetch(url, delay):
        await asyncio.sleep(delay)
        print(f"Fetched {url} after {delay}")
        return url

    def main():
        loop = asyncio.get_event_loop()
        print(type(loop).__module__.split(".")[0], type(loop).__name__)
        print(loop.run_until_complete(asyncio.gather(fetch("b", 0.3), fetch("a", 0.01))))

    main()
"""


class TestLoops:
    def see(self, source: str, tmp_path: Path, *options: str, arguments: Sequence[str] = ()) -> str:
        """What the program prints under the command; nothing may be on standard error."""
        write(tmp_path, "program.py", source)
        seen = run([*WHILST, "program.py", *arguments], tmp_path, python_options=options)
        assert (seen.stderr, seen.returncode) == ("", 0)
        return seen.stdout

    def test_the_introductions_way(self, driver: str, tmp_path: Path) -> None:
        """get_event_loop() outside of a coroutine has a loop, on every Python, and nothing warns or is left open."""
        expected = "whilst Loop\nFetched a after 0.01\nFetched b after 0.3\n['b', 'a']\n"
        assert self.see(TOP_LEVEL_LOOP, tmp_path) == expected
        assert self.see(TOP_LEVEL_LOOP, tmp_path, "-X", "dev", "-W", "error") == expected

    def test_every_way_to_a_loop(self, driver: str, tmp_path: Path) -> None:
        source = """
            import asyncio
            kind = lambda loop: f"{type(loop).__module__.split('.')[0]}.{type(loop).__name__}"
            async def main():
                return kind(asyncio.get_running_loop())
            print(asyncio.run(main()))
            with asyncio.Runner() as runner:
                print(runner.run(main()))
            loop = asyncio.new_event_loop()
            print(kind(loop), loop.run_until_complete(main()))
            loop.close()
            asyncio.set_event_loop(asyncio.new_event_loop())
            print(asyncio.get_event_loop().run_until_complete(main()))
            asyncio.get_event_loop().close()
        """
        expected = "whilst.Loop\nwhilst.Loop\nwhilst.Loop whilst.Loop\nwhilst.Loop\n"
        assert self.see(source, tmp_path, "-X", "dev") == expected

    def test_a_program_keeps_the_loop_that_it_asks_for(self, tmp_path: Path) -> None:
        source = """
            import asyncio, warnings
            warnings.simplefilter("ignore", DeprecationWarning)
            class Own(asyncio.SelectorEventLoop):
                pass
            async def main():
                return type(asyncio.get_running_loop()).__name__
            with asyncio.Runner(loop_factory=Own) as runner:
                print(runner.run(main()))
            class Policy(asyncio.DefaultEventLoopPolicy):
                def new_event_loop(self):
                    return Own()
            asyncio.set_event_loop_policy(Policy())
            print(asyncio.run(main()))
            asyncio.set_event_loop_policy(None)
            print(asyncio.run(main()))
        """
        assert self.see(source, tmp_path) == "Own\nOwn\n_UnixSelectorEventLoop\n"

    def test_no_current_loop_after_run(self, tmp_path: Path) -> None:
        """After asyncio.run() there is no current loop, as with ``python``."""
        source = """
            import asyncio
            async def main():
                pass
            asyncio.run(main())
            try:
                asyncio.get_event_loop()
            except RuntimeError as error:
                print(error)
            asyncio.set_event_loop(None)
            try:
                asyncio.get_event_loop()
            except RuntimeError as error:
                print(error)
        """
        write(tmp_path, "program.py", source)
        assert "no current event loop" in compare(["program.py"], tmp_path).stdout

    def test_no_current_loop_in_another_thread(self, tmp_path: Path) -> None:
        source = """
            import asyncio, threading
            def work():
                try:
                    asyncio.get_event_loop()
                except RuntimeError as error:
                    print(error)
            thread = threading.Thread(target=work, name="other")
            thread.start()
            thread.join()
        """
        write(tmp_path, "program.py", source)
        assert "no current event loop in thread 'other'" in compare(["program.py"], tmp_path).stdout

    def test_the_current_loop_lives_until_the_end(self, driver: str, tmp_path: Path) -> None:
        """What the program registered to be called at exit can still use the loop; then it is closed, without a warning."""
        source = """
            import asyncio, atexit
            async def goodbye():
                await asyncio.sleep(0)
                print("goodbye")
            atexit.register(lambda: asyncio.get_event_loop().run_until_complete(goodbye()))
            loop = asyncio.get_event_loop()
            assert loop is asyncio.get_event_loop()
            print("made")
        """
        assert self.see(source, tmp_path, "-X", "dev") == "made\ngoodbye\n"

    def test_a_forked_child_leaves_its_parents_loop_alone(self, driver: str, tmp_path: Path) -> None:
        source = """
            import asyncio, os, sys, warnings
            warnings.simplefilter("ignore", DeprecationWarning)
            loop = asyncio.get_event_loop()
            reader, writer = os.pipe()
            ready = asyncio.Event()
            loop.add_reader(reader, ready.set)
            loop.run_until_complete(asyncio.sleep(0))
            child = os.fork()
            if child == 0:
                asyncio.run(asyncio.sleep(0))
                sys.exit(3)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            os.write(writer, b"x")
            loop.run_until_complete(asyncio.wait_for(ready.wait(), 10))
            print("heard")
            loop.remove_reader(reader)
        """
        assert self.see(source, tmp_path) == "3\nheard\n"

    def test_the_program_may_close_the_current_loop(self, tmp_path: Path) -> None:
        source = """
            import asyncio
            loop = asyncio.get_event_loop()
            loop.close()
            print(asyncio.get_event_loop() is loop, loop.is_closed())
        """
        assert self.see(source, tmp_path, "-X", "dev") == "True True\n"

    def test_debug_mode_from_the_command_line(self, tmp_path: Path) -> None:
        source = """
            import asyncio
            async def main():
                print(asyncio.get_running_loop().get_debug())
            asyncio.run(main())
        """
        assert self.see(source, tmp_path) == "False\n"
        assert self.see(source, tmp_path, "-X", "dev") == "True\n"

    def test_install_in_the_program_changes_nothing(self, tmp_path: Path) -> None:
        source = """
            import asyncio, whilst
            loop = asyncio.get_event_loop()
            whilst.install()
            print(asyncio.get_event_loop() is loop)
        """
        assert self.see(source, tmp_path, "-W", "error") == "True\n"

    def test_async_test_cases(self, tmp_path: Path) -> None:
        source = """
            import asyncio, unittest
            class Test(unittest.IsolatedAsyncioTestCase):
                async def test(self):
                    print(type(asyncio.get_running_loop()).__module__.split(".")[0])
            unittest.TextTestRunner(stream=open("/dev/null", "w")).run(unittest.defaultTestLoader.loadTestsFromTestCase(Test))
        """
        assert self.see(source, tmp_path) == "whilst\n"


class TestItsOwnOptions:
    def test_version(self, tmp_path: Path) -> None:
        for option in ("-V", "--version"):
            seen = run([*SCRIPT, option], tmp_path)
            assert seen.stdout.startswith("whilst 0.")
            assert seen.stdout.count("\n") == 1
            assert (seen.stderr, seen.returncode) == ("", 0)

    def test_help(self, tmp_path: Path) -> None:
        for option in ("-h", "--help"):
            seen = run([*SCRIPT, option], tmp_path)
            assert "usage: whilst " in seen.stdout
            assert all(line in seen.stdout for line in ("-m MODULE", "-c CODE", "SCRIPT", "--version"))
            assert (seen.stderr, seen.returncode) == ("", 0)

    @pytest.mark.parametrize(
        "arguments", [["-c"], ["-m"], ["-x"], ["-X", "dev", "a.py"], ["--unknown"]], ids=" ".join
    )
    def test_misuse(self, arguments: list[str], tmp_path: Path) -> None:
        seen = run([*SCRIPT, *arguments], tmp_path)
        assert (seen.stdout, seen.returncode) == ("", 2)
        assert "usage: whilst " in seen.stderr
        assert "Traceback" not in seen.stderr

    def test_a_file_with_the_name_of_an_option(self, tmp_path: Path) -> None:
        write(tmp_path, "-c", "print('a file')")
        assert run([*SCRIPT, "--", "-c"], tmp_path).stdout == "a file\n"

    def test_no_program_on_a_terminal(self, tmp_path: Path) -> None:
        """Without a program on a terminal `python` is interactive; the command says what it can be told."""
        controller, terminal = os.openpty()
        try:
            seen = subprocess.run(
                SCRIPT,
                cwd=tmp_path,
                stdin=terminal,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                env=environment(),
            )
        finally:
            os.close(controller)
            os.close(terminal)
        assert seen.returncode == 2
        assert "usage: whilst " in seen.stderr


def test_the_script_is_installed() -> None:
    assert shutil.which("whilst", path=sysconfig.get_path("scripts")) == SCRIPT[0]
