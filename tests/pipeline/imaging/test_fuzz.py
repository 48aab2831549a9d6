"""The kept corpus and a minute of inputs made from it break no law of decoding (tests/support/fuzz.py says which)."""

import io
import os
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg
from alexprep.pipeline.errors import UndecodableImage
from alexprep.pipeline.imaging import codec
from alexprep.pipeline.imaging.codec import decode, decode_record, square, without_metadata
from PIL import Image, PngImagePlugin

from ...support import fuzz
from ...support.images import jpeg, picture
from ...support.paths import ROOT

SECONDS = os.environ.get("ALEXPREP_FUZZ_SECONDS", "60")


@pytest.mark.parametrize("path", sorted(fuzz.CORPUS.iterdir()), ids=lambda path: path.name)
def test_the_corpus_breaks_no_law(path):
    assert fuzz.broken_law(path.read_bytes(), fuzz.engines()) is None


@pytest.mark.process
def test_inputs_made_from_the_corpus_break_no_law(tmp_path):
    command = [sys.executable, "-m", "tests.support.fuzz", "--seconds", SECONDS, "--found", tmp_path]
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    assert run.returncode == 0, run.stdout
    assert int(run.stdout.split()[0]) > 100


def test_the_fuzzer_finds_a_decoder_that_raises_something_else(monkeypatch, tmp_path):
    def raises(_):
        raise OverflowError("as no decoder should")

    monkeypatch.setattr(codec, "decode", raises)
    monkeypatch.setattr(codec, "square", lambda data, size: codec.Square(codec.decode(data), size, size))
    _, broken = fuzz.run(60, 1, tmp_path, count=5)

    assert broken
    assert "OverflowError: as no decoder should" in broken[0]


@pytest.mark.parametrize("name", ["huffman-all-ones.jpg", "jfif-2.jpg", "profile-cut.jpg"])
def test_what_libjpeg_refuses_or_warns_of_is_no_record_by_any_build(name):
    data = (fuzz.CORPUS / name).read_bytes()

    with pytest.raises(ValueError, match=r"Bogus Huffman|unknown JFIF|bad ICC"):
        simplejpeg.decode_jpeg(data, strict=True)
    for module in fuzz.engines().values():
        with fuzz.Engine(module), pytest.raises(UndecodableImage):
            decode_record(data)


def test_sampling_that_a_binding_does_not_know_is_decoded_as_by_opencv():
    data = (fuzz.CORPUS / "441.jpg").read_bytes()
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)

    with pytest.raises(KeyError):
        simplejpeg.decode_jpeg_header(data)
    assert np.array_equal(decode(data), expected)


def test_an_unforeseen_exception_of_a_decoder_quarantines_the_one_image(tmp_path, monkeypatch):
    (tmp_path / "src/a").mkdir(parents=True)
    for number in range(3):
        (tmp_path / f"src/a/{number}.jpg").write_bytes(jpeg(picture(number), progressive=True))
    bad = jpeg(picture(9), progressive=True)
    (tmp_path / "src/a/bad.jpg").write_bytes(bad)
    usual = codec.decode

    def broken(data):
        if data == bad:
            raise KeyError(6)
        return usual(data)

    monkeypatch.setattr(codec, "decode", broken)
    with pytest.raises(UndecodableImage, match="cannot be decoded: KeyError: 6"):
        square(bad, 16)
    from alexprep.pipeline.config import ShardConfig
    from alexprep.pipeline.preparation.job import ShardJob
    from alexprep.pipeline.sources import find_source

    from ...support.faults import Inline

    job = ShardJob(find_source(tmp_path / "src"), tmp_path / "out", ShardConfig(size=16), max_bad=0.5, engine=Inline)
    list(job.run())
    assert (job.manifest.splits["train"].records, job.manifest.splits["train"].quarantined) == (3, 1)
    assert "bad.jpg" in (tmp_path / "out/quarantine.jsonl").read_text()


def chunk(kind, data, crc=None):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) if crc is None else crc)


def png(image, *chunks, **options):
    """A PNG with these chunks before its pixels."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    data = buffer.getvalue()
    at = data.index(b"IDAT") - 4
    return data[:at] + b"".join(chunks) + data[at:]


LONG = zlib.compress(b"x" * (PngImagePlugin.MAX_TEXT_CHUNK * 3))
METADATA = {
    "a text of 3 MB, compressed": chunk(b"zTXt", b"key\0\0" + LONG),
    "an international text of 3 MB": chunk(b"iTXt", b"key\0\1\0en\0key\0" + LONG),
    "a wrong checksum of a text": chunk(b"tEXt", b"key\0value", 7),
    "a wrong checksum of a time": chunk(b"tIME", b"\x07\xe8\x01\x01\0\0\0", 7),
    "a short gamma": chunk(b"gAMA", b"\0"),
    "a short resolution": chunk(b"pHYs", b"\0\1"),
    "a short transparency": chunk(b"tRNS", b"\1"),
    "a broken profile": chunk(b"iCCP", b"name\0\0broken"),
    "a chunk that nobody knows": chunk(b"abCd", b"..."),
}


@pytest.mark.parametrize("kind", METADATA)
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_metadata_of_a_png_never_makes_its_pixels_unusable(kind, mode):
    image = Image.fromarray(picture(1)).convert(mode)

    assert np.array_equal(decode(png(image, METADATA[kind])), np.asarray(image.convert("RGB")))


def test_metadata_of_a_jpeg_never_makes_its_pixels_unusable():
    for mode in ("CMYK", "RGB"):
        buffer = io.BytesIO()
        Image.fromarray(picture(1)).convert(mode).save(buffer, "JPEG")
        data = buffer.getvalue()
        for piece in (*fuzz.PIECES[4:10], b"\xff\xe1\x00\x0cExif\0\0II", b"\xff\xed\x00\x12Photoshop 3.0\0\x01\x02"):
            assert np.array_equal(decode(data[:2] + piece + data[2:]), decode(data))


def test_damaged_pixels_stay_refused_with_the_true_reason():
    data = bytearray(png(Image.fromarray(picture(1))))
    data[data.index(b"IDAT") + 20] ^= 1
    header = bytearray(png(Image.fromarray(picture(1))))
    header[18] ^= 1

    with pytest.raises(UndecodableImage, match="cannot be decoded"):
        decode(bytes(data))
    with pytest.raises(UndecodableImage, match="a PNG whose header is damaged"):
        decode(bytes(header))
    with pytest.raises(UndecodableImage, match="it begins with b'<html>"):
        decode(b"<html>not found</html>")


def test_only_what_pixels_do_not_need_is_left_out():
    data = png(Image.fromarray(picture(1)), METADATA["a short gamma"])

    assert without_metadata(data) == png(Image.fromarray(picture(1)))
    assert without_metadata(b"GIF89a...") == b"GIF89a..."
    assert np.array_equal(decode(without_metadata(jpeg(picture(1), exif=b"Exif\0\0x", comment=b"c"))), decode(jpeg(picture(1))))
