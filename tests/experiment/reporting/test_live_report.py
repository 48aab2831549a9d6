"""The page of a run while it grows."""

import http.client
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ...support.browser import needs_browser, opened

pytestmark = pytest.mark.process


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
