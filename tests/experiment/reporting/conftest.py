"""Runs whose pages are looked at, and the browser that looks."""

import pytest

from ...support.browser import BROWSER
from ...support.commands import TINY, called
from ...support.shards import training_shards


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Two finished runs on the same shards, the first with its figures drawn."""
    root = tmp_path_factory.mktemp("report")
    data = training_shards(root, 40)
    for seed in ("0", "1"):
        done = called("alextrain", "run", data, "--out", root / seed, "--epochs", "3", "--seed", seed, *TINY)
        assert done.returncode == 0, done.stderr
    assert called("alextrain", "figures", root / "0", "--queries", "2").returncode == 0
    assert called("alextrain", "report", root / "0", root / "1", "--out", root / "both.html").returncode == 0
    return root


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()
