"""Classes, confusions, mistakes and calibration are counted."""

import pytest
import torch
from alexprep.model.evaluation.analysis import by_class, calibration, confusions, worst_mistakes
from hypothesis import given, settings
from hypothesis import strategies as st

from ...support.predictions import predictions

SIX = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7], [0.45, 0.4, 0.15]]


LABELS = [0, 0, 0, 1, 2, 1]


def test_classes_confusions_and_mistakes_are_counted():
    found = predictions(SIX, LABELS)
    rows = {row.label: row for row in by_class(found)}

    assert (rows[0].count, rows[0].top1_error, rows[0].taken_for) == (3, pytest.approx(1 / 3), 1)
    assert (rows[1].count, rows[1].top1_error, rows[1].taken_for) == (2, 0.5, 0)
    assert (rows[2].top1_error, rows[2].taken_for) == (0.0, None)
    assert [(pair.label, pair.predicted, pair.count) for pair in confusions(found)] == [(0, 1, 1), (1, 0, 1)]
    assert confusions(found)[0].share == pytest.approx(1 / 3)
    assert worst_mistakes(found, 9) == [1, 5]  # the surest first


def test_calibration_compares_what_is_said_with_what_is_true():
    found = predictions(SIX, LABELS)
    result = calibration(found, bins=2)
    # (0, 0.5]: probabilities 0.5 and 0.45, one of two right; (0.5, 1]: 0.7 0.8 0.6 0.7, three of four right
    low, high = result.bins

    assert (low.count, low.confidence, low.accuracy) == (2, pytest.approx(0.475), 0.5)
    assert (high.count, high.confidence, high.accuracy) == (4, pytest.approx(0.7), 0.75)
    assert result.error == pytest.approx((0.025 * 2 + 0.05 * 4) / 6)


@given(st.integers(2, 7), st.integers(1, 40), st.integers(0, 10**6))
@settings(deadline=None, max_examples=40)
def test_the_parts_add_up_to_the_whole(classes, count, seed):
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(count, classes, generator=generator).softmax(1)
    labels = torch.randint(0, classes, (count,), generator=generator)
    found = predictions(p, labels)
    result, rows = found.evaluation(), by_class(found)

    assert sum(row.count for row in rows) == count
    assert sum(row.top1_error * row.count for row in rows) == pytest.approx(result.top1_error * count)
    assert sum(pair.count for pair in confusions(found)) == round(result.top1_error * count)
    assert sum(one.count for one in calibration(found).bins) == count
    low, high = result.intervals()["top1_interval"]
    assert low <= result.top1_error <= high
