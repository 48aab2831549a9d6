"""HOST:PORT, as people write it."""

from pathlib import Path

import pytest
from alexprep.pipeline import DataError
from alexprep.pipeline.addresses import Address
from alexprep.pipeline.storage.flight_client import locations
from alexprep.pipeline.storage.uri import location


@pytest.mark.parametrize("text", ["", "8815", "host", "host:", "host:99999", "host:x", "host:²", ":1", "a/b:1"])
def test_addresses_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match="HOST:PORT"):
        Address.parse(text)
    with pytest.raises(DataError, match="is not a server address"):
        locations(f"grpc://{text}")


def test_addresses_are_read_as_people_write_them():
    assert locations("grpc://a:1, b:2,grpc://a:1") == ["grpc://a:1", "grpc://b:2"]
    assert locations("grpc+tls://[::1]:5") == ["grpc+tls://[::1]:5"]
    assert locations(str(location(Path("grpc://a:1,grpc://b:2")))) == ["grpc://a:1", "grpc://b:2"]
    assert str(Address.parse("[::1]:5")) == "[::1]:5"
    assert Address.parse("127.9.9.9:1").loopback
    assert not Address.parse("10.0.0.1:1").loopback


@pytest.mark.parametrize(
    ("text", "here"),
    [("127.0.0.1:1", True), ("127.9.9.9:1", True), ("[::1]:1", True), ("localhost:1", True), ("10.0.0.1:1", False), ("me.local:1", False)],
)
def test_no_name_is_looked_up_to_tell_whether_an_address_is_here(text, here):
    assert Address.parse(text).stays_here is here
