"""Answers of a program as its control socket gives them, made by hand: for what no real program does at a wish."""

from typing import Any

Answer = dict[str, Any]


def place(file: str, line: int, function: str) -> list[Any]:
    return [file, line, function]


def task(ident: int, name: str, coroutine: str = "work", kind: str = "sleep", **more: Any) -> Answer:
    told = {
        "id": ident,
        "name": name,
        "coroutine": coroutine,
        "state": "waiting",
        "kind": kind,
        "waits_for": kind,
        "place": place("/srv/app.py", 12, coroutine),
        "awaited_by": [],
        "age": None,
    }
    return told | more


def group(coroutine: str, kind: str, count: int, **more: Any) -> Answer:
    told = {
        "coroutine": coroutine,
        "place": place("/srv/app.py", 12, coroutine),
        "state": "waiting",
        "kind": kind,
        "waits_for": kind,
        "count": count,
    }
    return told | more


def metrics(time: float, **more: Any) -> Answer:
    """Of a loop that was busy for a quarter of the time."""
    told = {
        "loop": 1,
        "driver": "epoll",
        "state": "polling",
        "time": time,
        "iterations": int(time * 1000),
        "callbacks": int(time * 4000),
        "polls": int(time * 900),
        "wakes": int(time * 2),
        "thread_calls": 0,
        "ready": 3,
        "timers": 12,
        "transports": {"tcp": 10, "unix": 0, "udp": 0, "pipe": 0, "tls": 4, "other": 0},
        "servers": 1,
        "watches": 0,
        "bytes_received": int(time * 2_000_000),
        "bytes_sent": int(time * 5000),
        "timed": time,
        "callback_seconds": time * 0.25,
        "poll_seconds": time * 0.75,
        "lag_last": 0.0001,
        "lag_max_10s": 0.002,
        "lag_max_60s": 0.03,
        "lag_seconds": time * 0.2,
        "lag_count": int(time * 1000),
    }
    return told | more


def loop(time: float, tasks: list[Answer], groups: list[Answer] | None = None, **more: Any) -> Answer:
    told: Answer = {
        "id": 1,
        "thread": "MainThread",
        "driver": "epoll",
        "debug": False,
        "state": "polling",
        "held": 0.0,
        "where": [],
        "metrics": metrics(time),
        "tasks": {"total": len(tasks), "exact": True, "listed": tasks},
    }
    if groups is not None:
        told["tasks"] |= {"groups": groups, "total": sum(one["count"] for one in groups)}
    return told | more


def answer(time: float, *loops: Answer, **more: Any) -> Answer:
    told: Answer = {
        "protocol": 1,
        "program": "server.py",
        "pid": 1234,
        "python": "3.13.0",
        "whilst": "0.1.0",
        "time": 1_763_884_000 + time,
        "uptime": time,
        "threads": 2,
        "loops": list(loops),
    }
    return told | more
