"""Files of ``whilst.open``: calls that are cancelled, files that are closed or never are, loops that end."""

import asyncio
import contextlib
import errno
import gc
import os
import random
import signal
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import whilst
from oracle import SECONDS, no_descriptor_leaks, run, until

# -- Cancelling ---------------------------------------------------------------------------------------------------------------


def test_a_cancelled_read_has_read_nothing(driver: str, tmp_path: Path) -> None:
    path = tmp_path / "some"
    contents = random.Random(3).randbytes(200_000)
    path.write_bytes(contents)

    async def main() -> None:
        dice = random.Random(4)
        for buffering in (-1, 0, 100):
            async with whilst.open(path, "rb", buffering) as file:
                arrived = b""
                cancelled = 0
                while True:
                    task = asyncio.create_task(file.read(dice.choice([10, 3000, 20_000])))
                    for _ in range(dice.randrange(4)):
                        await asyncio.sleep(0)
                    if dice.random() < 0.5:
                        task.cancel()
                    try:
                        piece = await task
                    except asyncio.CancelledError:
                        cancelled += 1
                        continue
                    if not piece:
                        break
                    arrived += piece
                    assert await file.tell() == len(arrived)
                assert arrived == contents
                assert cancelled > 3
        async with whilst.open(path, "r", encoding="latin-1", newline="") as text:
            text_arrived = ""
            while True:
                task = asyncio.create_task(text.readline())
                for _ in range(dice.randrange(3)):
                    await asyncio.sleep(0)
                if dice.random() < 0.5:
                    task.cancel()
                try:
                    line = await task
                except asyncio.CancelledError:
                    continue
                if not line:
                    break
                text_arrived += line
            assert text_arrived == contents.decode("latin-1")

    run(main())


def test_a_cancelled_write_is_whole(driver: str, tmp_path: Path) -> None:
    path = tmp_path / "some"

    async def main() -> None:
        dice = random.Random(5)
        for buffering in (0, 64, -1):
            async with whilst.open(path, "wb", buffering) as file:
                for number in range(200):
                    task = asyncio.create_task(file.write(b"line %05d\n" % number * 10))
                    for _ in range(dice.randrange(3)):
                        await asyncio.sleep(0)
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task
            lines = path.read_bytes().splitlines(keepends=True)
            assert len(lines) % 10 == 0
            numbers = [int(line[5:]) for line in lines]
            assert all(line == b"line %05d\n" % number for line, number in zip(lines, numbers, strict=True))
            assert numbers == sorted(numbers) and numbers

    run(main())


def test_cancelled_while_opening_and_closing(driver: str, tmp_path: Path) -> None:
    async def main() -> None:
        dice = random.Random(6)
        for number in range(300):
            path = tmp_path / str(number % 7)

            async def use() -> None:
                async with whilst.open(path, "w") as file:
                    await file.write("whole")

            task = asyncio.create_task(use())
            for _ in range(dice.randrange(6)):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        # What a close that was cancelled has left is done in the background.
        await until(lambda: len(asyncio.all_tasks()) <= 2)
        for path in tmp_path.iterdir():
            assert path.read_text() in ("", "whole")

    with no_descriptor_leaks():
        run(main())


def test_close_waits_for_what_is_under_way(driver: str, tmp_path: Path) -> None:
    path = tmp_path / "some"
    path.write_bytes(b"x" * 3_000_000)

    async def main() -> None:
        file = await whilst.open(path, "r+b")
        reads = [asyncio.create_task(file.pread(3_000_000, 0)) for _ in range(10)]
        in_turn = asyncio.create_task(file.read())
        await asyncio.sleep(0)
        descriptor = file.fileno()
        closing = [asyncio.create_task(file.close()) for _ in range(3)]
        await asyncio.gather(*closing)
        assert all(read.done() for read in [*reads, in_turn])
        with pytest.raises(OSError):
            os.fstat(descriptor)
        assert all([len(await read) == 3_000_000 for read in [*reads, in_turn]])
        with pytest.raises(ValueError, match="closed"):
            await file.pread(1, 0)

    with no_descriptor_leaks():
        run(main())


def test_a_write_that_fails_later(driver: str) -> None:
    async def main() -> None:
        file = await whilst.open("/dev/full", "wb", 100)
        await file.write(b"x" * 10)
        for _ in range(2):
            with pytest.raises(OSError) as error:
                await file.flush()
            assert error.value.errno == errno.ENOSPC
        with pytest.raises(OSError):
            await file.close()
        assert file.closed
        await file.close()

    with no_descriptor_leaks():
        run(main())


# -- The end ------------------------------------------------------------------------------------------------------------------


def test_a_directory_s_descriptor_stays_open(driver: str, tmp_path: Path) -> None:
    async def main() -> None:
        folder = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(IsADirectoryError) as theirs:
            open(folder)
        with pytest.raises(IsADirectoryError) as ours:
            await whilst.open(folder)
        assert str(ours.value) == str(theirs.value)
        os.close(folder)

    run(main())


def test_never_closed(driver: str, tmp_path: Path) -> None:
    path = tmp_path / "some"

    async def main() -> None:
        file = await whilst.open(path, "w")
        await file.write("not lost")
        with pytest.warns(
            ResourceWarning, match=r"unclosed file <whilst\.BinaryFile name='.*some' mode='wb'>"
        ):
            del file
            gc.collect()
        assert path.read_text() == "not lost"

    with no_descriptor_leaks():
        run(main())


