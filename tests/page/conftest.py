"""A headless Chromium for the tests of the page, and a way to open records in it."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from whilst._trace.page import page as make_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    """Debian's Chromium; Playwright's own is not downloaded."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium on the PATH (Debian: apt-get install chromium)")
    api = pytest.importorskip("playwright.sync_api", reason="there is no playwright (tests/requirements.txt)")
    # Its sandbox refuses to start for root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def complaints() -> Iterator[list[str]]:
    """What browsers say in their consoles; there must be none of it at the end."""
    complaints: list[str] = []
    yield complaints
    # The tests themselves look at pixels.
    assert not [text for text in complaints if "getImageData" not in text]


@pytest.fixture
def show(browser: "Browser", tmp_path: Path, complaints: list[str]) -> Iterator[Callable[..., "Page"]]:
    """Opens a record and waits for its first frame. No page may have asked for anything but itself."""
    contexts = []
    requests: list[str] = []

    def show(record: dict[str, Any], *, width: int = 1280, height: int = 800, **options: Any) -> "Page":
        file = tmp_path / f"page-{len(contexts)}.html"
        file.write_text(make_page(record), encoding="utf-8")
        context = browser.new_context(
            viewport={"width": width, "height": height}, reduced_motion="reduce", **options
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-ready]")
        return page

    yield show
    for context in contexts:
        context.close()
    assert not [url for url in requests if not url.startswith(("file://", "data:"))]
    assert len([url for url in requests if url.startswith("file://")]) == len(contexts)


@pytest.fixture
def functions(browser: "Browser") -> Iterator["Page"]:
    """An empty page with the functions of the viewer's parts as globals, but for what starts it."""
    import whilst._trace.page as module

    page = browser.new_page()
    page.add_script_tag(content="\n".join(module._part(name) for name in module.SCRIPTS if name != "main.js"))
    yield page
    page.close()
