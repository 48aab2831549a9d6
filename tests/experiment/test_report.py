"""The page of runs, in a real browser: opened from the disk, hovered, switched, and served while a run grows."""

import dataclasses
import http.client
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from alexprep.model.events import from_row
from alexprep.model.report.report import Picture, RunView, curve_data, render

from ..support.commands import TINY, called
from ..support.shards import training_shards

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium here (apt-get install chromium)")


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


def opened(browser, address, **options):
    """A page, and what its console and its network said."""
    page, said = browser.new_page(**options), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith(("data:", "blob:", address)) else None)
    page.goto(address)
    page.wait_for_selector(".u-over")
    return page, said


def steps(count, every=1):
    rng = np.random.default_rng(0)
    start = {
        "event": "start",
        "step": 0,
        "ranks": 1,
        "classes": 1000,
        "parameters": 1,
        "multiply_adds": 1,
        "settings": {"lr": 0.01},
        "versions": {},
        "device": "x",
    }
    noise = rng.random((count, 2)).tolist()
    row = {"event": "step", "epoch": 1, "lr": 0.01, "images_per_s": 1000.0, "wait_share": 0.01}
    rows = [start, *(row | {"step": every * (i + 1), "loss": 1 + a, "error": b} for i, (a, b) in enumerate(noise))]
    return [from_row(row) for row in rows]


def test_a_page_needs_nothing_but_itself(runs):
    for name in ("0/report.html", "both.html"):
        page = (runs / name).read_text()
        assert page.startswith("<!doctype html>")
        assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page)
        assert not re.findall(r"@import|url\((?!data:)", page)
        assert len(page) < 2_500_000


def test_what_a_run_has_kept_is_on_its_page(runs):
    page = (runs / "0" / "report.html").read_text()
    for heading in ("Figure 3", "Figure 4: what it sees", "Figure 4: nearest training images", "Calibration", "What training sees", "Configuration"):
        assert heading in page
    assert "they do not apply to other data" in page  # ten classes are not to be compared with the paper's
    assert page.count(" (the true class)") == 8  # of two classes, the true one is always among the five best
    assert "top " in page
    assert "R, G, B " in page


def test_the_paper_s_band_stands_beside_a_result_on_a_thousand_classes():
    result = {"event": "result", "step": 9, "views": 10, "count": 50_000, "top1_error": 0.406, "top5_error": 0.19, "loss": 1.8}
    page = render([RunView("x", [*steps(3), from_row(result)])])
    assert "the paper, on ILSVRC-2012: 40.7 ± 0.3 %, within the band" in page
    assert "the paper, on ILSVRC-2012: 18.2 ± 0.2 %<" in page.replace("\n", "")


def test_names_from_the_data_cannot_run_in_the_page():
    evil = '</script><script>alert("x")</script>'
    image = np.zeros((8, 8, 3), np.uint8)
    picture = Picture(image, evil, (evil,), ((evil, 0.5, True),))
    first, *rest = steps(3)
    rows = [dataclasses.replace(first, settings={evil: evil}), *rest]
    page = render([RunView(evil, rows, facts={evil: evil}, marks=((1, evil),), guesses=(picture,), confused=((evil, (picture,)),), notes=(evil,))])
    assert "<script>alert" not in page


def test_a_hundred_thousand_rows_stay_small_and_whole():
    rows = steps(100_000, every=10)
    data = curve_data([RunView("long", rows)])["runs"][0]
    assert data["steps"] == [[10, 10, 100_000]]
    assert data["averaged"] == 1
    assert len(render([RunView("long", rows)])) < 5_000_000
    two = curve_data([RunView("long", rows), RunView("longer", steps(100_000))])
    assert [run["averaged"] for run in two["runs"]] == [2, 2]


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
    page.wait_for_timeout(100)
    assert page.evaluate("document.querySelectorAll('canvas')[3].toDataURL()") != before
    page.locator("#reset").click()
    page.wait_for_timeout(100)
    assert page.evaluate("document.querySelectorAll('canvas')[3].toDataURL()") == before
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


class Watched:
    """`alextrain watch` on a free port."""

    def __init__(self, *arguments):
        program = [Path(sys.executable).parent / "alextrain", "watch", "--port", "0", *map(str, arguments)]
        self.process = subprocess.Popen(program, stderr=subprocess.PIPE, text=True)
        self.address = re.match(r"(http://127\.0\.0\.1:(\d+)/)", self.process.stderr.readline())
        self.port = int(self.address[2])

    def get(self, path, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(20) == 130
        self.process.stderr.close()


def grown(folder, more):
    """The rows of one more evaluation."""
    row = json.loads(next(line for line in (folder / "metrics.jsonl").read_text().splitlines() if '"step", ' in line and '"event": "step"' in line))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row | {"step": more}) + "\n")