def test_no_descriptor_is_left(driver: str, tmp_path: Path) -> None:
    path = tmp_path / "some"
    path.write_text("some")

    async def main() -> None:
        for number in range(500):
            async with whilst.open(path, ["r", "rb", "a+"][number % 3]) as file:
                await file.read()
            with contextlib.suppress(OSError):
                await whilst.open(tmp_path)

    with no_descriptor_leaks():
        run(main())


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_loop_that_ends_with_operations_under_way(driver: str, tmp_path: Path) -> None:
    path = tmp_path / "some"
    path.write_bytes(b"x" * 1_000_000)

    async def leave() -> None:
        file = await whilst.open(path, "r+b")
        for _ in range(10):
            tasks.append(asyncio.ensure_future(file.pread(1_000_000, 0)))
            tasks.append(asyncio.ensure_future(file.pwrite(b"y" * 1000, 0)))
        await asyncio.sleep(0)
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0)

    with no_descriptor_leaks():
        for _ in range(20):
            loop = whilst.new_event_loop()
            tasks: list[asyncio.Future[Any]] = []
            tasks.append(loop.create_task(leave()))
            loop.run_forever()
            loop.close()
            for task in tasks:
                task._log_destroy_pending = False  # type: ignore[attr-defined]
            del task, tasks, loop
            gc.collect()
    assert path.stat().st_size == 1_000_000


def test_a_loop_that_runs_again_in_another_thread(driver: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    loop = whilst.new_event_loop()

    async def begin() -> tuple[whilst.BinaryFile, list[asyncio.Task[int]]]:
        file = await whilst.open(path, "ab", 0)
        writes = [asyncio.ensure_future(file.write(b"once;")) for _ in range(50)]
        await asyncio.sleep(0)
        return file, writes

    async def end(file: whilst.BinaryFile, writes: list[asyncio.Task[int]]) -> None:
        assert await asyncio.gather(*writes) == [5] * 50
        await file.close()

    file, writes = loop.run_until_complete(begin())
    thread = threading.Thread(target=lambda: loop.run_until_complete(end(file, writes)))
    thread.start()
    thread.join(SECONDS)
    assert path.read_bytes() == b"once;" * 50
    loop.close()


def test_another_loop(driver: str, tmp_path: Path) -> None:
    path = tmp_path / "some"
    path.write_text("some")

    async def begin() -> whilst.BinaryFile:
        return await whilst.open(path, "rb")

    first, second = whilst.new_event_loop(), whilst.new_event_loop()
    file = first.run_until_complete(begin())
    for call in (file.read, lambda: file.pread(1, 0), file.close):
        with pytest.raises(RuntimeError, match="different event loop"):
            second.run_until_complete(call())
    assert first.run_until_complete(file.read()) == b"some"
    first.run_until_complete(file.close())
    first.close()
    second.close()
    with pytest.raises(RuntimeError, match="no running event loop"):
        whilst.open(path).__await__().send(None)


def test_forked_child(driver: str, tmp_path: Path) -> None:
    """A child that a running loop forks may read files on a loop of its own, and the parent goes on."""
    path = tmp_path / "some"
    path.write_text("some" * 1000)

    async def main() -> None:
        async with whilst.open(path, "rb") as file:
            reads = [asyncio.create_task(file.pread(4000, 0)) for _ in range(20)]
            await asyncio.sleep(0)
            child = os.fork()
            if not child:
                status = 1
                try:
                    signal.alarm(int(SECONDS))
                    asyncio._set_running_loop(None)

                    async def in_child() -> bytes:
                        async with whilst.open(path, "rb") as other:
                            return await other.read()

                    status = int(whilst.run(in_child()) != b"some" * 1000)
                finally:
                    os._exit(status)
            assert all([await read == b"some" * 1000 for read in reads])
            assert await asyncio.to_thread(os.waitpid, child, 0) == (child, 0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, from 3.12 on
        run(main())


def test_cancelled_calls_do_not_hold_up_others(driver: str, tmp_path: Path) -> None:
    path = tmp_path / "some"
    path.write_bytes(b"0123456789" * 1000)

    async def main() -> None:
        async with whilst.open(path, "rb", 0) as file:
            for _ in range(100):
                await file.seek(0)
                tasks = [asyncio.create_task(file.read(10)) for _ in range(10)]
                await asyncio.sleep(0)
                for task in tasks[::2]:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
                assert results[1::2] == [b"0123456789"] * 5
                # The first was under way and its bytes were kept; those that waited have not begun.
                assert await file.tell() == 50

    run(main())


def test_cancelled_when_its_turn_has_come(driver: str, tmp_path: Path) -> None:
    path = tmp_path / "some"
    path.write_bytes(b"0123456789")

    async def main() -> None:
        async with whilst.open(path, "rb", 0) as file:

            async def read_and_cancel() -> bytes:
                data = await file.read(1)
                # It has been given the turn just now, and does not know yet.
                second.cancel()
                return data

            first = asyncio.create_task(read_and_cancel())
            second = asyncio.create_task(file.read(1))
            third = asyncio.create_task(file.read(1))
            results = await asyncio.gather(first, second, third, return_exceptions=True)
            assert results[::2] == [b"0", b"1"]
            assert isinstance(results[1], asyncio.CancelledError)

    run(main())
