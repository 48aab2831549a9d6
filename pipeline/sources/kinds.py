"""Recognise data files by their first bytes.

A file whose name claims a format that its content does not have raises DataError.
"""

import re

from ..errors import DataError
from ..storage.uri import Location, RemotePath
from .heads import begins, compression, is_tar, is_tfrecord

HEAD = 512  # bytes that are read to recognise a file
NO_IMAGE = re.compile(
    r"(?i)(\.(txt|jsonl?|csv|tsv|md|rst|xml|ya?ml|html?|pdf|py|ipynb|log|toml|mat|np[yz]|pkl|pickle|bin|pth?|sh|cfg|ini|names|md5|sha\d+|lst|idx"
    r"|crc|sums?)|(^|/)(readme|licen[cs]e|copying|changelog|_success))$"
)
_DEVKIT = re.compile(r"(?i)^ILSVRC\d{4}_devkit")
_SAYS = {
    "tar": re.compile(r"(?i)\.tar$"),
    "parquet": re.compile(r"(?i)\.(parquet|pq)$"),
    "TFRecord": re.compile(r"(?i)\.tfrecords?(-\d+-of-\d+)?$|-\d{5}-of-\d{5}$"),
}
_UNFINISHED = re.compile(r"(?i)\.(part|partial|crdownload|incomplete|aria2|download|tmp|filepart)$")
ARCHIVE = re.compile(r"(?i)\.(tar|tgz|tbz2?|txz|tzst|zip|7z|rar|gz|bz2|xz|zst|tfrecords?|parquet)\b|-of-\d+")


def head_of(path: Location) -> bytes:
    """Return the first `HEAD` bytes of a file."""
    if isinstance(path, RemotePath):
        with path.open_random() as file:
            return bytes(file.read(HEAD))
    try:
        with path.open("rb") as file:
            return file.read(HEAD)
    except PermissionError as error:
        raise DataError(f"{path}: no permission to read it") from error


def kind_of(path: Location) -> str | None:
    """Return "tar", "parquet", "TFRecord" or "compressed" for a data file, None for any other file.

    Raise DataError if the name claims a format that the content does not have: leaving out a part
    of a data set would change labels.
    """
    if _DEVKIT.search(path.name) or NO_IMAGE.search(path.name):
        return None
    if _UNFINISHED.search(path.name) and ARCHIVE.search(path.name):
        raise DataError(f"{path} is an unfinished download: finish it, or delete it")
    head = head_of(path)
    if compression(head):
        return "compressed" if ARCHIVE.search(path.name) else None
    if head.startswith(b"PAR1"):
        return "parquet"
    if is_tar(head):
        return "tar"
    if is_tfrecord(head):
        return "TFRecord"
    if not head and re.search(r"-\d+-of-\d+$", path.name) and _SAYS["TFRecord"].search(path.name):
        return "TFRecord"  # a shard without records, which is valid
    said = next((kind for kind, name in _SAYS.items() if name.search(path.name)), None)
    if said:
        raise DataError(f"{path} is no {said}: {begins(head)}; fetch it again, or move it out of the source")
    return None
