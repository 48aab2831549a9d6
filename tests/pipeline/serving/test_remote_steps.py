"""The same bits from servers as from shards."""

import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from alexprep.pipeline import DamagedRecord, DataError, Loader, Records, read_manifest
from alexprep.pipeline.addresses import Address
from alexprep.pipeline.serving.handlers import RequestHandler
from alexprep.pipeline.serving.remote_steps import ServerLeftOut
from alexprep.pipeline.serving.server import Service
from alexprep.pipeline.shards.stats import stats_for
from alexprep.pipeline.storage.flight_client import Servers
from hypothesis import given, settings
from hypothesis import strategies as st

from ...support.commands import command
from ...support.serving import CROP, FORMS, configs, the_same
from ...support.shards import damage, stream


@pytest.mark.process
@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["jpeg", "raw"]), st.sampled_from(FORMS), configs, st.integers(0, 50), st.integers(0, 3))
def test_batches_from_a_service_are_those_from_shards_to_the_last_bit(data, encoding, form, config, step, rank):
    """Whatever the options, the rank, and the step it begins at, epochs later too."""
    folder, location = data[encoding]
    local, served = (Loader(where, rank=rank % config["world_size"], form=form, **config) for where in (folder, location))
    for loader in (local, served):
        loader.load_state_dict({"step": step})

    assert len(local) == len(served)
    assert all(the_same(*pair) for pair in zip(stream(local, 3), stream(served, 3), strict=True))


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("views", "world_size"), [("ten", 1), ("center", 3)])
def test_an_evaluation_from_a_service_is_that_from_shards(data, encoding, form, views, world_size):
    """Every record once, in stored order, also in the last, smaller batch."""
    folder, location = data[encoding]
    for rank in range(world_size):
        local, served = (
            Loader(where, split="val", views=views, batch_size=7, crop=CROP, rank=rank, world_size=world_size, form=form)
            for where in (folder, location)
        )
        assert all(the_same(*pair) for pair in zip(local, served, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
@pytest.mark.parametrize("form", FORMS)
def test_a_gpu_makes_the_same_of_what_servers_send(data, encoding, form):
    """Of records to the last bit; of views and batches, which the server's CPU has decoded, within what nvJPEG's own inverse DCT may differ."""
    folder, location = data[encoding]
    local, served = (stream(Loader(where, device="gpu", batch_size=20, crop=CROP, form=form), 6) for where in (folder, location))
    for one, other in zip(local, served, strict=True):
        assert other.images.is_cuda
        assert one.records.equal(other.records)
        difference = (one.images - other.images).abs()
        assert difference.max() <= (0 if form == "records" else 1e-4 if encoding == "raw" else 8)


@pytest.mark.process
def test_a_run_on_served_data_is_the_run_on_the_folder(data, tmp_path):
    """alextrain run --data grpc://..., with views of half the bytes; the weights are the same to the last bit."""
    folder, location = data["jpeg"]
    options = ["--steps", "3", "--batch-size", "16", "--width", "0.05", "--crop", "64", "--set", "eval_batch_size=8"]
    local = command("alextrain", "run", folder, "--out", tmp_path / "local", *options)
    served = command("alextrain", "run", "--data", location, "--out", tmp_path / "served", "--set", "form=views", *options)
    assert (local.returncode, served.returncode) == (0, 0), served.stderr
    runs = [torch.load(tmp_path / name / "last.pt", weights_only=True)["model"] for name in ("local", "served")]

    assert served.stdout.splitlines()[:-1] == local.stdout.splitlines()[:-1]
    assert all(torch.equal(weight, runs[1][name]) for name, weight in runs[0].items())
    pictures = [(tmp_path / name / "report.html").read_text().count("data:image") for name in ("local", "served")]
    assert pictures[0] == pictures[1] > 10  # those of the data come from the servers too


@pytest.mark.process
@pytest.mark.parametrize(
    "in_child", ["next(iter(loader))", "Loader(where, batch_size=8, crop=48)", "next(iter(Loader(where, batch_size=4, crop=48)))"]
)
def test_a_loader_of_a_service_does_not_go_through_a_fork(data, in_child):
    """gRPC would hang there; nothing does."""
    program = f"""
        import os
        from alexprep.pipeline import DataError, Loader
        where = {data["jpeg"][1]!r}
        loader = Loader(where, batch_size=8, crop=48)
        child = os.fork()
        if not child:
            try:
                {in_child}
            except DataError as error:
                os._exit(" fork" in str(error))
            os._exit(2)
        raise SystemExit(os.waitpid(child, 0)[1] >> 8)
    """
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)], timeout=60, check=False).returncode == 1


