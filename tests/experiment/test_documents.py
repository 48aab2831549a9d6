"""The page on runs from Python is what happens: its blocks are run, one after the other."""

import re
import shutil

import pytest

from ..support.paths import ROOT
from ..support.shards import training_shards


@pytest.mark.process
def test_the_page_on_runs_from_python_runs(tmp_path, monkeypatch):
    training_shards(tmp_path, 66)
    shutil.move(tmp_path / "images" / "val" / "ant", tmp_path / "pictures")
    shutil.rmtree(tmp_path / "images")
    shutil.move(tmp_path / "pictures", tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "experiment.md").read_text(), re.DOTALL | re.MULTILINE)
    names = {"__name__": "notebook"}
    for block in blocks:
        exec(compile(block, "docs/experiment.md", "exec"), names)

    assert len(blocks) == 9
    assert (tmp_path / "runs" / "third" / "report.html").exists()
    assert repr(names["run"]).startswith("Run('runs/third', network='source', step=22 of 22)")
    assert {row["name"] for row in names["job"].table()} == {"norm=true", "norm=false"}
