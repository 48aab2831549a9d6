"""Find the data set in a folder, and the split of each of its folders and files.

In:  a folder or a file.    Out: a SourceLayout; DataError if a split or a wrapper is ambiguous.

A wrapper is a folder that holds the whole data set and has no meaning of its own, such as
ILSVRC2012/, data/ and ILSVRC/Data/CLS-LOC/.
"""

import re
from dataclasses import dataclass, field

from ..errors import DataError
from ..storage.uri import Location, RemotePath, read_file
from .data_files import DEEPEST, LOOKED_AT, DataFile, files_in, files_in_split, missing_parts, refuse_compressed
from .kinds import NO_IMAGE, kind_of
from .listing import shown, some
from .looks import has_data, is_flat, look
from .splits import CONTAINERS, EXPECTED, exact_split, folder_splits, names_a_split, split_in, words
from .tree import Tree, tree_of, under


@dataclass(frozen=True, kw_only=True)
class SourceLayout:
    """The folder, splits and data files of a source."""

    root: Location  # as it was given
    folder: Location  # of the data set: `root`, or a folder below it
    # split -> its folder below `folder`; empty if `folder` itself holds the classes
    splits: dict[str, str] = field(default_factory=dict)
    files: tuple[DataFile, ...] = ()
    default: str = "train"  # split of images whose path names none

    @property
    def wrappers(self) -> list[Location]:
        """The folders from `folder` up to `root`; all may hold files about the data set."""
        found = [self.folder]
        while found[-1] != self.root and len(found) <= DEEPEST:
            found.append(found[-1].parent)
        return found


def layout_of(root: Location, notes: list[str]) -> SourceLayout:
    """Return the layout of a source, and add to `notes` what a user should know about it. DataError says what was found that is not understood."""
    if root.is_file():
        kind = kind_of(root)
        refuse_compressed([root] if kind == "compressed" else [])
        split = split_in(root.name, root)
        default = _home(_absolute(root).parent)
        return SourceLayout(root=root, folder=root, files=(DataFile(kind, root, split),) if kind else (), default=default)
    folder = _data_folder(root, notes)
    tree = tree_of(folder)
    splits = _splits(folder, tree, notes)
    files, compressed = files_in(folder, tree, "", ())
    for split, name in splits.items():
        more, packed = files_in_split(folder, tree, name, split)
        files, compressed = [*files, *more], [*compressed, *packed]
    if files and not splits:
        _check_beside_files(folder, tree, notes)
    if files or not tree.folders(""):
        refuse_compressed(compressed)
    elif compressed:
        notes.append(f"{folder}: compressed archives are not read ({some([shown(path.name) for path in compressed], 10)})")
    notes.extend(missing_parts(files))
    lists = [name for name in tree.names("") if NO_IMAGE.search(name) and names_a_split(name.rpartition(".")[0])]
    # LOC_... and ILSVRC... are label files, which are read.
    lists = [name for name in lists if not re.match(r"LOC_|ILSVRC", name)]
    if lists and not splits and not files:
        notes.append(f"{folder}: files that may say which images are of which split are not read ({some(lists, 10)})")
    default = next((split for place in dict.fromkeys((root, folder)) if (split := _home(place)) != "train"), "train")
    if not splits and not any(file.split for file in files) and not is_flat(tree, ""):
        if default != "train":
            notes.append(f"{folder}: nothing in it names a split, and the folder has the name of the split {default}: all is read as {default}")
        elif exact_split(_absolute(folder).name) not in (None, "train"):
            notes.append(f"{folder}: nothing in it names a split: all is read as train, though the folder is called {_absolute(folder).name}")
    return SourceLayout(root=root, folder=folder, splits=splits, files=tuple(files), default=default)


def _home(folder: Location) -> str:
    """Return the split of images whose path names none: val if the folder is named so, else train (test/ or dev/ may have other reasons)."""
    name = _absolute(folder).name
    return exact_split(name) or "train" if name.lower() in ("val", "valid", "validation") else "train"


def _absolute(folder: Location) -> Location:
    return folder if isinstance(folder, RemotePath) else folder.absolute()


# Wrappers


def _data_folder(root: Location, notes: list[str]) -> Location:
    here = root
    for _ in range(DEEPEST):
        below = _wrapped(here, notes)
        if below is None:
            if here != root:
                notes.append(f"{root}: the data set is in {here}")
            return here
        here = below
    raise DataError(f"{root} has {DEEPEST} nested folders above any image: give --src the one that holds the data set")


def _wrapped(here: Location, notes: list[str]) -> Location | None:
    """Return the folder that `here` is a wrapper of, None if `here` is not a wrapper."""
    tree = tree_of(here)
    folders = tree.folders("")
    if {"blobs", "snapshots"} <= set(folders):
        return _snapshot(here, tree)
    if not folders or folder_splits(folders) or has_data(here, tree, "") or is_flat(tree, ""):
        return None
    if len(folders) > LOOKED_AT:
        return None
    looks = {name: seen for name in folders if (seen := look(here, tree, name)).bears}
    whole = [name for name, seen in looks.items() if seen.whole]
    if len(looks) == 1:
        (name,) = looks
        if names_a_split(name) and not looks[name].whole:
            return None  # flowers_val/<class>/: a split, not a wrapper
        if looks[name].loose and not looks[name].whole:
            if words(name) and set(words(name)) <= CONTAINERS:
                raise DataError(_no_classes(here / name))
            return None
        return here / name
    if not whole:
        return None
    others = [name for name in looks if name not in whole]
    if len(whole) == 1 and not any(looks[name].folders for name in others):
        notes.append(f"{here}: {len(others)} folders beside the data set are not read ({some(others, 10)})")
        return here / whole[0]
    raise DataError(
        f"{here} has several folders with images ({some(sorted(looks), 10)}), of which {some(whole, 10)} could be a data set of its own: "
        "give --src the one that you mean"
    )


