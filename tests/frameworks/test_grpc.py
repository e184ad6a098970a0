"""Remote procedure calls with grpc.aio, both ends on whilst's loop.

grpc.aio has a poller of its own, in a thread, which wakes the loop by a socket that it has the loop watch. That pair of
sockets stays open until the process ends, with any loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from serving import MIB
from test_clients import on_whilst

grpc: Any = pytest.importorskip("grpc")
pytestmark = pytest.mark.usefixtures("here")


@contextlib.asynccontextmanager
async def pair() -> AsyncIterator[Any]:
    """A server without generated code, as there is no need for messages, and a channel to it."""

    async def double(request: bytes, context: Any) -> bytes:
        await asyncio.sleep(0)
        return request * 2

    async def count(request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(int(request)):
            yield str(number).encode()

    async def total(requests: AsyncIterator[bytes], context: Any) -> bytes:
        return str(sum([int(request) async for request in requests])).encode()

    async def echo(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    async def never(request: bytes, context: Any) -> bytes:
        await asyncio.Event().wait()
        return b""

    async def wrong(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "nothing here")
        return b""

    handlers = {
        "double": grpc.unary_unary_rpc_method_handler(double),
        "count": grpc.unary_stream_rpc_method_handler(count),
        "total": grpc.stream_unary_rpc_method_handler(total),
        "echo": grpc.stream_stream_rpc_method_handler(echo),
        "never": grpc.unary_unary_rpc_method_handler(never),
        "wrong": grpc.unary_unary_rpc_method_handler(wrong),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("tests", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


def test_calls() -> None:
    async def main() -> None:
        async with pair() as channel:
            double = channel.unary_unary("/tests/double")
            answers = await asyncio.gather(*(double(str(n).encode()) for n in range(100)))
            assert answers == [str(n).encode() * 2 for n in range(100)]
            assert await double(bytes(MIB)) == bytes(2 * MIB)
            counted = [int(number) async for number in channel.unary_stream("/tests/count")(b"500")]
            assert counted == list(range(500))

            async def numbers() -> AsyncIterator[bytes]:
                for number in range(500):
                    yield str(number).encode()

            assert int(await channel.stream_unary("/tests/total")(numbers())) == sum(range(500))
            echoed = [int(number) async for number in channel.stream_stream("/tests/echo")(numbers())]
            assert echoed == list(range(500))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/tests/wrong")(b"")
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            for _ in range(5):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await channel.unary_unary("/tests/never")(b"", timeout=0.05)
                assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await channel.unary_unary("/tests/never")(b"")

    on_whilst(main())
