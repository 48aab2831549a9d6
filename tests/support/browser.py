"""Pages in a real browser."""

import shutil

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium here (apt-get install chromium)")


def opened(browser, address, **options):
    """A page, and what its console and its network said."""
    page, said = browser.new_page(**options), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith(("data:", "blob:", address)) else None)
    page.goto(address)
    page.wait_for_selector(".u-over")
    return page, said
