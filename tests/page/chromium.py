"""Debian's Chromium, for the tests of the page and for ``scripts/screenshot``; Playwright's own is not downloaded."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

PATH = shutil.which("chromium")
MISSING = "there is no chromium on the PATH (Debian: apt-get install chromium)"


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser without a window, for as long as the context lasts."""
    # Its sandbox refuses to start for root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PATH, args=arguments)
        yield browser
        browser.close()
