"""A hundred thousand tasks open at once, and move."""

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import records

if TYPE_CHECKING:
    from playwright.sync_api import Page

TASKS = 100_000


@pytest.fixture(scope="module")
def record() -> dict[str, object]:
    return records.many(TASKS)


def test_a_hundred_thousand_tasks_open_in_three_seconds(
    record: dict[str, object], show: Callable[..., "Page"]
) -> None:
    """From the navigation's start to the first frame, by the page's own clock; the best of three, for machines are shared."""
    times = []
    for _ in range(3):
        page = show(record)
        times.append(page.evaluate("performance.getEntriesByName('ready')[0].startTime"))
        assert "100\u202f000 tasks" in page.locator("#facts").inner_text()
    print(
        f"\n{TASKS} tasks, {len(record['runs']['begin']) + len(record['waits']['begin'])} runs and waits:"  # type: ignore[index]
        f" open in {min(times):.0f} ms (of {', '.join(f'{took:.0f}' for took in times)})"
    )
    assert min(times) < 3_000


def test_it_moves_smoothly(record: dict[str, object], show: Callable[..., "Page"]) -> None:
    """How long a frame takes to draw while zooming, panning and scrolling through the lanes, all of them open."""
    page = show(record)
    page.locator("#tree .row", has_text="handle").click()
    # The time of each frame's own callback, in which the page draws, not that between frames.
    page.evaluate(
        """() => {
            window.drawn = [];
            const ask = window.requestAnimationFrame.bind(window);
            window.requestAnimationFrame = (draw) => ask((now) => {
                const started = performance.now();
                draw(now);
                window.drawn.push(performance.now() - started);
            });
        }"""
    )
    page.locator("#lanes").hover()
    started = time.perf_counter()
    page.keyboard.down("Control")
    for _ in range(12):
        page.mouse.wheel(0, -100)
    page.keyboard.up("Control")
    for _ in range(6):
        page.mouse.wheel(0, 500)
    for key in ("ArrowRight",) * 4 + ("+",) * 6 + ("ArrowLeft",) * 4 + ("-",) * 10:
        page.keyboard.press(key)
    took = time.perf_counter() - started
    frames = page.evaluate("window.drawn")
    print(
        f"\n{len(frames)} frames in {took:.1f} s: median {statistics.median(frames):.1f} ms, longest {max(frames):.1f} ms"
    )
    assert len(frames) > 10
    assert statistics.median(frames) < 33


def test_search_through_all(record: dict[str, object], show: Callable[..., "Page"]) -> None:
    page = show(record)
    took = page.evaluate(
        """() => {
            const field = document.getElementById("search");
            field.value = "Task-77777";
            const started = performance.now();
            field.dispatchEvent(new Event("input"));
            return performance.now() - started;
        }"""
    )
    print(f"\na search through {TASKS} tasks: {took:.0f} ms")
    assert took < 500
    page.locator("#search").press("Enter")
    assert page.locator("#story h2").inner_text() == "Task-77777"
    assert page.locator("#found").inner_text() == "1 of 1"
