"""The introduction's program: two simulated fetches, 2 s and 1 s long, on one loop in a little over 2 s.

Run it with either of

    python introduction.py
    whilst introduction.py

and the lines printed are the same; under ``whilst`` the loop is whilst's, and the program does not know. It
takes its loop from ``asyncio.get_event_loop()``, as programs did for years. Plain Python makes a loop for
such a call up to 3.13 (with a ``DeprecationWarning`` from 3.12 on) and raises ``RuntimeError`` from 3.14
on. The command ``whilst`` sets a loop before the program starts, so there the call works on every Python
and warns on none.
"""

import asyncio
import time


async def simulated_fetch(url, delay):
    """Answer with a page for `url`, after as many seconds of "network" as `delay` says."""
    await asyncio.sleep(delay)
    print(f"Fetched {url} after {delay}")
    return f"<html>{url}"


def main():
    """Fetch two pages concurrently: the one asked for second is there first."""
    loop = asyncio.get_event_loop()
    pages = loop.run_until_complete(
        asyncio.gather(
            simulated_fetch("http://google.com", 2),
            simulated_fetch("http://bbc.co.uk", 1),
        )
    )
    print(pages)


if __name__ == "__main__":
    started = time.perf_counter()
    main()
    print(f"Both fetches took {time.perf_counter() - started:.2f} s together.")
