"""asyncio's event loop, in Rust.

Three ways in, each for a program that is written for :mod:`asyncio`:

* ``whilst.run(main())`` in the place of ``asyncio.run(main())``;
* ``whilst.new_event_loop`` wherever a ``loop_factory`` is asked for;
* ``whilst.install()`` once, after which asyncio itself makes loops of this kind.

The command ``whilst SCRIPT`` needs no line in the program at all.
"""

# Type checkers know the name; importing it from `typing` would import typing.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from whilst._explain import explain
    from whilst._files import BinaryFile, TextFile
    from whilst._files import open as open
    from whilst._install import install, uninstall
    from whilst._loop import Loop, new_event_loop
    from whilst._metrics import Metrics
    from whilst._policy import EventLoopPolicy
    from whilst._run import run
    from whilst._trace import trace
    from whilst._whilst import __version__

# Not `open`, which `from whilst import *` would put into the place of the builtin one.
__all__ = [
    "BinaryFile",
    "EventLoopPolicy",
    "Loop",
    "Metrics",
    "TextFile",
    "__version__",
    "explain",
    "install",
    "new_event_loop",
    "run",
    "trace",
    "uninstall",
]

# Where each name is, imported when it is first asked for. Importing the package therefore imports nothing else,
# which `python -m whilst` needs: it imports the package while the current directory is first on sys.path, and asyncio
# must not be looked for there (a program's own `select.py` would be taken for the stdlib's).
_HOMES = {
    "BinaryFile": "whilst._files",
    "EventLoopPolicy": "whilst._policy",
    "Loop": "whilst._loop",
    "Metrics": "whilst._metrics",
    "TextFile": "whilst._files",
    "__version__": "whilst._whilst",
    "explain": "whilst._explain",
    "install": "whilst._install",
    "new_event_loop": "whilst._loop",
    "open": "whilst._files",
    "run": "whilst._run",
    "trace": "whilst._trace",
    "uninstall": "whilst._install",
}


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES})
