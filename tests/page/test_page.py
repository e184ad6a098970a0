"""The page of a trace in a real browser: what it shows, how it is used by mouse and keyboard, and that nothing leaves it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import records
from whilst._trace.page import page as make_page

if TYPE_CHECKING:
    from playwright.sync_api import Page

Show = Callable[..., "Page"]


def span(page: "Page") -> tuple[float, float]:
    """The time that is seen, in µs."""
    lanes = page.locator("#lanes")
    return float(lanes.get_attribute("data-begin") or ""), float(lanes.get_attribute("data-end") or "")


def frame(page: "Page") -> None:
    """Waits until what was asked for has been drawn."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def colour(page: "Page", row: int, moment: float) -> str:
    """What is drawn in the middle of a row at a moment, as the name of the kind whose colour it is."""
    return str(
        page.evaluate(
            """([row, moment]) => {
                const lanes = document.getElementById("lanes");
                const at = document.querySelector(`[data-row="${row}"]`).getBoundingClientRect();
                const box = lanes.getBoundingClientRect();
                const { begin, end } = lanes.dataset;
                const x = ((moment - begin) / (end - begin)) * box.width;
                const y = at.top - box.top + at.height / 2;
                const context = lanes.getContext("2d");
                const pixel = Array.from(context.getImageData(Math.round(x), Math.round(y), 1, 1).data);
                const style = getComputedStyle(document.documentElement);
                for (const name of style) {
                    if (!name.startsWith("--kind-")) continue;
                    const number = parseInt(style.getPropertyValue(name).trim().slice(1), 16);
                    const other = [number >> 16, (number >> 8) & 255, number & 255];
                    if (other.every((value, index) => Math.abs(value - pixel[index]) < 3)) return name.slice(7);
                }
                return "";
            }""",
            [row, moment],
        )
    )


def row_of(page: "Page", text: str) -> int:
    return int(page.locator("#tree .row", has_text=text).first.get_attribute("data-row") or "")


def lane_point(page: "Page", row: int, moment: float) -> tuple[float, float]:
    """Where on the screen a row is at a moment."""
    begin, end = span(page)
    lanes = page.locator("#lanes").bounding_box()
    at = page.locator(f'[data-row="{row}"]').bounding_box()
    assert lanes and at
    return lanes["x"] + (moment - begin) / (end - begin) * lanes["width"], at["y"] + at["height"] / 2


def test_the_introduction_is_two_lanes_that_overlap(show: Show) -> None:
    page = show(records.introduction())
    longer, shorter = row_of(page, "Task-1"), row_of(page, "Task-2")
    assert page.locator("#tree .row .name", has_text="simulated_fetch").count() == 2
    # The one second lies within the two: both sleep in the middle of the first second, one in that of the other.
    assert [colour(page, row, 500_000) for row in (longer, shorter)] == ["sleep", "sleep"]
    assert [colour(page, row, 1_500_000) for row in (longer, shorter)] == ["sleep", ""]
    assert colour(page, longer, 2_001_260) == "run"
    assert page.locator("#facts").inner_text().startswith("2.00 s · 2 tasks")
    assert "up to 2 at once" in page.locator("#summary").inner_text()
    assert page.title() == "introduction.py — trace by whilst"


def test_a_trace_by_the_command_is_the_same_picture(show: Show, tmp_path: Path) -> None:
    """The example itself: the first second has both fetches asleep, the second one of them."""
    out = tmp_path / "trace.html"
    example = Path(__file__).parents[2] / "examples" / "introduction.py"
    subprocess.run([sys.executable, "-m", "whilst", "--trace", out, example], check=True, timeout=60)
    page = show(out)
    lanes = page.locator("#tree .row", has=page.get_by_text("simulated_fetch", exact=True))
    assert lanes.count() == 2
    rows = [int(lanes.nth(index).get_attribute("data-row") or "") for index in range(2)]
    # Python has started before, which takes its time.
    _, end = span(page)
    assert [colour(page, row, end - 1_500_000) for row in rows] == ["sleep", "sleep"]
    assert [colour(page, row, end - 500_000) for row in rows] == ["sleep", ""]
    lanes.nth(1).click()
    story = page.locator("#story").inner_text()
    assert "await asyncio.sleep(delay)" in story
    assert "slept 1.0" in story
    assert "introduction.py" in story


