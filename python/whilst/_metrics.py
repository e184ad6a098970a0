"""The numbers of a loop: what ``loop.metrics()`` returns."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """A loop's numbers at one moment.

    Counts are those since the loop was made and never fall; a rate is the difference of two by that of :attr:`time`. Seconds
    and lags are measured from when the loop's numbers were first asked for (:attr:`timed`): before, nothing but additions is
    done for them.
    """

    #: The loop's number in this process: 1 for the first that was made.
    loop: int

    #: What the loop waits on.
    driver: Literal["io_uring", "epoll"]

    #: ``polling``: it waits. ``running``: it runs callbacks. ``stopped``: it does not run. ``closed``: it never will again.
    state: Literal["polling", "running", "stopped", "closed"]

    #: When this was, by the loop's clock (``loop.time()``), in seconds.
    time: float

    #: How often the loop looked at what is ready and ran it. One that runs counts.
    iterations: int

    #: How many callbacks were run, and pieces of work of transports: a delivery of what was received, an accepted connection.
    #: Those of the present iteration count from its beginning, and those that are cancelled before their turn count too.
    callbacks: int

    #: How often the loop asked the kernel what is ready, whether it had to wait or not.
    polls: int

    #: How often another thread has ended a wait, or kept it from beginning: however many calls came meanwhile, it counts once.
    wakes: int

    #: How many callbacks other threads have sent by ``call_soon_threadsafe``.
    thread_calls: int

    #: How many callbacks and pieces of work wait for their turn.
    ready: int

    #: How many timers wait for their time, without those that were cancelled.
    timers: int

    #: How many transports are open, by kind: ``tcp``, ``udp``, ``unix`` (of either type), ``pipe`` (also terminals), ``other``,
    #: and ``tls``, which are counted as what they are over as well.
    transports: dict[str, int]

    #: How many sockets the loop accepts connections on.
    servers: int

    #: How many descriptors are watched: for ``add_reader`` and ``add_writer``, for a ``sock_*`` that waits, for pipes.
    watches: int

    #: How many bytes transports, the ``sock_*`` methods and ``sendfile`` have received and sent, as they were on the wire: of
    #: TLS the encrypted ones. Sent is what the kernel has taken.
    bytes_received: int
    bytes_sent: int

    #: For how long times have been measured, in seconds: 0.0 the first time that somebody asks.
    timed: float

    #: How long the loop has run callbacks meanwhile and how long it has waited, in seconds, what is under way included.
    #: ``callback_seconds / (callback_seconds + poll_seconds)`` is its load.
    callback_seconds: float
    poll_seconds: float

    #: How long the present iteration has been running, in seconds; 0.0 while the loop waits.
    held: float

    #: The lag of the last iteration, in seconds, and the longest of the last 10 and 60 seconds, with that of the iteration
    #: under way. An iteration's lag is how long whatever became ready meanwhile had to wait at most: from the end of the wait
    #: before it (or from when its first timer was due, if the loop's thread got no processor or no GIL before that) to its end.
    lag_last: float
    lag_max_10s: float
    lag_max_60s: float

    #: The sum of all lags, in seconds, and how many they are.
    lag_seconds: float
    lag_count: int

    #: How many lags were as long as each bound, in seconds, or shorter.
    lag_buckets: tuple[tuple[float, int], ...]

    def as_dict(self) -> dict[str, Any]:
        """Return all of it by name, as JSON takes it."""
        numbers = {field.name: getattr(self, field.name) for field in fields(self)}
        numbers["transports"] = dict(self.transports)
        numbers["lag_buckets"] = [list(bucket) for bucket in self.lag_buckets]
        return numbers
