"""Look up ILSVRC facts: classes of validation images, class numbers of the devkit, image counts.

`ilsvrc2012.npz` holds the 1000 ids (the number of each wnid) and the class of each of the 50,000
validation images as uint16, taken from the labels that TensorFlow Datasets 4.9.10 publishes
(Apache-2.0). With this table, a validation folder or tar without label files can be read.
"""

import csv
import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..storage.uri import Location, RemotePath, read_file
from .listing import Listing, some

NUMBERED = re.compile(r"ILSVRC(\d{4})_(val|test)_(\d{8})")
# Images of ILSVRC2012 by split; the 100,000 test images have no public labels.
COUNTS = {"train": 1_281_167, "val": 50_000}
MAX_TEXT = 1 << 26  # largest label file, in bytes


@cache
def ilsvrc2012() -> tuple[list[str], list[int]]:
    """Return the 1000 ids, sorted, and the label of each validation image, in order of names."""
    with (files(__package__) / "ilsvrc2012.npz").open("rb") as file:
        table = np.load(file, allow_pickle=False)
        return [f"n{number:08}" for number in table["wnids"].tolist()], table["val"].tolist()


class ClassOf:
    """Looks up the class of a validation or test image by its name.

    Looks in Kaggle's CSV first, then in the devkit, then in the table of `ilsvrc2012`.
    """

    def __init__(self, folders: list[Location]) -> None:
        """Read the label files in `folders`: first the folder of the images, then those above."""
        self._csv = _kaggle_csv(folders)
        self.devkit = next((devkit for folder in folders if (devkit := Devkit.find(folder))), None)
        self.origin = ""

    def __call__(self, stem: str) -> str | None:
        """Return the class id of the image named `stem` (without extension), None if unknown."""
        if stem in self._csv:
            self.origin = "LOC_val_solution.csv"
            return self._csv[stem]
        match = NUMBERED.fullmatch(stem)
        if match is None:
            return None
        year, split, number = match[1], match[2], int(match[3])
        if self.devkit is not None and year == self.devkit.year:
            found = self.devkit.class_of(split, number)
            if found is not None:
                self.origin = str(self.devkit.path)
                return found
        ids, val = ilsvrc2012()
        if (year, split) == ("2012", "val") and 1 <= number <= len(val):
            self.origin = "the table of the 50,000 validation labels that comes with alexprep"
            return ids[val[number - 1]]
        return None


class Devkit:
    """The development kit of one year: its ground truth files and its numbering of the classes."""

    def __init__(self, path: Location, year: str, read: Callable[[str], bytes | None]) -> None:
        """Read the ground truth; `read(name)` returns a file of data/, None if it is missing."""
        self.path, self.year, self._read = path, year, read
        self._truth = {"val": self._numbers("validation"), "test": self._numbers("test")}
        self._ids: dict[int, str] | None = None

    @classmethod
    def find(cls, root: Location) -> "Devkit | None":
        """Return the devkit in `root`: a .tar.gz or an unpacked folder; None if there is none."""
        if isinstance(root, RemotePath) or not root.is_dir():
            return None
        for path in sorted(root.iterdir()):
            if "devkit" not in path.name.lower():
                continue
            read = _folder_reader(path) if path.is_dir() else _archive_reader(path)
            for year in ("2012", "2010"):
                if read is not None and read(f"ILSVRC{year}_validation_ground_truth.txt") is not None:
                    return cls(path, year, read)
        return None

    def class_of(self, split: str, number: int) -> str | None:
        """Return the class id of the number-th image (from 1), None beyond the ground truth."""
        truth = self._truth[split]
        if not 1 <= number <= len(truth):
            return None
        ids = self.ids()
        if truth[number - 1] not in ids:
            raise DataError(f"{self.path}: the ground truth of {split} image {number} is class {truth[number - 1]}, which the devkit does not define")
        return ids[truth[number - 1]]

    def ids(self) -> dict[int, str]:
        """Return {number: class id}, from meta.mat (with scipy) or the ground truth (2012 only)."""
        if self._ids is None:
            self._ids = self._from_meta() or self._from_table()
        return self._ids

    def _from_meta(self) -> dict[int, str] | None:
        data = self._read("meta.mat")
        try:
            from scipy.io import loadmat
        except ModuleNotFoundError:
            return None
        if data is None:
            return None
        try:
            rows = loadmat(io.BytesIO(data), squeeze_me=True, variable_names=["synsets"])["synsets"]
            number, wnid = f"ILSVRC{self.year}_ID", "WNID"
            return {int(row[number]): str(row[wnid]) for row in np.atleast_1d(rows)}
        except Exception as error:  # scipy may raise any exception on a damaged file
            raise DataError(f"{self.path}: meta.mat cannot be read ({type(error).__name__}: {error}); restore it") from error

    def _from_table(self) -> dict[int, str]:
        """Return {number: class id} by comparing the ground truth with the table of `ilsvrc2012`.

        Each of the 1000 classes has fifty validation images, so every number occurs.
        """
        ids, val = ilsvrc2012()
        if self.year != "2012" or len(self._truth["val"]) != len(val):
            raise DataError(f"{self.path}: its class numbers are in meta.mat, which scipy reads: pip install scipy")
        found: dict[int, str] = {}
        for number, label in zip(self._truth["val"], val, strict=True):
            if found.setdefault(number, ids[label]) != ids[label]:
                raise DataError(
                    f"{self.path}: its ground truth contradicts the known labels of the validation images: class {number} stands for several"
                )
        return found

    def _numbers(self, split: str) -> list[int]:
        data = self._read(f"ILSVRC{self.year}_{split}_ground_truth.txt")
        if data is None:
            return []
        try:
            return [int(line) for line in data.split()]
        except ValueError as error:
            raise DataError(f"{self.path}: ILSVRC{self.year}_{split}_ground_truth.txt has a line that is no number ({error})") from error


