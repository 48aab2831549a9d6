"""Figure 3: the kernels and their colours."""

import pytest
import torch
from alexprep.model.evaluation.figures import chroma, kernels


def test_chroma_is_none_of_grey_kernels_and_all_of_opposed_colours():
    grey = torch.rand(4, 1, 11, 11).expand(4, 3, 11, 11)
    red_and_cyan = torch.stack([torch.ones(4, 11, 11), -torch.ones(4, 11, 11) / 2, -torch.ones(4, 11, 11) / 2], 1)

    assert chroma(torch.cat([grey, red_and_cyan])) == pytest.approx([0.0, 1.0], abs=1e-6)
    assert len(chroma(grey, towers=1)) == 1


def test_the_second_towers_kernels_stand_below_the_firsts():
    weight = torch.zeros(4, 3, 2, 2)
    weight[2:, 0, 0, 0] = 1
    picture = kernels(weight, scale=1)
    assert picture.shape == (2 * 6 + 6, 2 * 6, 3)
    assert picture[:6].min() == 0
    assert picture[2, 2].tolist() == [0, 0, 0]
    assert picture[2 + 6 + 6, 2].tolist() == [255, 0, 0]
    assert kernels(weight, towers=1, scale=1).shape == (6, 4 * 6, 3)
