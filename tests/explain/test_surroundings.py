"""Explanations beside other tools, with libraries, and where the source is not to be had; and that they are not in the way."""

import re
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
from surroundings import environment

SECONDS = 60.0

FAULTY = """
    import asyncio

    async def fetch():
        return {}

    async def main():
        value = fetch().get('key')

    asyncio.run(main())
"""
EXPLAINED = "write `value = (await fetch()).get('key')`"


def whilst(
    cwd: Path, *arguments: str, options: tuple[str, ...] = (), env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-m", "whilst", *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        cwd=cwd,
        env=environment(env),
    )


def write(path: Path, source: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source).lstrip("\n"))
    return path


def notes(ran: subprocess.CompletedProcess[str]) -> list[str]:
    assert "Traceback" in ran.stderr, ran.stderr
    return re.findall(r"^ *\|? *whilst: (.*)$", ran.stderr, re.MULTILINE)


def test_by_every_kind_of_program(tmp_path: Path) -> None:
    write(tmp_path / "faulty.py", FAULTY)
    write(tmp_path / "package/__main__.py", FAULTY)
    with zipfile.ZipFile(tmp_path / "zipped.zip", "w") as archive:
        archive.write(tmp_path / "faulty.py", "__main__.py")
    for arguments in (["faulty.py"], ["-m", "faulty"], ["-m", "package"], ["package"], ["zipped.zip"]):
        (said,) = notes(whilst(tmp_path, *arguments))
        assert EXPLAINED in said, arguments


def test_code_of_the_command_line(tmp_path: Path) -> None:
    """Its source is kept from Python 3.13 on."""
    said = notes(whilst(tmp_path, "-c", textwrap.dedent(FAULTY)))
    assert [EXPLAINED in one for one in said] == ([True] if sys.version_info >= (3, 13) else [])


@pytest.mark.parametrize("change", ["gone", "other", "moved", "broken"])
def test_a_file_that_is_not_what_was_run(tmp_path: Path, change: str) -> None:
    changed = {
        "gone": "__file__ and os.unlink(__file__)",
        "other": "open(__file__, 'w').write(text.replace('value = fetch()', 'other = fetch()'))",
        "moved": "open(__file__, 'w').write('\\n' * 3 + text)",
        "broken": "open(__file__, 'w').write(text + ')')",
    }[change]
    source = textwrap.dedent(FAULTY).replace(
        "import asyncio\n", f"import asyncio, os; text = open(__file__).read(); {changed}\n"
    )
    write(tmp_path / "faulty.py", source)
    said = notes(whilst(tmp_path, "faulty.py"))
    # A statement in which something else has changed is still that one.
    assert [one for one in said if "other" not in one] == []


def test_without_positions(tmp_path: Path) -> None:
    write(tmp_path / "faulty.py", FAULTY)
    assert notes(whilst(tmp_path, "faulty.py", options=("-X", "no_debug_ranges"))) == []


@pytest.mark.parametrize(
    "surroundings",
    {
        "trace": "sys.settrace(lambda *_: None)",
        "profile": "sys.setprofile(lambda *_: None)",
        "factory": "logging.setLogRecordFactory(logging.LogRecord)",
        "hook": "sys.excepthook = lambda *error: traceback.print_exception(*error)",
        "monitoring": """
            if sys.version_info >= (3, 12):
                for number in range(6):
                    sys.monitoring.use_tool_id(number, "another's")
                    sys.monitoring.set_events(number, sys.monitoring.events.RAISE | sys.monitoring.events.PY_UNWIND)
                    sys.monitoring.register_callback(number, sys.monitoring.events.RAISE, lambda *_: None)
        """,
        "half": """
            if sys.version_info >= (3, 12):
                sys.monitoring.use_tool_id(4, "another's")
        """,
    }.items(),
    ids=lambda one: str(one[0]),
)
def test_beside_other_tools(tmp_path: Path, surroundings: tuple[str, str]) -> None:
    _, source = surroundings
    lines = "import logging, sys, traceback\n" + textwrap.dedent(source) + "\n"
    write(tmp_path / "faulty.py", lines + textwrap.dedent(FAULTY))
    (said,) = notes(whilst(tmp_path, "faulty.py"))
    assert EXPLAINED in said


def test_logged_twice_and_noted_once(tmp_path: Path) -> None:
    source = """
        import asyncio, logging

        async def fetch():
            return {}

        async def work():
            value = fetch().get('key')

        async def main():
            try:
                await work()
            except AttributeError as error:
                logging.exception("first")
                logging.exception("second")
                assert len(error.__notes__) == 1
                raise

        asyncio.run(main())
    """
    write(tmp_path / "faulty.py", source)
    ran = whilst(tmp_path, "faulty.py")
    assert [EXPLAINED in said for said in notes(ran)] == [True] * 3


