"""Damaged and odd images, made from a kept corpus, in every decoder in use: python -m tests.fuzz --seconds 60 [--seed 7] [--found DIR].

Two laws are tried on each. An image that cannot be decoded is refused as `UndecodableImage`, whatever the decoder raises. The kernels
(compiled, compiled for AVX2, not compiled) accept the same files and give the same pixels; a record is accepted exactly when libjpeg-turbo
does so without a warning. An input that breaks a law is written to DIR, and the exit code is 1.
"""

import argparse
import hashlib
import random
import sys
import time
from importlib import import_module
from pathlib import Path

CORPUS = Path(__file__).parent.parent / "corpus"
SIZE = 16  # of the squares
MARKERS = (0xC0, 0xC1, 0xC2, 0xC4, 0xDB, 0xDD, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE)
PIECES = (  # segments that decide which decoder takes a JPEG, or whether it warns
    *(b"\xff\xe0\x00\x10JFIF\0" + bytes([major, 1, 0, 0, 1, 0, 1, 0, 0]) for major in (0, 1, 2, 3)),
    *(b"\xff\xe2\x00\x12ICC_PROFILE\0" + bytes([part, of, 1, 2]) for part, of in ((1, 1), (1, 2), (2, 2), (2, 1), (0, 1), (1, 0))),
    *(b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0" + bytes([transform]) for transform in (0, 1, 2)),
    b"\xff\xdd\x00\x04\x00\x01",
    b"\xff\xfe\x00\x05abc",
    b"\xff\xff\xff",
    b"\xff\xd0",
)


def engines():
    """name -> the module of compiled loops, None for none."""
    from alexprep.pipeline.imaging import kernels

    found = {"not compiled": None}
    if kernels.COMPILED:
        found["compiled"] = import_module("alexprep.pipeline.imaging._kernels")
        if kernels.HAS_AVX2:
            found["compiled for AVX2"] = import_module("alexprep.pipeline.imaging._kernels_avx2")
    return found


class Engine:
    """One build of the kernels in place of that which the processor would have."""

    def __init__(self, module):
        self.module = module

    def __enter__(self):
        from alexprep.pipeline.imaging import kernels

        self.before = kernels._kernels, kernels.COMPILED, kernels._AS_OPENCV
        kernels._kernels, kernels.COMPILED, kernels._AS_OPENCV = self.module, self.module is not None, self.module is not None and self.before[2]

    def __exit__(self, *_):
        from alexprep.pipeline.imaging import kernels

        kernels._kernels, kernels.COMPILED, kernels._AS_OPENCV = self.before


def outcome(work, data):
    """What `work` makes of an input: a digest of the pixels, or None if it refuses them."""
    from alexprep.pipeline.errors import UndecodableImage

    try:
        return hashlib.sha256(work(data)).digest()
    except UndecodableImage:
        return None


def as_square(data):
    from alexprep.pipeline.imaging.codec import square

    made = square(data, SIZE)
    return made.pixels.tobytes() + f"{made.height} {made.width}".encode()


def as_record(data):
    from alexprep.pipeline.imaging.codec import decode_record

    pixels = decode_record(data)
    return pixels.tobytes() + str(pixels.shape).encode()


def by_libjpeg(data):
    import simplejpeg
    from alexprep.pipeline.errors import UndecodableImage

    try:
        pixels = simplejpeg.decode_jpeg(data, "RGB", strict=True)
    except Exception as error:
        raise UndecodableImage("libjpeg-turbo warns") from error
    return pixels.tobytes() + str(pixels.shape).encode()


def broken_law(data, builds):
    """Which law an input breaks, None if none."""
    for work, name in ((as_square, "as a source"), *([(as_record, "as a record")] if data[:2] == b"\xff\xd8" else [])):
        found = {}
        for engine, module in builds.items():
            with Engine(module):
                try:
                    found[engine] = outcome(work, data)
                except BaseException as error:
                    if isinstance(error, KeyboardInterrupt):
                        raise
                    return f"{name}, {engine}: {type(error).__name__}: {error}"
        if work is as_record:
            found["libjpeg-turbo"] = outcome(by_libjpeg, data)
        if len(set(found.values())) > 1:
            return f"{name}: " + ", ".join(f"{engine} {'refuses it' if made is None else made.hex()[:8]}" for engine, made in found.items())
    return None


def segments(data):
    """(start, end) of the segments of a JPEG before its scan."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield at, min(end, len(data))
        at = end


def mutated(data, rng):
    """Another input: some bytes changed, or a part moved, left out, doubled or put in."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        parts = list(segments(data)) if data[:2] == b"\xff\xd8" else []
        kind = rng.randrange(10)
        if not data:
            break
        if kind < 3:
            at = rng.randrange(min(len(data), rng.choice((len(data), 700, 64))))
            data[at] = rng.choice((rng.randrange(256), data[at] ^ 1 << rng.randrange(8), 0, 255))
        elif kind == 3:
            del data[rng.randrange(len(data)) :]
        elif kind == 4:
            at = rng.randrange(len(data))
            del data[at : at + rng.choice((1, 2, 16, 500))]
        elif kind == 5 and parts:
            start, end = rng.choice(parts)
            piece = bytes(data[start:end])
            if rng.randrange(2):
                del data[start:end]
            at = rng.choice(parts)[0]
            data[at:at] = piece
        elif kind == 6 and parts:
            at = rng.choice(parts)[0]
            data[at:at] = rng.choice(PIECES)
        elif kind == 7 and parts:
            start, end = rng.choice(parts)
            at = rng.randrange(start, end)
            data[at] = (data[at] + rng.choice((-1, 1))) % 256
        elif kind == 8 and parts:
            start, _ = rng.choice(parts)
            data[start + 1] = rng.choice(MARKERS)
        else:
            at = rng.randrange(len(data))
            data[at:at] = bytes(data[at : at + rng.choice((1, 3, 40))])
    return bytes(data)


def run(seconds, seed, found, count=None):
    """Try inputs for so long; return (how many, the broken laws)."""
    rng, builds = random.Random(seed), engines()
    corpus = [path.read_bytes() for path in sorted(CORPUS.iterdir())]
    last, tried, broken = found / "last-input", 0, []
    found.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    while time.monotonic() < end and (count is None or tried < count):
        data = mutated(rng.choice(corpus), rng)
        last.write_bytes(data)  # if a decoder kills the process, this is why
        law = broken_law(data, builds)
        tried += 1
        if law is not None:
            path = found / f"{hashlib.sha256(data).hexdigest()[:16]}.input"
            path.write_bytes(data)
            broken.append(f"{path}: {law}")
            if len(broken) >= 20:
                break
    last.unlink(missing_ok=True)
    return tried, broken


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"))
    options = parser.parse_args()
    tried, broken = run(options.seconds, options.seed, options.found)
    print(f"{tried} inputs from seed {options.seed}: {len(broken)} break a law")
    print("\n".join(broken))
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