def _snapshot(here: Location, tree: Tree) -> Location:
    """Return the revision to read of a data set in the Hugging Face hub's cache. It is the only revision, or the one that refs/main names."""
    revisions = tree.folders("snapshots")
    main = here / "refs" / "main"
    if len(revisions) > 1 and main.is_file():
        text = read_file(main, 1 << 10).decode("ascii", "replace").strip()
        revisions = [text] if text in revisions else revisions
    if len(revisions) != 1:
        raise DataError(f"{here} has {len(revisions)} revisions in snapshots/ ({some(revisions)}): give --src the folder of one of them")
    return under(here, f"snapshots/{revisions[0]}")


def _no_classes(folder: Location) -> str:
    return f"{folder} holds images and no class folders: their labels are unknown. Expected {folder}/<class>/<image>"


# Splits


def _splits(folder: Location, tree: Tree, notes: list[str]) -> dict[str, str]:
    """Return {split: folder}, empty if the folders are classes, of which one may be named train."""
    folders = tree.folders("")
    named = folder_splits(folders)
    if not named and len(folders) <= LOOKED_AT:
        named = _only_split(folder, tree, folders)
    looks = {name: look(folder, tree, name) for name in named}
    sure = {name for name, seen in looks.items() if seen.folders or seen.whole or is_flat(tree, name)}
    others = [name for name in folders if name not in named and "devkit" not in name.lower()]
    # If two splits are named, neither is a class.
    if not named or (others and not sure and len(set(named.values())) == 1):
        _check_classes(folder, tree, folders)
        return {}
    found: dict[str, str] = {}
    for name, split in named.items():
        if split in found:
            raise DataError(
                f"{folder} has both {found[split]}/ and {name}/ for the split {split!r}: move all of it into one folder (links will do), or keep one"
            )
        found[split] = name
    _check_others(folder, tree, found, others)
    if others:
        notes.append(f"{folder}: {len(others)} folders beside the splits are not read ({some(others, 10)})")
    renamed = [f"{name}/ is {split}" for split, name in found.items() if name.lower() != split]
    if renamed:
        notes.append(f"{folder}: {', '.join(renamed)}")
    return found


def _check_classes(folder: Location, tree: Tree, folders: list[str]) -> None:
    """Raise DataError for a class that is named like a split and holds folders like a split."""
    for name in folders:
        if names_a_split(name) and look(folder, tree, name).folders:
            raise DataError(
                f"{folder}/{name} has folders with images, as a split does, but its name has other words beside the split's: "
                f"expected folders called {EXPECTED}; rename it"
            )


def _only_split(folder: Location, tree: Tree, folders: list[str]) -> dict[str, str]:
    """Return {folder: split} for the only folder with images if its name contains a split's word.

    An example is flowers_val/<class>/. Otherwise return an empty dictionary.
    """
    bearing = [name for name in folders if look(folder, tree, name).bears]
    if len(bearing) == 1 and names_a_split(bearing[0]) and look(folder, tree, bearing[0]).folders:
        split = split_in(bearing[0], folder / bearing[0])
        return {bearing[0]: split} if split else {}
    return {}


def _check_others(folder: Location, tree: Tree, found: dict[str, str], others: list[str]) -> None:
    """Raise DataError if a folder beside the splits may be a part of the data set.

    Leaving it out would lose images; reading it might leak images between splits.
    """
    for name in others:
        seen = look(folder, tree, name)
        a_few_pictures = len(found) > 1 and not seen.folders and not seen.whole and not names_a_split(name)
        if seen.bears and not a_few_pictures:
            splits = ", ".join(f"{other}/" for other in found.values())
            raise DataError(
                f"{folder} has {name}/ with images beside {splits}, and its name is no split's. Expected folders called {EXPECTED}: "
                "rename it, or give --src a folder without it (links to the others will do)"
            )


# Files


def _check_beside_files(folder: Location, tree: Tree, notes: list[str]) -> None:
    """Raise DataError if class folders lie beside data files: either may be the data set."""
    names = [name for name in tree.folders("") if "devkit" not in name.lower()]
    looks = {name: seen for name in names[:LOOKED_AT] if (seen := look(folder, tree, name)).bears}
    if len(looks) > 1 or any(seen.folders or seen.whole for seen in looks.values()):
        raise DataError(
            f"{folder} has folders with images ({some(list(looks))}) beside tars, parquet or TFRecord files: give --src a folder of one kind"
        )
    if looks:
        notes.append(f"{folder}: the folder {next(iter(looks))} beside the files is not read")
