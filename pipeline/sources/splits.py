"""Derive the split from a name, and tell which names are skipped.

The rules are the same for folders, tars, parquet, TFRecord and WebDataset.
"""

import re
from collections.abc import Iterable, Sequence

from ..errors import DataError

WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}  # word in a name -> split
ORDER = ("train", "val", "test")
TEST = "test"
EXPECTED = "train, training; val, valid, validation, dev, eval, evaluation; test, testing"
# Words that may stand beside a split's in the name of its folder: train_images, ILSVRC2012_img_val.
AROUND = frozenset(
    (
        *("set", "sets", "data", "dataset", "image", "images", "img", "imgs", "picture", "pictures", "photo", "photos", "jpg", "jpeg", "png"),
        *("split", "full", "raw", "seg", "class", "classes", "cls", "folder", "imagenet", "ilsvrc"),
    )
)
CONTAINERS = frozenset(("image", "images", "img", "imgs", "data", "jpg", "jpeg", "jpegs", "jpegimages", "picture", "pictures", "photo", "photos"))
# Names of folders that are never classes.
FORMATS = frozenset(("image", "images", "img", "imgs", "jpg", "jpgs", "jpeg", "jpegs", "jpegimages"))
# What macOS, Windows, Synology, QNAP and file systems leave in folders; compared in lower case.
JUNK = frozenset(
    (
        *("__macosx", "@eadir", "@recycle", "#recycle", "@tmp", "thumbs.db", "ehthumbs.db", "desktop.ini"),
        # Spark, Dask and Delta write these beside parquet files.
        *("_metadata", "_common_metadata", "_delta_log", "_success"),
        *("lost+found", "$recycle.bin", "system volume information", "__pycache__"),
    )
)


def is_junk(name: str) -> bool:
    """Return whether a file or folder is a system's, not data: a dot-file, or one of `JUNK`."""
    return (name.startswith(".") and name not in (".", "..")) or name.lower() in JUNK


def is_junk_path(path: str) -> bool:
    """Return whether a path contains such a name, as the members of archives can."""
    return any(map(is_junk, path.split("/")))


def words(name: str) -> list[str]:
    """Return the words of a name in lower case. TrainSet, train_set, trainset and train-set2 all give train and set."""
    return [part for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name) for part in _apart(word.lower())]


def _apart(word: str) -> list[str]:
    """Return [split's word, the word of `AROUND` joined to it] for a joined word, else [word]."""
    if word in WORDS or word in AROUND:
        return [word]
    return next(([begin, word.removeprefix(begin)] for begin in WORDS if word.startswith(begin) and word.removeprefix(begin) in AROUND), [word])


def _splits_in(name: str) -> list[str]:
    """Return the splits whose words are in a name, each once."""
    return list(dict.fromkeys(WORDS[word] for word in words(name) if word in WORDS))


def split_in(name: str, where: object) -> str | None:
    """Return the split whose word is in `name`, None if there is none; DataError for two splits."""
    found = _splits_in(name)
    if len(found) > 1:
        raise DataError(f"{where}: its name has the words of two splits ({' and '.join(found)}); rename it so that it has one")
    return found[0] if found else None


def split_of(parts: Iterable[str], where: object) -> str | None:
    """Return the split that `parts` (a file's folders and name) name, None if they name none. Raise DataError if they name two."""
    found = {split: part for part in parts if (split := split_in(part, where))}
    if len(found) > 1:
        said = ", ".join(f"{part!r} says {split}" for split, part in found.items())
        raise DataError(f"{where}: its path names two splits ({said}); rename one of them")
    return next(iter(found), None)


def exact_split(name: str) -> str | None:
    """Return the split if `name` is its word and nothing else, else None."""
    return WORDS.get(name.lower())


def is_called_a_split(name: str) -> bool:
    """Return whether a name is a split's word, alone or beside words of `AROUND` and digits."""
    return len(_splits_in(name)) == 1 and all(word in WORDS or word in AROUND for word in words(name))


def folder_splits(names: Iterable[str]) -> dict[str, str]:
    """Return {folder: split} for the folders of one place whose names name a split.

    A name does so by itself (`is_called_a_split`), or if two names differ only in the split's word
    (flowers_train, flowers_val).
    """
    found: dict[str, str] = {}
    alike: dict[tuple[str, ...], dict[str, str]] = {}
    for name in names:
        splits = _splits_in(name)
        if is_called_a_split(name):
            found[name] = splits[0]
        elif len(splits) == 1:
            rest = tuple(word for word in words(name) if word not in WORDS)
            alike.setdefault(rest, {})[name] = splits[0]
    for group in alike.values():
        if len(set(group.values())) > 1:
            found |= group
    return found


def names_a_split(name: str) -> bool:
    """Return whether a name contains a split's word, whatever else it contains."""
    return bool(_splits_in(name))


def settled(files: Sequence[tuple[object, str | None]], default: str) -> list[str]:
    """Return the split of each file; `files` are (file, split that its path names).

    If no path names a split, all are `default`; raise DataError if only some do.
    """
    unnamed = [str(file) for file, split in files if split is None]
    if unnamed and len(unnamed) < len(files):
        raise DataError(
            f"{unnamed[0]} names no split, and neither do {len(unnamed) - 1} others, while {len(files) - len(unnamed)} files do: "
            f"put a split's word into the name of the file or its folder ({EXPECTED})"
        )
    return [split or default for _, split in files]


def apart(folders: Sequence[Sequence[str]]) -> tuple[list[str], list[Sequence[str]]]:
    """Return (folders common to all paths, each path's folders below them). Common folders such as /home/dev/images do not tell the splits apart."""
    around: list[str] = []
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        around.append(parts[0])
    return around, [parts[len(around) :] for parts in folders]
