"""What the commands are tried on."""

import pytest

from ..support.shards import training_shards


@pytest.fixture(scope="session")
def data(shards):
    """64-pixel shards, on which a tiny network trains in a second."""
    return shards / "jpeg"


@pytest.fixture(scope="session")
def trained_on(tmp_path_factory):
    return training_shards(tmp_path_factory.mktemp("children"), 16)
