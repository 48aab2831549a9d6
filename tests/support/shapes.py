"""The shapes in which ImageNet comes, each written small from the same images: names, headers and odd files as in the real ones."""

import gzip
import io
import json
import struct
import tarfile
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from .images import jpeg, picture


@cache
def imagenet(classes=3, train=8, val=6):
    """{split: {class: {file name: bytes}}} as ImageNet has them; a grey, a CMYK, and a PNG called .JPEG among them."""
    from alexprep.pipeline.sources.labels import ilsvrc2012

    ids, labels = ilsvrc2012()
    splits = {"train": {}, "val": {}}
    for label in range(classes):
        wnid = ids[label]
        splits["train"][wnid] = {f"{wnid}_{number * 7}.JPEG": jpeg(picture(label * 100 + number)) for number in range(train)}
        numbers = [number + 1 for number, other in enumerate(labels) if other == label][: val // classes]
        splits["val"][wnid] = {f"ILSVRC2012_val_{number:08}.JPEG": jpeg(picture(number)) for number in numbers}
    first = splits["train"][ids[0]]
    names = sorted(first)
    first[names[0]] = jpeg(picture(1)[:, :, 0])
    buffer = io.BytesIO()
    Image.fromarray(picture(2)).convert("CMYK").save(buffer, "JPEG", quality=95)
    first[names[1]] = buffer.getvalue()
    buffer = io.BytesIO()
    Image.fromarray(picture(3)).save(buffer, "PNG")
    first[names[2]] = buffer.getvalue()
    return splits


def rows(splits):
    """(split, class, file name, bytes) of all, in the order of the archives."""
    return [(split, wnid, name, data) for split, classes in splits.items() for wnid, files in classes.items() for name, data in files.items()]


def folder(splits, root):
    for split, wnid, name, data in rows(splits):
        (root / split / wnid).mkdir(parents=True, exist_ok=True)
        (root / split / wnid / name).write_bytes(data)
    return root


def flat_folder(splits, root):
    """Class folders for training; validation files side by side."""
    for split, wnid, name, data in rows(splits):
        below = root / split / wnid if split == "train" else root / split
        below.mkdir(parents=True, exist_ok=True)
        (below / name).write_bytes(data)
    return root


def add(archive, name, data, **facts):
    member = tarfile.TarInfo(name)
    member.size, member.mtime = len(data), 1_340_000_000
    for attribute, value in facts.items():
        setattr(member, attribute, value)
    archive.addfile(member, io.BytesIO(data))


def tar(files, path, mode="w"):
    with tarfile.open(path, mode, format=tarfile.GNU_FORMAT) as archive:
        for name, data in files:
            add(archive, name, data)
    return path


def tars(splits, root, devkit=False):
    """ILSVRC2012_img_train.tar (a tar of class tars) and ILSVRC2012_img_val.tar."""
    root.mkdir(parents=True, exist_ok=True)
    inner = []
    for wnid, files in splits["train"].items():
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for name, data in files.items():
                add(archive, name, data)
        inner.append((f"{wnid}.tar", buffer.getvalue()))
    tar(inner, root / "ILSVRC2012_img_train.tar")
    tar(sorted((name, data) for split, _, name, data in rows(splits) if split == "val"), root / "ILSVRC2012_img_val.tar")
    if devkit:
        write_devkit(root / "ILSVRC2012_devkit_t12.tar.gz")
    return root


def devkit_numbers():
    """A class -> number that is not the sorted order: the real one is the devkit's secret."""
    from alexprep.pipeline.sources.labels import ilsvrc2012

    ids, _ = ilsvrc2012()
    return {wnid: 1000 - (label * 7) % 1000 for label, wnid in enumerate(ids)}


def write_devkit(path, meta=True):
    """The devkit: the ground truth of all 50,000 images, and meta.mat as Matlab writes it."""
    from alexprep.pipeline.sources.labels import ilsvrc2012
    from scipy.io import savemat

    ids, labels = ilsvrc2012()
    number = devkit_numbers()
    truth = "".join(f"{number[ids[label]]}\n" for label in labels).encode()
    files = [("ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", truth)]
    if meta:
        synsets = np.zeros(1000, [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")])
        for row, wnid in zip(synsets, sorted(ids, key=number.get), strict=True):
            row["ILSVRC2012_ID"], row["WNID"], row["words"] = float(number[wnid]), wnid, f"words of {wnid}"
        buffer = io.BytesIO()
        savemat(buffer, {"synsets": synsets.reshape(-1, 1)}, do_compression=True)
        files.append(("ILSVRC2012_devkit_t12/data/meta.mat", buffer.getvalue()))
    return tar(files, path, "w:gz")


def kaggle(splits, root):
    flat_folder(splits, root / "ILSVRC/Data/CLS-LOC")
    (root / "ILSVRC/Data/CLS-LOC/test").mkdir()
    (root / "ILSVRC/Data/CLS-LOC/test/ILSVRC2012_test_00000001.JPEG").write_bytes(jpeg(picture(0)))
    lines = [f"{name.removesuffix('.JPEG')},{wnid} 1 2 3 4 {wnid} 5 6 7 8 " for split, wnid, name, _ in rows(splits) if split == "val"]
    (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "\n".join(reversed(lines)) + "\n")
    return root


def by_split(splits):
    """(name as others call it, rows) of each split."""
    for split in splits:
        yield {"train": "train", "val": "validation"}[split], [row for row in rows(splits) if row[0] == split]


def label_of(splits):
    return {wnid: label for label, wnid in enumerate(sorted(splits["train"]))}


def parquet(splits, root, per_file=10, group=4):
    """As Hugging Face has it: data/train-00000-of-00003.parquet; image names carry the class once more."""
    (root / "data").mkdir(parents=True)
    label = label_of(splits)
    features = {"image": {"_type": "Image"}, "label": {"names": ["tench", "goldfish", "great white shark"], "_type": "ClassLabel"}}
    for split, ordered in by_split(splits):
        found = ordered[1::2] + ordered[0::2]  # their files are shuffled
        files = [found[at : at + per_file] for at in range(0, len(found), per_file)]
        for number, part in enumerate(files):
            images = [{"bytes": data, "path": f"{name.removesuffix('.JPEG')}_{wnid}.JPEG"} for _, wnid, name, data in part]
            table = pa.table({"image": images, "label": pa.array([label[wnid] for _, wnid, _, _ in part], pa.int64())})
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
            pq.write_table(table, root / f"data/{split}-{number:05}-of-{len(files):05}.parquet", row_group_size=group)
    return root


def bytes_parquet(splits, root):
    """A plain binary column, a name beside it."""
    root.mkdir(parents=True)
    label = label_of(splits)
    for split, found in by_split(splits):
        columns = {"bytes": [row[3] for row in found], "filename": [row[2] for row in found], "label": [label[row[1]] for row in found]}
        pq.write_table(pa.table(columns), root / f"{split}.parquet")
    return root


def webdataset(splits, root, per_tar=10):
    """imagenet1k-train-0000.tar: jpg, cls and json a sample."""
    root.mkdir(parents=True)
    label = label_of(splits)
    for split, found in by_split(splits):
        for number, at in enumerate(range(0, len(found), per_tar)):
            files = []
            for _, wnid, name, data in found[at : at + per_tar]:
                key = name.removesuffix(".JPEG")
                files += [
                    (f"{key}.cls", str(label[wnid]).encode()),
                    (f"{key}.jpg", data),
                    (f"{key}.json", json.dumps({"label": label[wnid]}).encode()),
                ]
            tar(files, root / f"imagenet1k-{split}-{number:04}.tar")
    return root


def varint(number):
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*data, number])


def message(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(features):
    """A tf.train.Example: bytes and integers."""
    entries = b""
    for name, value in features.items():
        kind = message(1, message(1, value)) if isinstance(value, bytes) else message(3, message(1, varint(value)))
        entries += message(1, message(1, name.encode()) + message(2, kind))
    return message(1, entries)


def tfrecord(examples, path):
    from alexprep.pipeline.sources.formats.tfrecord import masked_crc

    with path.open("wb") as file:
        for data in examples:
            length = struct.pack("<Q", len(data))
            file.write(length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data)))
    return path


