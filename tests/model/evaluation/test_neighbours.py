"""Last hidden vectors, and the nearest of them."""

import pytest
import torch
from alexprep.model.errors import TrainingError
from alexprep.model.evaluation.neighbours import features, nearest
from alexprep.model.networks.alexnet import AlexNet
from alexprep.model.networks.cifar import FourLayers
from hypothesis import given, settings
from hypothesis import strategies as st


def test_features_are_what_fc8_is_given():
    torch.manual_seed(0)
    model = AlexNet("source", classes=4, width=0.1, crop=64).eval()
    images = torch.randn(3, 3, 64, 64) * 50
    ((values, labels, records),) = features(model, [(images, torch.arange(3), torch.arange(3) + 5)])
    with torch.no_grad():
        assert torch.allclose(model.fc8(values), model(images), atol=1e-6)
    assert labels.tolist() == [0, 1, 2]
    assert records.tolist() == [5, 6, 7]
    with pytest.raises(TrainingError, match="no fc8"):
        next(features(FourLayers(), [(images, labels, records)]))


@given(st.integers(1, 5), st.integers(1, 60), st.integers(1, 8), st.integers(1, 13), st.integers(0, 10**6))
@settings(deadline=None, max_examples=40)
def test_the_nearest_are_found_whatever_the_blocks(queries, count, wanted, block, seed):
    generator = torch.Generator().manual_seed(seed)
    base = torch.randint(0, 3, (count, 2), generator=generator).float()  # many equal distances
    asked = torch.randint(0, 3, (queries, 2), generator=generator).float()
    order = torch.randperm(count, generator=generator)
    blocks = [(base[part], torch.zeros(len(part)), part) for part in order.split(block)]
    found = nearest(asked, blocks, wanted)
    for i in range(queries):
        all_of_them = sorted((float((asked[i] - base[j]).double().norm()), j) for j in range(count))[:wanted]
        assert found.records[i].tolist() == [j for _, j in all_of_them]
        assert found.distances[i].tolist() == pytest.approx([d for d, _ in all_of_them])