def _folder_reader(folder: Path) -> Callable[[str], bytes | None]:
    def read(name: str) -> bytes | None:
        for path in (folder / "data" / name, folder / name, *sorted(folder.glob(f"*/data/{name}"))):
            if path.is_file():
                return read_file(path, MAX_TEXT)
        return None

    return read


def _archive_reader(path: Path) -> Callable[[str], bytes | None] | None:
    """Return a reader of a .tar.gz devkit (2 MB), None if it is not an archive. It is unpacked in memory, within fixed limits."""
    found: dict[str, bytes] = {}
    if not path.is_file():
        return None
    try:
        with tarfile.open(path, "r:*") as archive:
            for count, member in enumerate(archive):
                name = member.name.rpartition("/")[2]
                # A decompression bomb: even skipping its members would unpack them.
                if count > 10_000 or member.offset > MAX_TEXT:
                    break
                if member.isreg() and member.size <= MAX_TEXT and (name == "meta.mat" or name.endswith("_ground_truth.txt")):
                    file = archive.extractfile(member)
                    assert file is not None  # a regular file
                    found[name] = file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        if re.match(r"(?i)ILSVRC\d{4}_devkit", path.name):
            raise DataError(f"{path} cannot be read as an archive ({error}); fetch it again") from error
        return None
    return found.get


def _kaggle_csv(folders: list[Location]) -> dict[str, str]:
    """Return {image: class} from LOC_val_solution.csv in `folders` or above Data/CLS-LOC.

    Its columns are ImageId,PredictionString; the first word of PredictionString is the class.
    """
    first = folders[0]
    above = list(first.absolute().parents[:3]) if isinstance(first, Path) and first.name == "CLS-LOC" else []
    path = next((path for folder in (*folders, *above) if (path := folder / "LOC_val_solution.csv").is_file()), None)
    if path is None:
        return {}
    found = {}
    try:
        for row in csv.DictReader(io.StringIO(read_file(path, MAX_TEXT).decode("utf-8-sig"))):
            found[row["ImageId"]] = row["PredictionString"].split()[0]
    except (KeyError, IndexError, AttributeError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected lines ImageId,PredictionString as Kaggle has them ({type(error).__name__}: {error})") from error
    return found


def missing_from_ilsvrc2012(classes: list[str], listings: list[Listing]) -> Iterator[str]:
    """Yield a note for each difference from ILSVRC2012 in the counts of classes and images.

    Yield nothing unless all classes are ILSVRC2012's, and at least 900 of them are there.
    """
    ids, _ = ilsvrc2012()
    known = len(set(classes) & set(ids))
    if known < 900 or known < len(classes):
        return
    if len(classes) < len(ids):
        yield f"{len(classes)} of ILSVRC2012's {len(ids)} classes are here; missing: {some(sorted(set(ids) - set(classes)))}"
    for listing in listings:
        expected = COUNTS.get(listing.split)
        if expected is not None and len(listing) != expected:
            difference = f"{abs(expected - len(listing)):,} {'missing' if len(listing) < expected else 'too many'}"
            yield f"{listing.split} has {len(listing):,} images; ILSVRC2012 has {expected:,}: {difference}"
    for split, expected in COUNTS.items():
        if split not in {listing.split for listing in listings}:
            yield f"there is no {split} split; ILSVRC2012's has {expected:,} images"


def devkit_order(root: Location, devkit: Devkit | None, classes: list[str]) -> list[str]:
    """Return `classes` in the devkit's order; raise DataError without a devkit.

    The order is that of ILSVRC2012_ID, which the 2012 code uses as labels.
    """
    if devkit is None:
        raise DataError(f"--label-order devkit needs the devkit: put ILSVRC2012_devkit_t12.tar.gz into {root}")
    number: dict[Any, int] = {name: i for i, name in devkit.ids().items()}
    unknown = [name for name in classes if name not in number]
    if unknown:
        raise DataError(f"--label-order devkit: {devkit.path} does not number {len(unknown)} of the classes ({some(unknown)})")
    return sorted(classes, key=number.__getitem__)