@pytest.mark.process
@pytest.mark.parametrize("form", FORMS)
def test_damaged_records_are_named_or_passed_over_as_from_shards(data, tmp_path, form):
    copy = shutil.copytree(data["jpeg"][0], tmp_path / "shards")
    for record in (3, 30):
        damage(copy, record, 200)
    service = Service(RequestHandler(str(copy)), Address("127.0.0.1", 0))
    options = {"batch_size": 20, "crop": CROP, "form": form}
    with pytest.raises(DataError, match=r"damaged records; alexprep repair makes their shards again:\n  record (3|30) \("):
        stream(Loader(service.location, **options), 4)
    with pytest.warns(DamagedRecord) as of_served:
        served = stream(Loader(service.location, on_bad="skip", **options), 6)
    with pytest.warns(DamagedRecord) as of_local:
        local = stream(Loader(copy, on_bad="skip", **options), 6)
    service.drain(1)

    assert all(the_same(*pair) for pair in zip(served, local, strict=True))
    assert {str(warning.message) for warning in of_served} == {str(warning.message) for warning in of_local}


@pytest.mark.process
@pytest.mark.parametrize("form", FORMS)
def test_records_that_damage_has_made_a_few_bytes_long_are_passed_over_too(data, tmp_path, form):
    copy = shutil.copytree(data["jpeg"][0], tmp_path / "shards")
    records = Records(read_manifest(copy), "train")
    ends = np.cumsum([0, *(len(records.image(number)) for number in range(records.shards[0].rows))], dtype=np.int32)
    wrong = ends.copy()
    wrong[4] = wrong[3] + 5  # record 3 has five bytes; the rest of it belongs to record 4
    path = copy / records.shards[0].file
    content = path.read_bytes()
    assert content.count(ends.tobytes()) == 1
    path.write_bytes(content.replace(ends.tobytes(), wrong.tobytes()))
    service = Service(RequestHandler(str(copy)), Address("127.0.0.1", 0))
    options = {"batch_size": 20, "crop": CROP, "form": form, "on_bad": "skip"}
    with pytest.warns(DamagedRecord):
        served = stream(Loader(service.location, **options), 6)
    with pytest.warns(DamagedRecord):
        local = stream(Loader(copy, **options), 6)
    service.drain(1)

    assert all(the_same(*pair) for pair in zip(served, local, strict=True))


def test_statistics_of_ones_own_are_for_records_only(data):
    folder, location = data["jpeg"]
    raw = stats_for(read_manifest(data["raw"][0]), "train")
    expected = stream(Loader(folder, batch_size=8, crop=CROP, stats=raw), 2)

    assert all(the_same(*pair) for pair in zip(stream(Loader(location, batch_size=8, crop=CROP, stats=raw), 2), expected, strict=True))
    with pytest.raises(ValueError, match='need form="records"'):
        Loader(location, batch_size=8, crop=CROP, stats=raw, form="views")


@pytest.mark.process
def test_servers_of_other_shards_are_not_believed(data):
    """Named beside others, it is the first one asked that decides; alone, the message says why."""
    mixed = f"{data['jpeg'][1]},{data['raw'][1]}"
    for _ in range(4):
        loader = Loader(mixed, batch_size=8, crop=CROP)
        name = loader.records.manifest.config.encoding
        expected = stream(Loader(data[name][0], batch_size=8, crop=CROP), 20)
        with pytest.warns(ServerLeftOut, match="this server has another data set"):
            assert all(the_same(*pair) for pair in zip(stream(loader, 20), expected, strict=True))
        assert np.array_equal(loader.records.pixels(9), Records(read_manifest(data[name][0]), "train").pixels(9))

    loader = Loader(data["jpeg"][1], batch_size=8, crop=CROP)
    loader._source._servers = Servers(data["raw"][1])
    both = command("alexprep", "serve", "--status", mixed)
    assert both.returncode == 1
    assert "these servers have different data sets" in both.stderr
    with pytest.raises(DataError, match=rf"{data['raw'][1]}: this server has another data set"):
        stream(loader, 8)
