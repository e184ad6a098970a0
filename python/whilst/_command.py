"""The command ``whilst``: run a program as ``python`` does, with asyncio's loops made by whilst.

What a program can see of how it was started is as ``python`` has it: ``sys.argv``, ``sys.path[0]``, ``__main__`` and
what is in it, tracebacks, the exit status and Ctrl-C. ``Modules/main.c`` of CPython (``pymain_run_python``) is what this
follows; the lines that do the work of one of its functions name it.

Nothing is imported at the top but what the interpreter has loaded by itself already: see :func:`main`.
"""

import builtins
import os
import sys
from types import CodeType, ModuleType, TracebackType

_USAGE = "usage: whilst [-h] [-V] [--trace OUT] [-c CODE | -m MODULE | SCRIPT | -] [ARG ...]\n       whilst top [-h] [PID]"

_HELP = f"""\
{_USAGE}

Run a Python program as `python` does, with its asyncio event loops made by whilst.

  SCRIPT         run a file, or a directory or zip file with a __main__.py in it
  -m MODULE      run a module or a package
  -c CODE        run the code given
  -              run what is read from standard input (also when nothing is named)
  ARG ...        the program's own arguments, sys.argv[1:]
  top [PID]      show what the loop of a running program does (a file of that name: ./top)
  --trace OUT    record what the event loops do: OUT.html to look at, or OUT.json for Perfetto
  -h, --help     print this and exit
  -V, --version  print the version and exit

Options for Python itself are given to it: python -X dev -m whilst SCRIPT
WHILST_DRIVER=io_uring or WHILST_DRIVER=epoll in the environment picks how the loop waits.
WHILST_CONTROL=1 in it allows `whilst top` to look into the program.
"""


def main() -> None:
    """Run the program that ``sys.argv[1:]`` names, and return or raise as it does.

    An exception that leaves the program goes on to the interpreter, which knows what to do with it (an exit status
    for :exc:`SystemExit`, death by ``SIGINT`` for :exc:`KeyboardInterrupt`), but is displayed from the program's
    first frame on. Raises :exc:`SystemExit` with status 2 for a command line or a file that cannot be used.
    """
    _leave_own_path()
    if sys.argv[1:2] == ["top"]:
        from whilst._top import main as top

        raise SystemExit(top(sys.argv[2:]))
    output = _trace_option()
    kind, target, arguments = _parse(sys.argv[1:])
    if output is not None:
        _begin_trace(output)

    from whilst._children import include_children
    from whilst._explain import explain_by_default
    from whilst._policy import CommandPolicy

    CommandPolicy.take_over()
    explain_by_default()
    # Multiprocessing notes what __main__ is when it is imported, and so that must be the program's by then.
    module = _new_main()
    include_children()
    match kind:
        case "-c":
            _run_code(target, arguments, module)
        case "-m":
            _run_module(target, arguments)
        case "-":
            _run_stdin(arguments, module)
        case _:
            _run_file(target, arguments, module)


def _trace_option() -> str | None:
    """The argument of ``--trace``, which is taken off ``sys.argv`` with it."""
    match sys.argv[1:]:
        case ["--trace", output, *_]:
            del sys.argv[1:3]
            return output
        case ["--trace"]:
            _refuse("Argument expected for the --trace option")
        case [option, *_] if option.startswith("--trace="):
            del sys.argv[1]
            return option.removeprefix("--trace=")
    return None


def _begin_trace(output: str) -> None:
    """Record from now on. The file is written at exit."""
    from whilst._trace import trace

    try:
        trace(output).start()
    except (ValueError, OSError) as error:
        _refuse(f"--trace: {error}")


def _parse(arguments: list[str]) -> tuple[str, str, list[str]]:
    """What to run: ``-c``, ``-m``, ``-`` or ``file``; the code, name or path; and the program's arguments.

    As in ``python``, options end where the program is named, so that all after it is the program's.
    """
    if not arguments or arguments == ["--"]:
        if sys.stdin is not None and sys.stdin.isatty():
            _refuse("name a program to run")
        return "-", "", []
    first, rest = arguments[0], arguments[1:]
    if first in ("-h", "--help"):
        sys.stdout.write(_HELP)
        raise SystemExit(0)
    if first in ("-V", "--version"):
        import whilst

        print(f"whilst {whilst.__version__}")
        raise SystemExit(0)
    if first[:2] in ("-c", "-m"):
        if first[2:]:
            return first[:2], first[2:], rest
        if not rest:
            _refuse(f"Argument expected for the {first} option")
        return first, rest[0], rest[1:]
    if first == "-":
        return "-", "", rest
    if first == "--":
        return "file", rest[0], rest[1:]
    if first.startswith("-"):
        _refuse(f"Unknown option: {first} (options for Python itself: python {first} ... -m whilst ...)")
    return "file", first, rest


def _refuse(reason: str) -> None:
    sys.stderr.write(f"{reason}\n{_USAGE}\nTry `whilst -h' for more information.\n")
    raise SystemExit(2)


def _leave_own_path() -> None:
    """Take the entry off ``sys.path`` with which the command itself was found.

    It is the directory of the script, or the current one under ``python -m whilst``, and neither is on the path of
    ``python SCRIPT``. It must be gone before asyncio is imported, lest a module of the program's be taken for one of
    the stdlib's. There is no such entry with ``-P`` and ``-I``, nor where the current directory was removed.
    """
    own = [_absolute(""), os.path.dirname(os.path.realpath(sys.argv[0]))]
    if not sys.flags.safe_path and sys.path[0] in own:
        del sys.path[0]


