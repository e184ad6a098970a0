"""A headless Chromium for the tests of the page, and a way to open records in it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from whilst._trace.page import page as make_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Error, Page, Request


# Playwright keeps a loop of asyncio running in this thread for as long as it is open, and no other test may meet it. (A folder
# without an `__init__.py` is no package, whose fixtures would last as long as the session.)
@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    pytest.importorskip("playwright.sync_api", reason="there is no playwright (tests/requirements.txt)")
    import chromium

    if chromium.PATH is None:
        pytest.skip(chromium.MISSING)
    with chromium.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def tab(browser: "Browser") -> Iterator["Page"]:
    """One for all tests: to make one takes longer than most of them."""
    page = browser.new_page()
    page.set_default_timeout(10_000)
    yield page
    page.close()


@pytest.fixture
def complaints() -> Iterator[list[str]]:
    """What the browser says in its console; there must be none of it at the end."""
    complaints: list[str] = []
    yield complaints
    # The tests themselves look at pixels.
    assert not [text for text in complaints if "getImageData" not in text]


@pytest.fixture
def show(tab: "Page", tmp_path: Path, complaints: list[str]) -> Iterator[Callable[..., "Page"]]:
    """Opens a record, or a page that is there, and waits for its first frame. No page may have asked for anything but itself."""
    opened: list[str] = []
    requests: list[str] = []

    def console(message: "ConsoleMessage") -> None:
        if message.type != "log":
            complaints.append(message.text)

    def failed(error: "Error") -> None:
        complaints.append(str(error))

    def request(request: "Request") -> None:
        requests.append(request.url)

    def show(
        record: dict[str, Any] | Path,
        *,
        width: int = 1280,
        height: int = 800,
        color_scheme: Literal["light", "dark"] = "light",
    ) -> "Page":
        if isinstance(record, Path):
            file = record
        else:
            file = tmp_path / f"page-{len(opened)}.html"
            file.write_text(make_page(record), encoding="utf-8")
        opened.append(file.as_uri())
        tab.set_viewport_size({"width": width, "height": height})
        tab.emulate_media(color_scheme=color_scheme, reduced_motion="reduce")
        tab.goto(file.as_uri())
        tab.wait_for_selector("html[data-ready]")
        return tab

    tab.on("console", console)
    tab.on("pageerror", failed)
    tab.on("request", request)
    yield show
    # The theme that a test has chosen is not the next one's.
    tab.evaluate("localStorage.clear()")
    tab.goto("about:blank")
    tab.remove_listener("console", console)
    tab.remove_listener("pageerror", failed)
    tab.remove_listener("request", request)
    # A set, for a test may load one again.
    assert {url for url in requests if not url.startswith(("data:", "about:"))} == set(opened)


@pytest.fixture
def functions(browser: "Browser") -> Iterator["Page"]:
    """An empty page with the functions of the viewer's parts as globals, but for what starts it."""
    import whilst._trace.page as module

    page = browser.new_page()
    page.add_script_tag(content="\n".join(module._part(name) for name in module.SCRIPTS if name != "main.js"))
    yield page
    page.close()