def test_a_click_tells_the_story_with_its_source_line(show: Show) -> None:
    page = show(records.introduction())
    page.mouse.click(*lane_point(page, row_of(page, "Task-2"), 700_000))
    story = page.locator("#story")
    text = story.inner_text()
    for part in ("Task-2", "simulated_fetch", "returned", "introduction.py:32 in main", "asyncio.gather("):
        assert part in text
    # What was clicked is the wait, and it is marked in the list of steps.
    current = story.locator(".steps .current").inner_text()
    assert "slept 1.00 s" in current
    assert "introduction.py:23 in simulated_fetch" in current
    assert "await asyncio.sleep(delay)" in current
    # The run of 30 µs is narrower than a pixel, and yet to be had.
    page.mouse.click(*lane_point(page, row_of(page, "Task-2"), 280))
    assert "ran for" in story.locator(".steps .current").inner_text()
    page.keyboard.press("Escape")
    assert story.is_hidden()
    assert page.locator("#summary").is_visible()


def test_the_pointer_tells_what_it_is_on(show: Show) -> None:
    page = show(records.introduction())
    page.mouse.move(*lane_point(page, row_of(page, "Task-1"), 1_500_000))
    tip = page.locator("#tip")
    tip.wait_for(state="visible")
    assert "slept 2.00 s" in tip.inner_text()
    assert "await asyncio.sleep(delay)" in tip.inner_text()


def test_links_lead_to_who_was_awaited_and_back(show: Show) -> None:
    page = show(records.shop())
    page.locator("#tree .row", has_text="order 2").click()
    story = page.locator("#story")
    story.locator(".steps .link", has_text="pay (Task-5)").click()
    assert story.locator("h2").inner_text() == "Task-5"
    assert "waited for a lock 138 ms" in story.inner_text()
    story.locator(".link", has_text="order 2").click()
    assert story.locator("h2").inner_text() == "order 2"
    page.keyboard.press("Backspace")
    assert story.locator("h2").inner_text() == "Task-5"


def test_every_end_is_told(show: Show) -> None:
    page = show(records.shop())
    for name, end in (
        ("order 1", "returned"),
        ("order 4", "raised PaymentRefused"),
        ("stock", "was cancelled"),
        ("metrics", "was still pending when the record ended"),
    ):
        page.locator("#tree .row", has=page.get_by_text(name, exact=True)).click()
        assert end in page.locator("#story .badge").inner_text(), name


def test_the_summary(show: Show) -> None:
    page = show(records.shop())
    summary = page.locator("#summary").inner_text()
    assert "15 tasks in 1.00 s" in summary
    assert "12 returned, 1 raised, 1 cancelled, 1 still pending" in summary.replace("\u202f", " ")
    assert "31\u00a0%" in summary
    holds = page.locator("h3:has-text('Longest holds') + table").inner_text()
    assert "52.0 ms" in holds.splitlines()[0]
    assert "Feed.data_received" in holds
    # The last to end was main; it waited for what it had gathered, of which stock_watch ended last, and then for a process.
    path = page.locator("#critical li").all_inner_texts()
    assert [next(line for line in step.splitlines() if "(" in line) for step in path] == [
        "main (Task-1)",
        "stock_watch (stock)",
        "main (Task-1)",
    ]
    page.locator("#critical .link", has_text="stock").click()
    assert page.locator("#story h2").inner_text() == "stock"


def test_zoom_and_pan_by_keys(show: Show) -> None:
    page = show(records.introduction())
    whole = span(page)
    for closer, farther in (("+", "-"), ("w", "s"), ("=", "-")):
        page.keyboard.press(closer)
        frame(page)
        begin, end = span(page)
        assert whole[0] < begin < end < whole[1], closer
        page.keyboard.press(farther)
        frame(page)
        assert span(page) == pytest.approx(whole), farther
    for _ in range(3):
        page.keyboard.press("+")
    frame(page)
    close = span(page)
    for later, earlier in (("ArrowRight", "ArrowLeft"), ("d", "a")):
        page.keyboard.press(later)
        frame(page)
        begin, end = span(page)
        assert begin > close[0], later
        assert end - begin == pytest.approx(close[1] - close[0])
        page.keyboard.press(earlier)
        frame(page)
        assert span(page) == pytest.approx(close), earlier
    for fit in ("0", "Home"):
        page.keyboard.press("+")
        page.keyboard.press(fit)
        frame(page)
        assert span(page) == pytest.approx(whole), fit


