"""HTTP clients on whilst's loop, in the process of the tests, against a server in another.

The server is uvicorn with httptools, whose own tests are in `test_http_servers`.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, TypeVar

import aiohttp
import httpx
import pytest
import whilst
from servers import RunningServer
from serving import MIB, WAIT_SECONDS, free_port, open_sockets, payload, payload_sha256

LARGE = 32 * MIB
KERNEL_KEEPS = 16 * MIB
KIND = pytest.mark.parametrize("kind", ["uvicorn-httptools"])
T = TypeVar("T")


@pytest.fixture(autouse=True)
def no_socket_left(here: str) -> Iterator[None]:
    gc.collect()
    before = open_sockets()
    yield
    assert open_sockets() <= before


def on_whilst(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on whilst's loop, with a limit; what the loop's exception handler hears fails the test."""
    complaints: list[dict[str, Any]] = []

    async def limited() -> T:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, whilst.Loop)
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        async with asyncio.timeout(WAIT_SECONDS):
            return await main

    result = whilst.run(limited())
    assert complaints == []
    return result


async def large_body() -> AsyncIterator[bytes]:
    for piece in payload(LARGE):
        yield piece


def url(server: RunningServer) -> str:
    return f"http://127.0.0.1:{server.number}"


class TestHttpx:
    pytestmark = KIND

    def test_many_requests_on_one_connection(self, server: RunningServer) -> None:
        async def main() -> None:
            async with httpx.AsyncClient(base_url=url(server)) as client:
                clients = set()
                for number in range(200):
                    answer = (await client.get(f"/hello?number={number}")).json()
                    assert answer["number"] == str(number)
                    clients.add(tuple(answer["client"]))
                assert len(clients) == 1

        on_whilst(main())

    def test_large_upload(self, server: RunningServer) -> None:
        async def main() -> None:
            async with httpx.AsyncClient(base_url=url(server), timeout=WAIT_SECONDS) as client:
                response = await client.post("/upload", content=large_body())
                assert response.json() == {"size": LARGE, "sha256": payload_sha256(LARGE)}

        on_whilst(main())

    def test_large_download_read_slowly(self, server: RunningServer) -> None:
        async def main() -> None:
            async with (
                httpx.AsyncClient(base_url=url(server), timeout=WAIT_SECONDS) as client,
                client.stream("GET", f"/download?size={LARGE}") as response,
            ):
                for _ in range(30):
                    facts = (await client.get("/facts")).json()
                assert 0 < facts["produced"] < KERNEL_KEEPS
                digest = hashlib.sha256()
                async for piece in response.aiter_bytes():
                    digest.update(piece)
                assert digest.hexdigest() == payload_sha256(LARGE)

        on_whilst(main())

    def test_many_at_the_same_time(self, server: RunningServer) -> None:
        async def main() -> None:
            count = 100
            limits = httpx.Limits(max_connections=count)
            async with httpx.AsyncClient(base_url=url(server), limits=limits, timeout=WAIT_SECONDS) as client:
                for _ in range(2):
                    requests = [
                        client.get(f"/barrier?count={count}&number={number}") for number in range(count)
                    ]
                    answers = await asyncio.gather(*requests)
                    assert [int(answer.json()["number"]) for answer in answers] == list(range(count))

        on_whilst(main())

    def test_a_timeout_and_a_download_given_up(self, server: RunningServer) -> None:
        async def main() -> None:
            async with httpx.AsyncClient(base_url=url(server)) as client:
                for _ in range(3):
                    with pytest.raises(httpx.ReadTimeout):
                        await client.get("/never", timeout=httpx.Timeout(WAIT_SECONDS, read=0.05))
                    async with client.stream("GET", f"/download?size={LARGE}") as response:
                        async for _ in response.aiter_bytes():
                            break
                assert (await client.get("/hello?number=5")).json()["number"] == "5"

        on_whilst(main())

    def test_nobody_listens(self, server: RunningServer) -> None:
        async def main() -> None:
            async with httpx.AsyncClient() as client:
                with pytest.raises(httpx.ConnectError):
                    await client.get(f"http://127.0.0.1:{free_port()}/")

        on_whilst(main())


