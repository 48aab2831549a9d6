"""The part of a tensor that each rank holds."""

import pytest
import torch
from alexprep.model.networks.partition import Partition


@pytest.mark.parametrize(("units", "of"), [(5, 2), (6, 2), (1000, 3), (2, 4)])
def test_the_rows_of_all_parts_are_the_whole(units, of):
    whole = torch.randn(units, 3)
    parts = [Partition(index, of).rows(whole) for index in range(of)]

    assert len({part.shape for part in parts}) == 1
    assert torch.equal(torch.cat(parts)[:units], whole)
    assert not torch.cat(parts)[units:].any()