def test_zoom_and_pan_by_mouse(show: Show) -> None:
    page = show(records.introduction())
    whole = span(page)
    row = row_of(page, "Task-1")
    at = 500_000
    x, y = lane_point(page, row, at)
    page.mouse.move(x, y)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -400)
    page.keyboard.up("Control")
    frame(page)
    begin, end = span(page)
    assert end - begin < (whole[1] - whole[0]) * 0.9
    # What was under the pointer stays there.
    assert lane_point(page, row, at)[0] == pytest.approx(x, abs=2)
    page.mouse.down()
    page.mouse.move(x - 100, y, steps=4)
    page.mouse.up()
    frame(page)
    assert lane_point(page, row, at)[0] == pytest.approx(x - 100, abs=3)
    # A drag chooses nothing.
    assert page.locator("#story").is_hidden()
    # In the strip at the top it chooses a span.
    page.keyboard.press("0")
    box = page.locator("#overview").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 10, steps=4)
    page.mouse.up()
    frame(page)
    begin, end = span(page)
    assert begin == pytest.approx(0.5e6, abs=2e4)
    assert end == pytest.approx(1e6, abs=2e4)
    assert " ms from " in page.locator("#range").inner_text()


def test_search(show: Show) -> None:
    page = show(records.shop())
    page.keyboard.press("/")
    search = page.locator("#search")
    assert search.evaluate("field => field === document.activeElement")
    found = page.locator("#found")
    for text, count in (
        ("order 3", "1"),
        ("stock_watch", "2"),  # itself, and main, which gathers it in a line with its name
        ("app.py:39", "6"),
        ("READER.READLINE", "6"),
        ("nothing like it", "0"),
        ("", ""),
    ):
        search.fill(text)
        assert found.inner_text() == count, text
    search.fill("pay")
    heading = page.locator("#story h2")
    search.press("Enter")
    first = heading.inner_text()
    assert found.inner_text().startswith("1 of ")
    search.press("Enter")
    assert found.inner_text().startswith("2 of ")
    assert heading.inner_text() != first
    search.press("Shift+Enter")
    assert heading.inner_text() == first
    # Keys of the page are letters here.
    before = span(page)
    search.press("w")
    frame(page)
    assert search.input_value() == "payw"
    assert span(page) == before
    search.press("Escape")
    assert search.input_value() == ""


def test_the_tree_by_keyboard(show: Show) -> None:
    page = show(records.shop())
    tree = page.locator("#tree")
    tree.focus()

    def current() -> "Any":
        frame(page)
        return page.locator(f"#{tree.get_attribute('aria-activedescendant')}")

    for _ in range(20):
        page.keyboard.press("ArrowDown")
        if "main" in current().inner_text():
            break
    assert current().get_attribute("aria-expanded") == "true"
    level = int(current().get_attribute("aria-level"))
    page.keyboard.press("ArrowRight")
    assert "order 1" in current().inner_text()
    assert int(current().get_attribute("aria-level")) == level + 1
    assert current().get_attribute("aria-selected") == "true"
    page.keyboard.press("Enter")
    assert page.locator("#story h2").inner_text() == "order 1"
    page.keyboard.press("ArrowLeft")
    assert current().get_attribute("aria-expanded") == "false"
    page.keyboard.press("ArrowLeft")
    assert "main" in current().inner_text()
    page.keyboard.press("ArrowLeft")
    frame(page)
    assert page.locator("#tree .row", has_text="order 2").count() == 0
    # A search opens what it is under.
    page.keyboard.press("/")
    page.keyboard.type("order 2")
    page.keyboard.press("Enter")
    frame(page)
    assert page.locator("#tree .row.hit", has_text="order 2").count() == 1


def test_steps_by_keyboard(show: Show) -> None:
    page = show(records.introduction())
    page.locator("#tree .row", has_text="Task-1").click()
    steps = []
    for _ in range(3):
        page.keyboard.press(".")
        steps.append(page.locator("#story .steps .current .link").first.inner_text())
    assert steps == ["ran for 50 µs", "slept 2.00 s", "ran for 100 µs"]
    page.keyboard.press(",")
    assert page.locator("#story .steps .current .link").first.inner_text() == "slept 2.00 s"


