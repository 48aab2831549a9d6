"""What a name says of the split, and which names are passed over: one rule for folders, tars, parquet, TFRecord and WebDataset."""

import re
from collections.abc import Iterable, Sequence

from ..errors import DataError

WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}  # as others call a split -> as we do
ORDER = ("train", "val", "test")
TEST = "test"
EXPECTED = "train, training; val, valid, validation, dev, eval, evaluation; test, testing"
AROUND = frozenset(  # words that may stand beside a split's in the name of its folder: train_images, ILSVRC2012_img_val
    (
        *("set", "sets", "data", "dataset", "image", "images", "img", "imgs", "picture", "pictures", "photo", "photos", "jpg", "jpeg", "png"),
        *("split", "full", "raw", "seg", "class", "classes", "cls", "folder", "imagenet", "ilsvrc"),
    )
)
CONTAINERS = frozenset(("image", "images", "img", "imgs", "data", "jpg", "jpeg", "jpegs", "jpegimages", "picture", "pictures", "photo", "photos"))
FORMATS = frozenset(("image", "images", "img", "imgs", "jpg", "jpgs", "jpeg", "jpegs", "jpegimages"))  # no class is called so
JUNK = frozenset(  # what macOS, Windows, Synology, QNAP and file systems leave in folders; compared in lower case
    (
        *("__macosx", "@eadir", "@recycle", "#recycle", "@tmp", "thumbs.db", "ehthumbs.db", "desktop.ini"),
        *("_metadata", "_common_metadata", "_delta_log", "_success"),  # what Spark, Dask and Delta lay beside parquet
        *("lost+found", "$recycle.bin", "system volume information", "__pycache__"),
    )
)


def is_junk(name: str) -> bool:
    """Tell a file or folder that belongs to a system and not to a data set: a dot-file, or one of `JUNK`."""
    return (name.startswith(".") and name not in (".", "..")) or name.lower() in JUNK


def is_junk_path(path: str) -> bool:
    """Tell a path that has such a name in it, as the members of archives can."""
    return any(map(is_junk, path.split("/")))


def words(name: str) -> list[str]:
    """Return the words of a name in lower case: TrainSet, train_set, trainset and train-set2 all have train and set."""
    return [part for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name) for part in _apart(word.lower())]


def _apart(word: str) -> list[str]:
    """Return a split's word and what is written together with it."""
    if word in WORDS or word in AROUND:
        return [word]
    return next(([begin, word.removeprefix(begin)] for begin in WORDS if word.startswith(begin) and word.removeprefix(begin) in AROUND), [word])


def _splits_in(name: str) -> list[str]:
    """Return the splits whose words a name has, each once."""
    return list(dict.fromkeys(WORDS[word] for word in words(name) if word in WORDS))


def split_in(name: str, where: object) -> str | None:
    """Return the split whose word is among those of `name`, None if there is none; DataError if there are two splits."""
    found = _splits_in(name)
    if len(found) > 1:
        raise DataError(f"{where}: its name has the words of two splits ({' and '.join(found)}); rename it so that it has one")
    return found[0] if found else None


def split_of(parts: Iterable[str], where: object) -> str | None:
    """Return the split that a file's name and the folders it lies in name, None if none does; DataError if they name two."""
    found = {split: part for part in parts if (split := split_in(part, where))}
    if len(found) > 1:
        said = ", ".join(f"{part!r} says {split}" for split, part in found.items())
        raise DataError(f"{where}: its path names two splits ({said}); rename one of them")
    return next(iter(found), None)


def exact_split(name: str) -> str | None:
    """Return the split if `name` is its word and nothing else."""
    return WORDS.get(name.lower())


def is_called_a_split(name: str) -> bool:
    """Tell a name that is a split's word, alone or beside words of `AROUND` and digits."""
    return len(_splits_in(name)) == 1 and all(word in WORDS or word in AROUND for word in words(name))


def folder_splits(names: Iterable[str]) -> dict[str, str]:
    """Return folder -> split for those of the folders in one place whose names say so.

    A name says so by itself (`is_called_a_split`), or if two names differ in that word only (flowers_train, flowers_val).
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
    """Tell a name that has the word of a split in it, whatever else."""
    return bool(_splits_in(name))


def settled(files: Sequence[tuple[object, str | None]], default: str) -> list[str]:
    """Return the split of each file of (file, what its path names): `default` if no path names any; DataError if only some do."""
    unnamed = [str(file) for file, split in files if split is None]
    if unnamed and len(unnamed) < len(files):
        raise DataError(
            f"{unnamed[0]} names no split, and neither do {len(unnamed) - 1} others, while {len(files) - len(unnamed)} files do: "
            f"put a word for it into the name of the file or its folder ({EXPECTED})"
        )
    return [split or default for _, split in files]


def apart(folders: Sequence[Sequence[str]]) -> tuple[list[str], list[Sequence[str]]]:
    """Return the folders around all of several paths, and each path's folders below them: /home/dev/images around all of them says nothing."""
    around: list[str] = []
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        around.append(parts[0])
    return around, [parts[len(around) :] for parts in folders]
