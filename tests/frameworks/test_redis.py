"""Redis, with redis-py's client for asyncio: streams of asyncio's (`open_connection`) underneath."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import certificates
import pytest
from services import Redis
from serving import MIB
from test_clients import no_socket_left, on_whilst  # noqa: F401

redis: Any = pytest.importorskip("redis.asyncio")

USERS = 50


def client(server: Redis, how: str) -> Any:
    """A client by one of the three ways to the server."""
    if how == "unix":
        return redis.Redis(unix_socket_path=str(server.socket_path))
    if how == "tls":
        return redis.Redis(
            host="127.0.0.1",
            port=server.tls_port,
            ssl=True,
            ssl_ca_certs=str(certificates.AUTHORITY),
            ssl_check_hostname=True,
        )
    return redis.Redis(host="127.0.0.1", port=server.port)


every_way = pytest.mark.parametrize("how", ["tcp", "unix", "tls"])


@every_way
def test_values_and_a_pipeline(redis_server: Redis, how: str) -> None:
    async def main() -> None:
        async with client(redis_server, how) as one:
            await one.flushall()
            for number in range(100):
                await one.set(f"key {number}", "x" * number)
            assert await one.get("key 99") == b"x" * 99
            large = random.Random(4).randbytes(8 * MIB)
            await one.set("large", large)
            assert await one.get("large") == large
            async with one.pipeline(transaction=False) as pipeline:
                for number in range(2000):
                    pipeline.incrby("sum", number)
                assert (await pipeline.execute())[-1] == sum(range(2000))
            async with one.pipeline(transaction=True) as pipeline:
                await pipeline.watch("sum")
                await one.incr("sum")  # by another connection, so that the transaction fails
                pipeline.multi()
                pipeline.incr("sum")
                with pytest.raises(redis.WatchError):
                    await pipeline.execute()

    on_whilst(main())


@every_way
def test_many_clients(redis_server: Redis, how: str) -> None:
    async def main() -> None:
        async with client(redis_server, how) as shared:
            await shared.flushall()

            async def one(number: int) -> None:
                async with client(redis_server, how) as own:
                    for turn in range(20):
                        await own.rpush(f"list {number}", turn)
                        await shared.incr("count")
                    pushed = [str(turn).encode() for turn in range(20)]
                    assert await own.lrange(f"list {number}", 0, -1) == pushed

            async with asyncio.TaskGroup() as group:
                for number in range(USERS):
                    group.create_task(one(number))
            assert int(await shared.get("count")) == 20 * USERS

    on_whilst(main())


@every_way
def test_publish_and_subscribe(redis_server: Redis, how: str) -> None:
    async def main() -> None:
        async with client(redis_server, how) as telling, client(redis_server, how) as hearing:

            async def hear(ready: asyncio.Event) -> list[bytes]:
                heard: list[bytes] = []
                async with hearing.pubsub() as pubsub:
                    await pubsub.subscribe("news")
                    async for message in pubsub.listen():
                        if message["type"] == "subscribe":
                            ready.set()
                        elif message["data"] == b"end":
                            return heard
                        else:
                            heard.append(message["data"])
                raise AssertionError("the subscription ended")

            listeners, ready = [], []
            for _ in range(10):
                ready.append(asyncio.Event())
                listeners.append(asyncio.create_task(hear(ready[-1])))
            for event in ready:
                await event.wait()
            for number in range(100):
                assert await telling.publish("news", number) == 10
            await telling.publish("news", "end")
            for heard in await asyncio.gather(*listeners):
                assert heard == [str(number).encode() for number in range(100)]

    on_whilst(main())


@every_way
def test_blocking_pops_and_timeouts(redis_server: Redis, how: str) -> None:
    async def main() -> None:
        async with client(redis_server, how) as one:
            await one.flushall()
            # The server's own limit of time, and then one of the client's, which cuts the connection.
            assert await one.blpop(["empty"], timeout=0.05) is None
            for _ in range(5):
                # The limit is reached while the pop waits. redis-py loses a cancellation that comes while it makes a connection,
                # on CPython's loop as well, and then waits for good.
                popping = asyncio.create_task(one.blpop(["empty"]))
                while (await one.info("clients"))["blocked_clients"] < 1:
                    pass
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await popping
                while (await one.info("clients"))["blocked_clients"]:
                    pass
            pops = [asyncio.create_task(one.blpop(["queue"], timeout=10)) for _ in range(20)]
            while (await one.info("clients"))["blocked_clients"] < 20:
                pass
            await one.rpush("queue", *range(20))
            popped = await asyncio.gather(*pops)
            assert {int(value) for _, value in popped} == set(range(20))

    on_whilst(main())


@every_way
def test_the_server_is_restarted_under_a_client(redis_server: Redis, how: str) -> None:
    async def main() -> None:
        async with client(redis_server, how) as one:
            waiting = asyncio.create_task(one.blpop(["nothing comes"]))
            while not (await one.info("clients"))["blocked_clients"]:
                pass
            await asyncio.to_thread(redis_server.restart)
            # The client connects again by itself, and so the pop waits on.
            assert await one.set("key", "value")
            assert await one.rpush("nothing comes", "something")
            assert (await waiting)[1] == b"something"

    on_whilst(main())