def test_many_siblings_are_a_group_of_lanes(show: Show) -> None:
    page = show(records.many(2_000))
    group = page.locator("#tree .row", has_text="handle")
    assert "1\u202f999" in group.inner_text()
    assert group.get_attribute("aria-expanded") == "false"
    group.click()
    frame(page)
    assert group.get_attribute("aria-expanded") == "true"
    lanes = page.locator("#tree .row", has_text="tasks")
    # Only those that are seen have elements.
    assert 5 < lanes.count() < 40
    page.mouse.click(*lane_point(page, int(lanes.nth(2).get_attribute("data-row") or ""), 100_000))
    assert "handle" in page.locator("#story").inner_text()
    # The awaits of a task that shares its lane with others.
    assert "line = await reader.readline()" in page.locator("#story").inner_text()


@pytest.mark.parametrize(("scheme", "dark"), [("dark", True), ("light", False)])
def test_dark_and_light(show: Show, scheme: str, dark: bool) -> None:
    page = show(records.introduction(), color_scheme=scheme)

    def is_dark() -> bool:
        frame(page)
        assert colour(page, row_of(page, "Task-1"), 500_000) == "sleep"
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in ground.strip("rgb()").split(",")) < 200

    assert is_dark() is dark
    page.keyboard.press("t")
    assert is_dark() is not dark
    # It is remembered.
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert is_dark() is not dark
    page.locator("#theme").click()
    assert is_dark() is dark


def test_what_was_dropped_is_said(show: Show) -> None:
    assert show(records.introduction()).locator("#notice").is_hidden()
    notice = show(records.introduction(dropped=12_345, dropped_tasks=1)).locator("#notice")
    assert notice.is_visible()
    assert "12\u202f345 events and 1 task of the beginning were dropped" in notice.inner_text()


def test_time_of_which_events_were_dropped_does_not_look_busy(show: Show) -> None:
    """The loop polled then too, but that is what was dropped."""
    record = records.Record(dropped=10, utilisation=0.125)
    task = record.task("old", 0, 1000)
    record.run(task, 800, 900)
    record.poll(900, 1000)
    page = show(record.finish(1000))
    assert "13\u00a0%" in page.locator("#tree .row", has_text="Loop busy").inner_text()
    assert "What is shown begins after 800" in page.locator("#notice").inner_text()