LIBRARY = """
    import asyncio

    def render(name, values):
        return name + values.get("key")

    async def handle(handler):
        return await handler("/")

    def start(coroutine):
        return asyncio.run(coroutine)

    def session():
        return asyncio.get_running_loop()
"""


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("library.render('a', fetch())", "write `library.render('a', await fetch())`"),
        (
            "kept = fetch(); library.render(name='a', values=kept)",
            "write `library.render(name='a', values=await kept)`",
        ),
        ("await library.handle(len)", "`handler` is no asynchronous function: it has returned a int"),
        ("library.start(fetch())", "`library.start()` runs an event loop, and one runs already"),
        ("await asyncio.to_thread(library.session)", None),
    ],
)
def test_in_a_library(tmp_path: Path, statement: str, expected: str | None) -> None:
    """Where the line that fails is a package's, the program's own is corrected, or none."""
    write(tmp_path / "site-packages/library.py", LIBRARY)
    source = f"""
        import asyncio, sys
        sys.path.append("site-packages")
        import library

        async def fetch():
            return {{}}

        async def main():
            {statement}

        asyncio.run(main())
    """
    write(tmp_path / "faulty.py", source)
    said = notes(whilst(tmp_path, "faulty.py"))
    assert len(said) == (expected is not None)
    if expected is not None:
        assert expected in said[0]
        assert "values.get" not in said[0]


def test_processes_of_a_program(tmp_path: Path) -> None:
    source = """
        import asyncio, multiprocessing

        async def fetch():
            return {}

        async def main():
            value = fetch().get('key')

        def work():
            asyncio.run(main())

        if __name__ == "__main__":
            for method in ("fork", "spawn"):
                process = multiprocessing.get_context(method).Process(target=work)
                process.start()
                process.join()
    """
    write(tmp_path / "faulty.py", source)
    assert [EXPLAINED in said for said in notes(whilst(tmp_path, "faulty.py"))] == [True, True]


def test_stand_ins_are_not_asked(tmp_path: Path) -> None:
    """What runs code when it is looked at, as the proxies of web frameworks do, is left alone."""
    source = """
        import asyncio

        class Proxy:
            @property
            def __class__(self):
                raise SystemExit("asked for its class")
            def __getattr__(self, name):
                raise SystemExit("asked for " + name)
            def __eq__(self, other):
                raise SystemExit("compared")
            __hash__ = None

        proxy = Proxy()

        async def fetch():
            return {}

        async def main():
            asyncio.get_running_loop().call_later
            return proxy + fetch(), proxy

        try:
            asyncio.run(main())
        except TypeError as error:
            print(error.__notes__)
        async def other():
            fetch()
            kept = [fetch()]
        asyncio.run(other())
    """
    write(tmp_path / "faulty.py", source)
    ran = whilst(tmp_path, "faulty.py")
    assert ran.returncode == 0, ran.stderr
    assert "write `return proxy + await fetch(), proxy`" in ran.stdout


def test_debug_mode_that_is_turned_on_and_off_while_the_loop_runs(driver: str, tmp_path: Path) -> None:
    source = """
        import asyncio, logging
        import whilst
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)

        async def fetch():
            return {}

        async def fail():
            try:
                await work()
            except AttributeError as error:
                logging.exception("failed")
                return hasattr(error, "__notes__")

        async def work():
            return fetch().get('key')

        async def main():
            said = [await fail()]
            loop = asyncio.get_running_loop()
            for debug in (True, False, True):
                loop.set_debug(debug)
                await asyncio.sleep(0)
                said.append(await fail())
            return said

        print(whilst.run(main()), whilst.run(fail()))
    """
    program = write(tmp_path / "faulty.py", source)
    ran = subprocess.run(
        [sys.executable, str(program)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    assert ran.stdout == "[False, True, False, True] False\n"


def test_nothing_is_imported_before_something_fails(tmp_path: Path) -> None:
    code = """
        import sys
        import whilst
        # Without the command.
        assert "whilst._explain" not in sys.modules
        async def main():
            pass
        whilst.run(main())
        print(sorted(name for name in sys.modules if name.startswith("whilst._explain.")))
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    assert ran.stdout == "[]\n"
    write(tmp_path / "right.py", re.sub(" +assert .*", "", code))
    assert whilst(tmp_path, "right.py").stdout == "['whilst._explain.raised']\n"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring is from 3.12 on")
def test_only_what_leaves_a_function_is_told_of(tmp_path: Path) -> None:
    """So an exception that is caught where it is raised costs nothing; and nothing is left when it is turned off."""
    source = """
        import asyncio, sys
        import whilst
        from sys import monitoring

        async def main():
            assert monitoring.get_tool(4) == "whilst"
            assert monitoring.get_events(4) == monitoring.events.PY_UNWIND
            whilst.explain(False)
            assert monitoring.get_tool(4) is None
            whilst.explain()
            assert monitoring.get_tool(4) == "whilst"

        assert monitoring.get_tool(4) is None
        asyncio.run(main())
        whilst.explain(False)
        assert monitoring.get_tool(4) is None
        print("right")
    """
    write(tmp_path / "right.py", source)
    assert whilst(tmp_path, "right.py").stdout == "right\n"
