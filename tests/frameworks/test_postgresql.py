"""PostgreSQL, with the two drivers of it that are made for asyncio.

asyncpg is a protocol on a transport of the loop's, and upgrades it to TLS by a way of its own (`start_tls` after a byte of the
server's). psycopg is libpq, which has the sockets to itself: of the loop it needs `add_reader` and `add_writer`, and nothing
else.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any

import certificates
import pytest
from services import PostgreSQL
from serving import MIB
from test_clients import no_socket_left, on_whilst  # noqa: F401

asyncpg: Any = pytest.importorskip("asyncpg")
psycopg: Any = pytest.importorskip("psycopg")
psycopg_pool: Any = pytest.importorskip("psycopg_pool")

USERS = 50
ROWS = 20_000


class TestAsyncpg:
    @staticmethod
    def where(postgresql: PostgreSQL, **more: Any) -> dict[str, Any]:
        """The arguments of a connection."""
        return {
            "host": "127.0.0.1",
            "port": postgresql.port,
            "user": "tester",
            "database": "postgres",
            "ssl": False,
            **more,
        }

    def test_queries_and_prepared_statements(self, postgresql: PostgreSQL) -> None:
        async def main() -> None:
            connection = await asyncpg.connect(**self.where(postgresql))
            assert await connection.fetchval("SELECT 6 * 7") == 42
            statement = await connection.prepare("SELECT $1::int + 1, $2::text")
            for number in range(200):
                assert tuple(await statement.fetchrow(number, "x" * number)) == (number + 1, "x" * number)
            rows = await connection.fetch("SELECT n, n::text FROM generate_series(1, $1::int) n", ROWS)
            assert [tuple(row) for row in rows] == [(n, str(n)) for n in range(1, ROWS + 1)]
            with pytest.raises(asyncpg.DivisionByZeroError):
                await connection.fetchval("SELECT 1 / 0")
            assert await connection.fetchval("SELECT 'still here'") == "still here"
            await connection.close()

        on_whilst(main())

    def test_unix_socket(self, postgresql: PostgreSQL) -> None:
        async def main() -> None:
            connection = await asyncpg.connect(**self.where(postgresql, host=str(postgresql.folder)))
            assert await connection.fetchval("SELECT inet_client_addr()") is None
            await connection.close()

        on_whilst(main())

    def test_large_values_both_ways(self, postgresql: PostgreSQL) -> None:
        async def main() -> None:
            connection = await asyncpg.connect(**self.where(postgresql))
            value = bytes(range(256)) * (8 * MIB // 256)
            for _ in range(2):
                assert await connection.fetchval("SELECT $1::bytea", value) == value
            await connection.close()

        on_whilst(main())

    def test_transactions_and_cursors(self, postgresql: PostgreSQL) -> None:
        async def main() -> None:
            connection = await asyncpg.connect(**self.where(postgresql))
            await connection.execute("CREATE TEMPORARY TABLE kept (n int)")
            with pytest.raises(ZeroDivisionError):
                async with connection.transaction():
                    await connection.execute("INSERT INTO kept VALUES (1)")
                    raise ZeroDivisionError
            async with connection.transaction():
                await connection.execute("INSERT INTO kept VALUES (2)")
                with pytest.raises(ZeroDivisionError):
                    async with connection.transaction():
                        await connection.execute("INSERT INTO kept VALUES (3)")
                        raise ZeroDivisionError
                await connection.execute("INSERT INTO kept VALUES (4)")
            assert [row["n"] for row in await connection.fetch("SELECT n FROM kept ORDER BY n")] == [2, 4]
            async with connection.transaction():
                cursor = connection.cursor("SELECT n FROM generate_series(1, 5000) n", prefetch=100)
                assert [row["n"] async for row in cursor] == list(range(1, 5001))
            await connection.close()

        on_whilst(main())

    def test_copy(self, postgresql: PostgreSQL) -> None:
        async def main() -> None:
            connection = await asyncpg.connect(**self.where(postgresql))
            await connection.execute("CREATE TEMPORARY TABLE copied (n int, t text)")
            records = [(number, f"text {number}") for number in range(ROWS)]
            await connection.copy_records_to_table("copied", records=records)
            out = io.BytesIO()
            await connection.copy_from_query("SELECT * FROM copied ORDER BY n", output=out)
            assert out.getvalue() == b"".join(b"%d\ttext %d\n" % (number, number) for number in range(ROWS))

            async def pieces() -> AsyncIterator[bytes]:
                for start in range(0, len(out.getvalue()), 10_001):
                    yield out.getvalue()[start : start + 10_001]

            assert await connection.copy_to_table("copied", source=pieces()) == f"COPY {ROWS}"
            assert await connection.fetchval("SELECT count(*) FROM copied") == 2 * ROWS
            await connection.close()

        on_whilst(main())

    def test_notifications(self, postgresql: PostgreSQL) -> None:
        async def main() -> None:
            listening = await asyncpg.connect(**self.where(postgresql))
            telling = await asyncpg.connect(**self.where(postgresql))
            heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

            def hear(connection: Any, pid: int, channel: str, text: str) -> None:
                heard.put_nowait((channel, text))

            await listening.add_listener("news", hear)
            for number in range(100):
                await telling.execute("SELECT pg_notify('news', $1)", str(number))
            # They come while the connection waits for nothing.
            assert [await heard.get() for _ in range(100)] == [("news", str(n)) for n in range(100)]
            await listening.remove_listener("news", hear)
            await listening.close()
            await telling.close()

        on_whilst(main())

    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    def test_a_pool_with_many_users(self, postgresql: PostgreSQL, tls: bool) -> None:
        async def main() -> None:
            where = self.where(postgresql, ssl=certificates.client_context() if tls else False)
            async with asyncpg.create_pool(min_size=5, max_size=10, **where) as pool:

                async def one(number: int) -> None:
                    for turn in range(10):
                        async with pool.acquire() as connection, connection.transaction():
                            text = f"{number} {turn} " * 500
                            assert await connection.fetchval("SELECT $1::text || $1", text) == text * 2

                async with asyncio.TaskGroup() as group:
                    for number in range(USERS):
                        group.create_task(one(number))

        on_whilst(main())

    def test_a_query_is_cancelled(self, postgresql: PostgreSQL) -> None:
        """asyncpg tells the server over a second connection, and the first is good for more."""

        async def main() -> None:
            connection = await asyncpg.connect(**self.where(postgresql))
            for _ in range(5):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await connection.execute("SELECT pg_sleep(60)")
                assert await connection.fetchval("SELECT 1") == 1
            with pytest.raises(TimeoutError):
                await connection.fetchval("SELECT pg_sleep(60)", timeout=0.05)
            assert await connection.fetchval("SELECT 1") == 1
            await connection.close()

        on_whilst(main())

    def test_tls(self, postgresql: PostgreSQL) -> None:
        async def main() -> None:
            context = certificates.client_context()
            connection = await asyncpg.connect(**self.where(postgresql, ssl=context))
            secured = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            assert await connection.fetchval(secured) is True
            value = bytes(range(256)) * (8 * MIB // 256)
            assert await connection.fetchval("SELECT $1::bytea", value) == value
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await connection.execute("SELECT pg_sleep(60)")
            assert await connection.fetchval(secured) is True
            await connection.close()

        on_whilst(main())

    def test_tls_with_a_server_that_is_not_trusted(self, postgresql: PostgreSQL) -> None:
        async def main() -> None:
            context = certificates.client_context()
            # The certificate is for 127.0.0.1 and not for this name of the same machine.
            for _ in range(3):
                with pytest.raises(certificates.ssl.SSLCertVerificationError):
                    await asyncpg.connect(**self.where(postgresql, ssl=context, host="localhost"))

        on_whilst(main())

    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    def test_the_server_is_restarted_under_a_pool(self, postgresql: PostgreSQL, tls: bool) -> None:
        async def main() -> None:
            where = self.where(postgresql, ssl=certificates.client_context() if tls else False)
            async with asyncpg.create_pool(min_size=5, max_size=5, **where) as pool:
                sleeping = asyncio.create_task(pool.execute("SELECT pg_sleep(60)"))
                counting = "SELECT count(*) FROM pg_stat_activity WHERE query = $1 AND state = 'active'"
                while not await pool.fetchval(counting, "SELECT pg_sleep(60)"):
                    pass
                await asyncio.to_thread(postgresql.restart)
                with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError)):
                    await sleeping
                assert await asyncio.gather(*(pool.fetchval("SELECT 1") for _ in range(20))) == [1] * 20

        on_whilst(main())


class TestPsycopg:
    @staticmethod
    def where(postgresql: PostgreSQL, more: str = "sslmode=disable") -> str:
        return f"host=127.0.0.1 port={postgresql.port} user=tester dbname=postgres {more}"

    def test_queries_and_prepared_statements(self, postgresql: PostgreSQL) -> None:
        async def main() -> None:
            async with await psycopg.AsyncConnection.connect(self.where(postgresql)) as connection:
                for number in range(200):
                    cursor = await connection.execute(
                        "SELECT %s + 1, %s", (number, "x" * number), prepare=True
                    )
                    assert await cursor.fetchone() == (number + 1, "x" * number)
                value = bytes(range(256)) * (8 * MIB // 256)
                cursor = await connection.execute("SELECT %b::bytea", (value,))
                assert await cursor.fetchone() == (value,)
                cursor = await connection.execute("SELECT n FROM generate_series(1, %s) n", (ROWS,))
                assert [row[0] async for row in cursor] == list(range(1, ROWS + 1))

        on_whilst(main())

    def test_a_pipeline(self, postgresql: PostgreSQL) -> None:
        async def main() -> None:
            async with (
                await psycopg.AsyncConnection.connect(self.where(postgresql)) as connection,
                connection.pipeline(),
            ):
                cursors = [await connection.execute("SELECT %s + 1", (n,)) for n in range(500)]
                assert [await cursor.fetchone() for cursor in cursors] == [(n + 1,) for n in range(500)]

        on_whilst(main())

    def test_transactions(self, postgresql: PostgreSQL) -> None:
        async def main() -> None:
            async with await psycopg.AsyncConnection.connect(self.where(postgresql)) as connection:
                await connection.execute("CREATE TEMPORARY TABLE kept (n int)")
                with pytest.raises(psycopg.errors.DivisionByZero):
                    async with connection.transaction():
                        await connection.execute("INSERT INTO kept VALUES (1)")
                        await connection.execute("SELECT 1 / 0")
                async with connection.transaction():
                    await connection.execute("INSERT INTO kept VALUES (2)")
                    with pytest.raises(psycopg.errors.DivisionByZero):
                        async with connection.transaction():
                            await connection.execute("INSERT INTO kept VALUES (3)")
                            await connection.execute("SELECT 1 / 0")
                cursor = await connection.execute("SELECT n FROM kept")
                assert await cursor.fetchall() == [(2,)]

        on_whilst(main())

    def test_copy(self, postgresql: PostgreSQL) -> None:
        async def main() -> None:
            async with (
                await psycopg.AsyncConnection.connect(self.where(postgresql)) as connection,
                connection.cursor() as cursor,
            ):
                await cursor.execute("CREATE TEMPORARY TABLE copied (n int, t text)")
                async with cursor.copy("COPY copied FROM STDIN") as copy:
                    for number in range(ROWS):
                        await copy.write_row((number, f"text {number}"))
                async with cursor.copy("COPY (SELECT * FROM copied ORDER BY n) TO STDOUT") as copy:
                    out = b"".join([bytes(piece) async for piece in copy])
                assert out == b"".join(b"%d\ttext %d\n" % (number, number) for number in range(ROWS))

        on_whilst(main())

    def test_notifications(self, postgresql: PostgreSQL) -> None:
        async def main() -> None:
            async with (
                await psycopg.AsyncConnection.connect(self.where(postgresql), autocommit=True) as listening,
                await psycopg.AsyncConnection.connect(self.where(postgresql), autocommit=True) as telling,
            ):
                await listening.execute("LISTEN news")

                async def hear() -> list[str]:
                    heard = []
                    async for note in listening.notifies():
                        heard.append(note.payload)
                        if len(heard) == 100:
                            break
                    return heard

                hearing = asyncio.create_task(hear())
                for number in range(100):
                    await telling.execute("SELECT pg_notify('news', %s)", (str(number),))
                assert await hearing == [str(number) for number in range(100)]

        on_whilst(main())

    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    def test_a_pool_with_many_users(self, postgresql: PostgreSQL, tls: bool) -> None:
        async def main() -> None:
            more = f"sslmode=verify-full sslrootcert={certificates.AUTHORITY}" if tls else "sslmode=disable"
            where = self.where(postgresql, more)
            async with psycopg_pool.AsyncConnectionPool(where, min_size=5, max_size=10, open=False) as pool:

                async def one(number: int) -> None:
                    for turn in range(10):
                        async with pool.connection() as connection:
                            text = f"{number} {turn} " * 500
                            cursor = await connection.execute("SELECT %s || %s", (text, text))
                            assert await cursor.fetchone() == (text * 2,)

                async with asyncio.TaskGroup() as group:
                    for number in range(USERS):
                        group.create_task(one(number))

        on_whilst(main())

    def test_a_query_is_cancelled(self, postgresql: PostgreSQL) -> None:
        async def main() -> None:
            async with await psycopg.AsyncConnection.connect(
                self.where(postgresql), autocommit=True
            ) as connection:
                for _ in range(5):
                    with pytest.raises(TimeoutError):
                        async with asyncio.timeout(0.05):
                            await connection.execute("SELECT pg_sleep(60)")
                    cursor = await connection.execute("SELECT 1")
                    assert await cursor.fetchone() == (1,)

        on_whilst(main())

    def test_the_server_is_restarted_under_a_pool(self, postgresql: PostgreSQL) -> None:
        async def main() -> None:
            async with psycopg_pool.AsyncConnectionPool(
                self.where(postgresql),
                min_size=5,
                max_size=5,
                open=False,
                check=psycopg_pool.AsyncConnectionPool.check_connection,
            ) as pool:
                await pool.wait()

                async def sleep() -> None:
                    async with pool.connection() as connection:
                        await connection.execute("SELECT pg_sleep(60)")

                sleeping = asyncio.create_task(sleep())
                counting = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE %s AND state = 'active'"
                count = 0
                while not count:
                    async with pool.connection() as connection:
                        cursor = await connection.execute(counting, ("SELECT pg_sleep%",))
                        (count,) = await cursor.fetchone()
                await asyncio.to_thread(postgresql.restart)
                with pytest.raises(psycopg.OperationalError):
                    await sleeping

                async def one() -> Any:
                    async with pool.connection() as connection:
                        return (await (await connection.execute("SELECT 1")).fetchone())[0]

                assert await asyncio.gather(*(one() for _ in range(20))) == [1] * 20

        on_whilst(main())
