"""Recognise files, and members of tars, by their first bytes."""

import re
import struct
import tarfile

import google_crc32c

COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "rar",
}
# Names of image files.
IMAGE = re.compile(r"(?i)\.(jpe?g|jpe|jfif|png|webp|bmp|gif|tiff?|ppm|pgm|pnm|avif|heic)$")
TFRECORD_HEADER = 12  # bytes before a record's data: the data's length, and its checksum


def is_image(head: bytes) -> bool:
    """Return whether `head` begins like an image of a supported format, or of a variant of one."""
    if head.startswith(b"RIFF"):
        return head[8:12] == b"WEBP"
    return head.startswith((b"\xff\xd8", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"P5", b"P6"))


def is_tar(head: bytes) -> bool:
    """Return whether `head` begins a tar, by the checksum of the first header."""
    if len(head) < 512 or not head[:1].strip(b"\0"):
        return False
    try:
        return tarfile.TarInfo.frombuf(head[:512], "utf-8", "surrogateescape") is not None
    except (tarfile.HeaderError, ValueError):
        return False


def masked_crc(data: bytes | memoryview) -> int:
    """Return TFRecord's CRC of `data`: CRC-32C, rotated right by 15 bits, plus a constant."""
    crc = google_crc32c.value(bytes(data))
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def is_tfrecord(head: bytes) -> bool:
    """Return whether `head` begins a TFRecord file, by the checksum of the first length."""
    return len(head) >= TFRECORD_HEADER and struct.unpack_from("<I", head, 8)[0] == masked_crc(head[:8])


def compression(head: bytes) -> str | None:
    """Return the compression of data that begin with `head`, None if they are not compressed."""
    return next((name for magic, name in COMPRESSED.items() if head.startswith(magic)), None)


def begins(head: bytes) -> str:
    """Return a description of the first bytes of a file, for a message."""
    if not head:
        return "it is empty"
    return "it begins with zeros" if not head.strip(b"\0") else f"it begins with {head[:8]!r}"