def test_watch_answers_on_loopback_only_and_only_what_is_its_own(runs, tmp_path):
    shutil.copytree(runs / "0", tmp_path / "run")
    with Watched(tmp_path / "run") as watched:
        status, headers, body = watched.get("/data.json")
        assert status == 200
        assert json.loads(body)["runs"][0]["steps"] == [[1, 1, 18]]
        assert watched.get("/data.json", **{"If-None-Match": headers["ETag"]})[0] == 304
        grown(tmp_path / "run", 19)
        assert json.loads(watched.get("/data.json", **{"If-None-Match": headers["ETag"]})[2])["runs"][0]["steps"] == [[1, 1, 19]]
        assert watched.get("/data.json", Host="evil.example")[0] == 403
        for path in ("/last.pt", "/../config.toml", "/%2e%2e/config.toml", "//etc/passwd"):
            assert watched.get(path)[0] == 404
        listening = Path(f"/proc/{watched.process.pid}/net/tcp").read_text()
        assert f"0100007F:{watched.port:04X}" in listening
        assert f"00000000:{watched.port:04X}" not in listening


@needs_browser
def test_the_watched_page_grows_while_it_is_open(runs, tmp_path, browser):
    shutil.copytree(runs / "0", tmp_path / "run")
    with Watched(tmp_path / "run") as watched:
        page, said = opened(browser, f"http://127.0.0.1:{watched.port}/")
        page.get_by_text("live, step 18").wait_for()
        grown(tmp_path / "run", 400)
        page.get_by_text("live, step 400").wait_for()
        assert said == []


def test_watch_says_what_is_wrong_with_a_run_and_goes_on(runs, tmp_path):
    shutil.copytree(runs / "0", tmp_path / "run")
    good = (tmp_path / "run" / "config.toml").read_text()
    with Watched(tmp_path / "run") as watched:
        (tmp_path / "run" / "config.toml").write_text("no toml")
        status, _, body = watched.get("/")
        assert status == 500
        assert b"is not TOML" in body
        (tmp_path / "run" / "config.toml").write_text(good)
        assert watched.get("/")[0] == 200


def test_runs_are_told_apart_by_as_much_of_their_names_as_it_takes(runs, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(runs / "0", tmp_path / name / "seed-0")
    assert called("alextrain", "report", tmp_path / "a" / "seed-0", tmp_path / "b" / "seed-0", "--out", tmp_path / "x.html").returncode == 0
    page = (tmp_path / "x.html").read_text()
    assert '"name":"a/seed-0"' in page
    assert '"name":"b/seed-0"' in page


def test_rows_that_cannot_be_are_passed_over(runs, tmp_path):
    shutil.copytree(runs / "0", tmp_path / "run")
    step = {"event": "step", "step": 99, "epoch": 9, "loss": 1.0, "error": 0.5, "lr": 0.1, "images_per_s": 1.0, "wait_share": 0.0}
    result = {"event": "result", "step": 9, "views": 10, "count": 5, "top1_error": 0.5, "top5_error": 0.1, "loss": 1.0}
    strange = [step | {"loss": 10**400}, step | {"error": "x"}, step | {"lr": float("nan")}, step | {"step": -1}, result | {"top1_error": 2.0}]
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write("[" * 200_000 + "\n" + "".join(json.dumps(row) + "\n" for row in strange))
    done = called("alextrain", "report", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "run" / "report.html").read_text()
    assert '"steps":[[1,1,18]]' in page
    assert "NaN" not in re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1]


def test_one_damaged_part_of_a_run_costs_only_its_section(runs, tmp_path):
    shutil.copytree(runs / "0", tmp_path / "run")
    for content in ("[]", '{"plan": 1}', "no"):
        (tmp_path / "run" / "neighbours.json").write_text(content)
        assert called("alextrain", "report", tmp_path / "run").returncode == 0
        page = (tmp_path / "run" / "report.html").read_text()
        assert "Something is left out: " in page
        assert "Worst mistakes" in page or "Calibration" in page


def test_a_page_of_a_run_whose_data_is_gone_says_so(runs, tmp_path):
    shutil.copytree(runs / "0", tmp_path / "run")
    text = (tmp_path / "run" / "metrics.jsonl").read_text().replace(str(runs / "shards"), "/nowhere/shards")
    (tmp_path / "run" / "metrics.jsonl").write_text(text)
    assert called("alextrain", "report", tmp_path / "run").returncode == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "No images are shown: " in page
    assert "/nowhere/shards" in page
    assert 'id="plots"' in page
    assert called("alextrain", "report", tmp_path / "run", "--data", "/nowhere").returncode == 1
    assert called("alextrain", "report", tmp_path / "run", "--data", runs / "shards").returncode == 0
    assert "What training sees" in (tmp_path / "run" / "report.html").read_text()


def test_the_kernels_of_a_run_are_kept_on_the_way_and_gone_steps_are_forgotten(runs):
    names = sorted(int(path.stem.removeprefix("step-")) for path in (runs / "0" / "kernels").iterdir())
    assert names[0] == 0
    assert names[-1] == 18
    assert len(names) >= 3