class TestAiohttp:
    pytestmark = KIND

    def test_many_requests_on_one_connection(self, server: RunningServer) -> None:
        async def main() -> None:
            async with aiohttp.ClientSession(url(server)) as session:
                clients = set()
                for number in range(200):
                    async with session.get(f"/hello?number={number}") as response:
                        answer = await response.json()
                    assert answer["number"] == str(number)
                    clients.add(tuple(answer["client"]))
                assert len(clients) == 1

        on_whilst(main())

    def test_large_upload(self, server: RunningServer) -> None:
        async def main() -> None:
            async with (
                aiohttp.ClientSession(url(server)) as session,
                session.post("/upload", data=large_body()) as response,
            ):
                assert await response.json() == {"size": LARGE, "sha256": payload_sha256(LARGE)}

        on_whilst(main())

    def test_large_download_read_slowly(self, server: RunningServer) -> None:
        async def main() -> None:
            async with (
                aiohttp.ClientSession(url(server)) as session,
                session.get(f"/download?size={LARGE}") as response,
            ):
                for _ in range(30):
                    async with session.get("/facts") as answer:
                        facts = await answer.json()
                assert 0 < facts["produced"] < KERNEL_KEEPS
                digest = hashlib.sha256()
                async for piece in response.content.iter_chunked(50_000):
                    digest.update(piece)
                assert digest.hexdigest() == payload_sha256(LARGE)

        on_whilst(main())

    def test_many_at_the_same_time(self, server: RunningServer) -> None:
        async def main() -> None:
            count = 100

            async def one(number: int) -> int:
                async with session.get(f"/barrier?count={count}&number={number}") as response:
                    return int((await response.json())["number"])

            connector = aiohttp.TCPConnector(limit=count)
            async with aiohttp.ClientSession(url(server), connector=connector) as session:
                for _ in range(2):
                    assert await asyncio.gather(*map(one, range(count))) == list(range(count))

        on_whilst(main())

    def test_a_timeout_and_a_download_given_up(self, server: RunningServer) -> None:
        async def main() -> None:
            async with aiohttp.ClientSession(url(server)) as session:
                for _ in range(3):
                    with pytest.raises(TimeoutError):
                        await session.get("/never", timeout=aiohttp.ClientTimeout(total=0.05))
                    async with session.get(f"/download?size={LARGE}") as response:
                        assert await response.content.read(1000)
                async with session.get("/hello?number=5") as response:
                    assert (await response.json())["number"] == "5"

        on_whilst(main())

    def test_nobody_listens(self, server: RunningServer) -> None:
        async def main() -> None:
            async with aiohttp.ClientSession() as session:
                with pytest.raises(aiohttp.ClientConnectorError):
                    await session.get(f"http://127.0.0.1:{free_port()}/")

        on_whilst(main())


def test_aiohttp_server_and_client_in_one_loop() -> None:
    """Both ends in one thread: neither may wait for the other in a way that stops the loop."""

    async def main() -> None:
        from aiohttp import web

        async def upload(request: web.Request) -> web.StreamResponse:
            # Every piece goes back at once, so that both directions are full at the same time.
            response = web.StreamResponse()
            await response.prepare(request)
            async for piece in request.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response

        app = web.Application()
        app.router.add_post("/upload", upload)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "localhost", 0)
        await site.start()
        port = runner.addresses[0][1]
        digest = hashlib.sha256()
        async with (
            aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
            session.post("/upload", data=large_body()) as response,
        ):
            async for piece in response.content.iter_any():
                digest.update(piece)
        await runner.cleanup()
        assert digest.hexdigest() == payload_sha256(LARGE)

    on_whilst(main())
