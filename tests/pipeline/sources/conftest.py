"""What the tests of sources share."""

import pytest

from ...support import shapes


@pytest.fixture(scope="module")
def imagenet():
    return shapes.imagenet()
