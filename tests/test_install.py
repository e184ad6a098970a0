"""`whilst.install`, `whilst.uninstall` and `whilst.EventLoopPolicy`: which loops asyncio itself makes."""

import asyncio
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Iterator

import pytest
import whilst

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def default_policy() -> Iterator[None]:
    yield
    whilst.uninstall()
    if sys.version_info >= (3, 14):
        asyncio.events._set_event_loop_policy(None)  # type: ignore[attr-defined]
    else:
        asyncio.set_event_loop_policy(None)


async def kind() -> type:
    await asyncio.sleep(0)
    return type(asyncio.get_running_loop())


def test_every_loop_of_asyncio(driver: str) -> None:
    whilst.install()
    assert asyncio.run(kind()) is whilst.Loop
    with asyncio.Runner() as runner:
        assert runner.run(kind()) is whilst.Loop
    loop = asyncio.new_event_loop()
    assert type(loop) is whilst.Loop
    assert loop.run_until_complete(kind()) is whilst.Loop
    loop.close()


def test_in_another_thread(driver: str) -> None:
    whilst.install()
    kinds: list[type] = []
    thread = threading.Thread(target=lambda: kinds.append(asyncio.run(kind())))
    thread.start()
    thread.join(30)
    assert kinds == [whilst.Loop]


def test_a_loop_factory_still_counts() -> None:
    whilst.install()
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        assert runner.run(kind()) is asyncio.SelectorEventLoop


def test_uninstall() -> None:
    whilst.uninstall()
    whilst.install()
    whilst.uninstall()
    assert asyncio.run(kind()) is asyncio.SelectorEventLoop
    whilst.uninstall()
    assert asyncio.run(kind()) is asyncio.SelectorEventLoop


def test_twice() -> None:
    """A second call keeps what the first one set, and the current loop with it."""
    whilst.install()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    whilst.install()
    assert asyncio.get_event_loop() is loop
    loop.close()


def test_the_current_loop(driver: str) -> None:
    whilst.install()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    assert asyncio.get_event_loop() is loop
    assert loop.run_until_complete(kind()) is whilst.Loop
    asyncio.set_event_loop(None)
    with pytest.raises(RuntimeError, match="There is no current event loop in thread 'MainThread'"):
        asyncio.get_event_loop()
    loop.close()
    with pytest.raises(TypeError):
        asyncio.set_event_loop("no loop")  # type: ignore[arg-type]


def test_get_event_loop_without_one() -> None:
    """What happens is what this Python does: a loop up to 3.11, one with a warning in 3.12 and 3.13, then an error."""
    program = """
        import asyncio, warnings
        INSTALL
        warnings.simplefilter("always")
        try:
            loop = asyncio.get_event_loop()
        except RuntimeError as error:
            print(error)
        else:
            print(type(loop).__module__.split(".")[0] in ("whilst", "asyncio"))
            loop.close()
    """

    def see(first: str) -> tuple[str, str]:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program).replace("INSTALL", first)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout, done.stderr

    assert see("import whilst; whilst.install()") == see("")


def test_no_warning() -> None:
    """None of it warns on any Python, not even with all warnings made errors: policies are deprecated from 3.14 on."""
    program = """
        import asyncio, whilst
        whilst.install()
        async def main():
            pass
        asyncio.run(main())
        with asyncio.Runner() as runner:
            runner.run(main())
        asyncio.new_event_loop().close()
        whilst.EventLoopPolicy().new_event_loop().close()
        whilst.run(main())
        whilst.uninstall()
    """
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_another_policy_set_since_is_left_alone() -> None:
    whilst.install()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.events, "_event_loop_policy", None)
        whilst.uninstall()
        assert asyncio.run(kind()) is asyncio.SelectorEventLoop


class TestPolicy:
    def test_set_by_the_program(self, driver: str) -> None:
        policy = whilst.EventLoopPolicy()
        if sys.version_info >= (3, 14):
            with pytest.warns(DeprecationWarning):
                asyncio.set_event_loop_policy(policy)
            with pytest.warns(DeprecationWarning):
                assert asyncio.get_event_loop_policy() is policy
        else:
            asyncio.set_event_loop_policy(policy)
            assert asyncio.get_event_loop_policy() is policy
        assert asyncio.run(kind()) is whilst.Loop

    def test_used_alone(self) -> None:
        policy = whilst.EventLoopPolicy()
        loop = policy.new_event_loop()
        assert type(loop) is whilst.Loop
        policy.set_event_loop(loop)
        assert policy.get_event_loop() is loop
        policy.set_event_loop(None)
        loop.close()

    def test_it_is_the_stdlibs_default_otherwise(self) -> None:
        if sys.version_info >= (3, 14):
            default = asyncio.unix_events._DefaultEventLoopPolicy  # type: ignore[attr-defined]
        else:
            default = asyncio.DefaultEventLoopPolicy
        assert issubclass(whilst.EventLoopPolicy, default)

    @pytest.mark.skipif(sys.version_info >= (3, 14), reason="child watchers went in 3.14")
    def test_child_watchers(self) -> None:
        """Processes of the stdlib's loop under this policy, with the default watcher and with one tied to a loop."""

        async def process() -> int | None:
            child = await asyncio.create_subprocess_exec("true")
            return await asyncio.wait_for(child.wait(), 30)

        whilst.install()
        policy = asyncio.get_event_loop_policy()
        loop = asyncio.SelectorEventLoop()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            assert policy.get_child_watcher() is not None
            assert loop.run_until_complete(process()) == 0
            policy.set_child_watcher(asyncio.SafeChildWatcher())
            policy.set_event_loop(loop)
            try:
                assert loop.run_until_complete(process()) == 0
            finally:
                policy.set_child_watcher(None)
                policy.set_event_loop(None)
                loop.close()


class TestPackage:
    def test_names(self) -> None:
        assert set(whilst.__all__) <= set(dir(whilst))
        for name in whilst.__all__:
            assert getattr(whilst, name) is getattr(whilst, name)
        with pytest.raises(AttributeError, match="module 'whilst' has no attribute 'missing'"):
            whilst.missing  # type: ignore[attr-defined]  # noqa: B018

    def test_the_version_is_the_distributions(self) -> None:
        from importlib.metadata import version

        assert whilst.__version__ == version("whilst")

    def test_importing_it_imports_little(self) -> None:
        """The command needs this (see `whilst/__init__.py`), and programs that only might use it do."""
        program = "import sys; before = set(sys.modules); import whilst; print(*set(sys.modules) - before)"
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout.split() == ["whilst"]

    def test_a_loop_needs_little_beside_asyncio(self) -> None:
        """asyncio imports ssl, subprocess and a hundred more; whilst adds its own modules, and what types are written with."""
        program = (
            "import sys, asyncio; before = set(sys.modules); import whilst; whilst.new_event_loop().close();"
            "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
        )
        assert set(done.stdout.split()) <= {"whilst", "typing", "_typing", "__future__"}
