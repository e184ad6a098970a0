"""An aiohttp client on whilst's loop: fetches all the addresses that it is given, at the same time.

    python aiohttp_client.py http://127.0.0.1:8080/ http://127.0.0.1:8080/?name=you

The answers are printed in the order of the addresses, whichever came first.
"""

import asyncio
import sys

import aiohttp
import whilst


async def fetch(session: aiohttp.ClientSession, url: str) -> str:
    """One line about what `url` answers."""
    async with session.get(url) as response:
        body = await response.read()
        return f"{url} {response.status} {len(body)} bytes: {body[:60].decode(errors='replace')}"


async def main(urls: list[str]) -> None:
    """Fetch all of `urls` over one session, which keeps connections for the next request to the same host."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        for line in await asyncio.gather(*(fetch(session, url) for url in urls)):
            print(line)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python aiohttp_client.py URL [URL ...]")
    whilst.run(main(sys.argv[1:]))