def _run_file(path: str, arguments: list[str], module: ModuleType) -> None:
    """``pymain_run_file`` and, for what can be on ``sys.path``, ``pymain_get_importer``."""
    from pkgutil import get_importer

    filename = _absolute(path)
    sys.argv = [path, *arguments]
    if get_importer(filename) is not None:
        sys.path.insert(0, filename)
        import runpy

        with _TopLevel():
            runpy._run_module_as_main("__main__", alter_argv=False)  # type: ignore[attr-defined]
        return

    import io

    try:
        with io.open_code(filename) as file:
            source = file.read()
    except OSError as error:
        # The words and the status of python, which names itself as it was called.
        sys.stderr.write(
            f"{sys.orig_argv[0]}: can't open file {filename!r}: [Errno {error.errno}] {error.strerror}\n"
        )
        raise SystemExit(2) from None
    _insert_path(os.path.dirname(os.path.realpath(filename)))

    from importlib.machinery import SourceFileLoader, SourcelessFileLoader

    compiled = filename.endswith(".pyc")
    loader = SourcelessFileLoader if compiled else SourceFileLoader
    module.__dict__["__loader__"] = loader("__main__", filename)
    _set_file(module, filename)
    with _TopLevel():
        exec(_load_compiled(source) if compiled else _compile(source, filename), module.__dict__)


def _run_module(name: str, arguments: list[str]) -> None:
    """``pymain_run_module``."""
    import runpy
    from contextlib import suppress

    sys.argv = ["-m", *arguments]
    # Where the current directory was removed, python goes without it too.
    with suppress(OSError):
        _insert_path(os.getcwd())
    with _TopLevel():
        runpy._run_module_as_main(name)  # type: ignore[attr-defined]


def _run_code(source: str, arguments: list[str], module: ModuleType) -> None:
    """``pymain_run_command``."""
    sys.argv = ["-c", *arguments]
    _insert_path("")
    if sys.version_info >= (3, 14) and source.lstrip("\n")[:1].isspace():
        from textwrap import dedent

        source = dedent(source)
    with _TopLevel():
        code = _compile(source, "<string>")
        if sys.version_info >= (3, 13):
            _show_source(code, source)
        exec(code, module.__dict__)


def _run_stdin(arguments: list[str], module: ModuleType) -> None:
    """``pymain_run_stdin``, where standard input is no terminal."""
    sys.argv = ["-", *arguments] if len(sys.argv) > 1 else [""]
    _insert_path("")
    _set_file(module, "<stdin>")
    with _TopLevel():
        exec(_compile(sys.stdin.buffer.read() if sys.stdin else "", "<stdin>"), module.__dict__)


def _compile(source: str | bytes, filename: str) -> CodeType:
    return compile(source, filename, "exec", dont_inherit=True)


def _load_compiled(data: bytes) -> CodeType:
    """The code in a ``.pyc`` file: ``run_pyc_file``."""
    import marshal
    from importlib.util import MAGIC_NUMBER

    if data[:4] != MAGIC_NUMBER:
        raise RuntimeError("Bad magic number in .pyc file")
    # Magic number, flags and eight bytes about the source, then the code: PEP 552.
    code = marshal.loads(data[16:])
    if not isinstance(code, CodeType):
        raise RuntimeError("Bad code object in .pyc file")
    return code


def _show_source(code: CodeType, source: str) -> None:
    """Let tracebacks show the lines of ``-c``, as those of ``python -c`` do from 3.13 on."""
    import linecache

    if sys.version_info >= (3, 14):
        linecache._register_code(code, source, "<string>")  # type: ignore[attr-defined]
    else:
        linecache.cache["<string>"] = (
            len(source),
            None,
            [f"{line}\n" for line in source.splitlines()],
            "<string>",
        )


def _absolute(path: str) -> str:
    """*path* below the current directory; joined and no more, for tracebacks keep a "./" or "../" that was given."""
    if path.startswith("/"):
        return path
    try:
        directory = os.getcwd()
    except OSError:
        return path
    return f"{directory}/{path}" if path else directory


def _insert_path(directory: str) -> None:
    if not sys.flags.safe_path:
        sys.path.insert(0, directory)


def _new_main() -> ModuleType:
    """An empty ``__main__``, as the interpreter makes it (``add_main_module``), in the place of the command's own."""
    from importlib.machinery import BuiltinImporter

    module = ModuleType("__main__")
    module.__dict__["__loader__"] = BuiltinImporter
    if sys.version_info < (3, 14):
        module.__annotations__ = {}
    module.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = module
    return module


def _set_file(module: ModuleType, filename: str) -> None:
    module.__file__ = filename
    if sys.version_info < (3, 15):
        module.__dict__["__cached__"] = None


class _TopLevel:
    """A block in which the program runs; what it raises is displayed without the frames that called it.

    The exception itself must go on through the command's frames, which adds them to its traceback: the interpreter
    decides by it how the process ends. So it is ``sys.excepthook`` that takes them off again, for this one exception,
    and then calls the hook that was there.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or traceback is None:
            return
        from whilst._explain import look_at

        look_at(error)
        program_traceback: TracebackType | None = traceback
        while program_traceback is not None and program_traceback.tb_frame.f_globals is globals():
            program_traceback = program_traceback.tb_next
        hook = getattr(sys, "excepthook", sys.__excepthook__)

        def display(kind: type[BaseException], value: BaseException, traceback: TracebackType | None) -> None:
            sys.excepthook = hook
            if value is error:
                traceback = program_traceback
                value.__traceback__ = traceback
                sys.last_traceback = traceback
            hook(kind, value, traceback)

        sys.excepthook = display
