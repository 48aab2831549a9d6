"""The page of runs, from what they have kept: whole, small, and nobody else's code in it."""

import dataclasses

import numpy as np
import pytest
from alexprep.model.events import from_row
from alexprep.model.report.report import Picture, RunView, curve_data, render


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


@pytest.mark.process
def test_a_hundred_thousand_rows_stay_small_and_whole():
    rows = steps(100_000, every=10)
    data = curve_data([RunView("long", rows)])["runs"][0]
    assert data["steps"] == [[10, 10, 100_000]]
    assert data["averaged"] == 1
    assert len(render([RunView("long", rows)])) < 5_000_000
    two = curve_data([RunView("long", rows), RunView("longer", steps(100_000))])
    assert [run["averaged"] for run in two["runs"]] == [2, 2]