HOSTILE = (
    "</script><img src=x onerror=\"document.title='owned'\">",
    "<!--<script>",
    "@@SCRIPT@@",
    "]]>&lt;b&gt;\u2028\u202e\udc80",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_the_program_stays_text(show: Show, text: str) -> None:
    record = records.Record(f"/tmp/{text}.py")
    place = record.place(f"/tmp/{text}.py", 1, text, text)
    task = record.task(text, 0, 1000, name=text, place=place, made_at=place, outcome="raised", error=text)
    record.run(task, 0, 100)
    record.wait(task, text, 100, 900, place, stack=[place, place])
    record.callback(text, 900, 1000, place)
    record.transport("tcp", text, 0, 1000)
    page = show(record.finish(1000))
    shown = text.replace("\udc80", "\ufffd") if page.evaluate("'\\udc80'") == "\ufffd" else text
    page.locator("#tree [data-task='0']").click()
    heading = page.evaluate("document.querySelector('#story h2').textContent")
    assert heading.encode("utf-16", "replace") == shown.encode("utf-16", "replace")
    page.mouse.move(*lane_point(page, row_of(page, "Callbacks"), 950))
    assert page.locator("img").count() == 0
    assert page.title() != "owned"
    assert page.locator("script").count() == 1  # the record's element is removed when it has been read


def test_the_policy_admits_the_page_itself_and_nothing_else(show: Show, complaints: list[str]) -> None:
    source = make_page(records.introduction())
    policy = source.split('http-equiv="Content-Security-Policy" content="')[1].split('"')[0]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "http://" not in source.split('id="record"')[0]
    page = show(records.introduction())
    # Were markup ever to get in, its handlers would not run.
    ran = page.evaluate(
        """new Promise((done) => {
            window.ran = false;
            document.addEventListener("securitypolicyviolation", () => done(window.ran), { once: true });
            const holder = document.createElement("div");
            holder.innerHTML = '<button onclick="window.ran = true"></button>';
            document.body.append(holder);
            holder.firstChild.click();
            setTimeout(() => done("no violation"), 3000);
        })"""
    )
    assert ran is False
    assert "inline event handler" in complaints.pop()


def test_help(show: Show) -> None:
    page = show(records.introduction())
    page.keyboard.press("?")
    dialog = page.locator("#help")
    assert dialog.is_visible()
    assert "search" in dialog.inner_text()
    page.keyboard.press("Escape")
    assert dialog.is_hidden()


def test_a_narrow_window(show: Show) -> None:
    page = show(records.shop(), width=420, height=800)
    for part in ("#search", "#lanes", "#panel", "#legend"):
        box = page.locator(part).bounding_box()
        assert box, part
        assert box["x"] >= 0 and box["x"] + box["width"] <= 420, part
        assert box["y"] + box["height"] <= 800, part
        assert box["height"] > 10, part


def test_everything_can_be_reached_by_tab_and_has_a_name(show: Show) -> None:
    page = show(records.shop())
    names = []
    for _ in range(60):
        page.keyboard.press("Tab")
        at = page.evaluate(
            """(() => {
                const on = document.activeElement;
                return [on.id, on.getAttribute("aria-label") || on.getAttribute("aria-labelledby") || on.textContent.trim()];
            })()"""
        )
        assert at[1], at
        names.append(at[0])
    for part in (
        "search",
        "zoom-in",
        "fit",
        "theme",
        "help-open",
        "tree",
        "lanes",
        "divider",
        "tab-summary",
        "summary",
    ):
        assert part in names, part
    # In the order in which they are seen.
    assert (
        names.index("search")
        < names.index("zoom-out")
        < names.index("tree")
        < names.index("lanes")
        < names.index("summary")
    )


def test_a_record_without_anything(show: Show) -> None:
    page = show(records.Record().finish(0))
    assert "0 tasks" in page.locator("#facts").inner_text()
    page.keyboard.press("+")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    frame(page)


def test_tasks_that_wait_for_each_other(show: Show) -> None:
    """A deadlock has no critical path without an end."""
    record = records.Record()
    one = record.task("one", 0, 1000, outcome="cancelled")
    two = record.task("two", 0, 1000, outcome="cancelled")
    record.wait(one, "task", 10, 1000, on=two)
    record.wait(two, "task", 10, 1000, on=one)
    page = show(record.finish(1000))
    assert page.locator("#critical li").count() >= 1


def test_keys_in_quick_succession_add_up(show: Show) -> None:
    """With motion each is on its way while the next one comes."""
    page = show(records.introduction())
    page.emulate_media(reduced_motion="no-preference")
    begin, end = span(page)
    for _ in range(5):
        page.keyboard.press("+")
    assert rest(page) == pytest.approx((end - begin) * 0.6**5)
    page.locator("#tree .row", has_text="Task-1").click()
    for _ in range(3):
        page.keyboard.press(".")
    rest(page)
    # The third step, a run at the very end.
    begin, end = span(page)
    assert begin > 2_001_000
    assert end < 2_002_000


def rest(page: "Page") -> float:
    """Waits until nothing moves; how much time is seen then, in µs."""
    frame(page)
    page.wait_for_selector("#lanes:not([data-moving])")
    begin, end = span(page)
    return end - begin


def test_zoom_and_pan_by_touch(show: Show) -> None:
    page = show(records.introduction())
    row = row_of(page, "Task-1")
    touch = page.context.new_cdp_session(page)

    def fingers(kind: str, *xs: float) -> None:
        points = [{"x": x, "y": y, "id": number} for number, x in enumerate(xs)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    begin, end = span(page)
    x, y = lane_point(page, row, 500_000)
    other, _ = lane_point(page, row, 1_000_000)
    fingers("touchStart", x)
    fingers("touchStart", x, other)
    for step in range(1, 6):
        fingers("touchMove", x, other + 20 * step)
    fingers("touchEnd")
    frame(page)
    close = span(page)
    assert close[1] - close[0] == pytest.approx((end - begin) * (other - x) / (other + 100 - x), rel=0.02)
    # The finger that was still holds what it was on.
    assert lane_point(page, row, 500_000)[0] == pytest.approx(x, abs=3)
    fingers("touchStart", x)
    for step in range(1, 6):
        fingers("touchMove", x - 20 * step)
    fingers("touchEnd")
    frame(page)
    assert lane_point(page, row, 500_000)[0] == pytest.approx(x - 100, abs=25)
    touch.detach()
