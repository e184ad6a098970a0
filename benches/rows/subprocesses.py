"""Child processes and their pipes."""

import asyncio

from .row import LoopFactory, Measurement, clock, inside, run

MEBIBYTE = 1 << 20
CHUNK = b"." * (256 * 1024)


@inside("subprocess `/bin/true`, spawn to exit", group="Processes", operations=200, target=1.0, cores=2)
def spawn(new_loop: LoopFactory, n: int) -> Measurement:
    """Processes one after the other, from one that is as large as a small program with asyncio in it."""

    async def main() -> Measurement:
        start = clock()
        for _ in range(n):
            process = await asyncio.create_subprocess_exec("/bin/true")
            if await process.wait() != 0:
                raise RuntimeError("/bin/true failed")
        return Measurement(n, clock() - start)

    return run(new_loop, main())


@inside("pipe through `cat`, per MiB", group="Processes", operations=256, target=1.0, cores=2)
def pipe(new_loop: LoopFactory, n: int) -> Measurement:
    """Chunks of 256 KiB written to a process's standard input and read from its standard output."""

    async def main() -> Measurement:
        process = await asyncio.create_subprocess_exec(
            "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None and stdout is not None

        async def feed() -> None:
            for _ in range(n * MEBIBYTE // len(CHUNK)):
                stdin.write(CHUNK)
                await stdin.drain()
            stdin.close()

        start = clock()
        feeder = asyncio.ensure_future(feed())
        missing = n * MEBIBYTE
        while data := await stdout.read(len(CHUNK)):
            missing -= len(data)
        seconds = clock() - start
        await feeder
        if await process.wait() != 0 or missing:
            raise RuntimeError(f"cat kept {missing} bytes")
        return Measurement(n, seconds)

    return run(new_loop, main())


ROWS = (spawn, pipe)
