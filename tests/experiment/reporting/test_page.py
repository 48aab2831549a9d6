"""The page of runs in a real browser: opened from the disk, hovered, switched."""

import re

import pytest

from ...support.browser import needs_browser, opened

pytestmark = pytest.mark.process


def test_a_page_needs_nothing_but_itself(runs):
    for name in ("0/report.html", "both.html"):
        page = (runs / name).read_text()
        assert page.startswith("<!doctype html>")
        assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page)
        assert not re.findall(r"@import|url\((?!data:)", page)
        assert len(page) < 2_500_000


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_from_the_disk_and_can_be_read_by_mouse_and_by_keyboard(runs, browser, scheme):
    page, said = opened(browser, f"file://{runs}/0/report.html", color_scheme=scheme)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert page.locator(".u-over").count() == 6

    page.locator(".u-over").first.hover()
    assert re.search(r"\d", page.locator(".plot .u-legend .u-value").nth(1).inner_text())
    page.locator(".plot").first.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert re.match(r"step \d+: training batch [\d.]+", page.locator("#reading").inner_text())
    page.locator("#log").uncheck()
    page.locator("#smoothing").fill("0.9")
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background
    assert page.locator(".u-over").count() == 6
    assert all(page.locator("img").evaluate_all("all => all.map((one) => one.complete && one.naturalWidth > 0)"))
    assert said == []


@needs_browser
def test_zooming_one_plot_zooms_all(runs, browser):
    page, said = opened(browser, f"file://{runs}/0/report.html")
    before = page.evaluate("document.querySelectorAll('canvas')[3].toDataURL()")
    page.locator(".plot").first.focus()
    page.keyboard.press("Home")
    page.keyboard.press("+")
    page.wait_for_function("before => document.querySelectorAll('canvas')[3].toDataURL() != before", arg=before)
    page.locator("#reset").click()
    page.wait_for_function("before => document.querySelectorAll('canvas')[3].toDataURL() == before", arg=before)
    assert said == []


@needs_browser
def test_the_kernels_play_and_the_runs_switch(runs, browser):
    page, said = opened(browser, f"file://{runs}/both.html")
    shown = page.locator("[data-run='0'] .kernels")
    last = shown.get_attribute("src")
    page.locator("[data-run='0'] .frames").fill("0")
    assert shown.get_attribute("src") != last
    assert "chroma tower 1" in page.locator("[data-run='0'] .frame").inner_text()

    assert page.locator("[data-run='1']").is_hidden()
    page.locator("[data-show='1']").click()
    assert page.locator("[data-run='1']").is_visible()
    assert page.locator("[data-run='0']").is_hidden()
    assert "seed" in page.locator("#configuration tr.differs").first.inner_text()
    page.emulate_media(media="print")
    assert page.locator("[data-run='0']").is_visible()
    assert said == []
