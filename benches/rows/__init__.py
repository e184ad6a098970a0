"""The rows of the benchmark: one workload each, in the order of the table."""

from . import lifecycle, scheduling, servers, sockets, streams, subprocesses, tasks, tls
from .row import Idle, Inside, Kept, Row, Throughput

__all__ = ["ROWS", "Idle", "Inside", "Kept", "Row", "Throughput"]

ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        *scheduling.ROWS,
        *tasks.ROWS,
        *sockets.ROWS,
        *streams.ROWS,
        *tls.ROWS,
        *subprocesses.ROWS,
        *lifecycle.ROWS,
        *servers.ROWS,
    )
}