def tfds(splits, root):
    root.mkdir(parents=True)
    label = label_of(splits)
    for split, found in by_split(splits):
        for number in range(2):
            examples = [example({"file_name": row[2].encode(), "image": row[3], "label": label[row[1]]}) for row in found[number::2]]
            tfrecord(examples, root / f"imagenet2012-{split}.tfrecord-{number:05}-of-00002")
    return root


def slim(splits, root):
    """Labels count from 1; 0 is the background."""
    root.mkdir(parents=True)
    label = label_of(splits)
    for split, found in by_split(splits):
        for number in range(2):
            examples = [
                example(
                    {
                        "image/height": 70,
                        "image/encoded": data,
                        "image/class/label": label[wnid] + 1,
                        "image/class/synset": wnid.encode(),
                        "image/filename": name.encode(),
                    }
                )
                for _, wnid, name, data in found[number::2]
            ]
            tfrecord(examples, root / f"{split}-{number:05}-of-00002")
    return root


def ilsvrc2010(root):
    """ILSVRC-2010: other classes, and test images whose labels are public."""
    from scipy.io import savemat

    root.mkdir(parents=True)
    ids = ["n00000003", "n00000001", "n00000002"]  # by number
    inner = []
    for wnid in sorted(ids):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for number in range(4):
                add(archive, f"{wnid}_{number}.JPEG", jpeg(picture(number)))
        inner.append((f"{wnid}.tar", buffer.getvalue()))
    tar(inner, root / "ILSVRC2010_images_train.tar")
    files = [("devkit-1.0/readme.txt", b"...")]
    for split, long in (("val", "validation"), ("test", "test")):
        images = [(f"{split}/ILSVRC2010_{split}_{number:08}.JPEG", jpeg(picture(10 + number))) for number in range(1, 5)]
        tar(images, root / f"ILSVRC2010_images_{split}.tar")
        files.append((f"devkit-1.0/data/ILSVRC2010_{long}_ground_truth.txt", b"1\n2\n3\n1\n"))
    synsets = np.zeros(4, [("ILSVRC2010_ID", "O"), ("WNID", "O")])
    for row, (number, wnid) in zip(synsets, [*enumerate(ids, 1), (4, "n09999999")], strict=True):
        row["ILSVRC2010_ID"], row["WNID"] = float(number), wnid
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": synsets.reshape(-1, 1)})
    files.append(("devkit-1.0/data/meta.mat", buffer.getvalue()))
    tar(files, root / "ILSVRC2010_devkit-1.0.tar.gz", "w:gz")
    return root


def gzipped(path):
    path.write_bytes(gzip.compress(path.read_bytes()))
