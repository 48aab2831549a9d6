"""What can be chosen: one frozen dataclass a stage, checked when made. Defaults are written here and nowhere else."""

import os
from dataclasses import asdict, dataclass
from operator import index
from typing import Any, Literal, get_args

Encoding = Literal["jpeg", "raw"]
Subsampling = Literal["444", "420"]
Device = Literal["cpu", "gpu"]
Mean = Literal["pixel", "center", "channel", "none"]
Views = Literal["random", "center", "ten"]
Layout = Literal["CHW", "channels_last"]
Shuffle = Literal["full", "block", "none"]
OnBad = Literal["raise", "skip"]
Dtype = Literal["float32", "bfloat16", "float16"]
Form = Literal["records", "views", "batches"]


def check(condition: bool, message: str) -> None:  # noqa: FBT001  (reads as an assertion)
    """Raise ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def whole_number(name: str, value: Any) -> int:  # noqa: ANN401  (from users)
    """Return an int, or a numpy integer as int; ValueError for anything else."""
    check(not isinstance(value, bool) and hasattr(value, "__index__"), f"{name} must be a whole number, got {value!r}")
    return index(value)


def check_choice(name: str, value: Any, choices: Any) -> None:  # noqa: ANN401  (a Literal type has no type of its own)
    """Raise ValueError unless `value` is one of the strings of the Literal type `choices`."""
    check(value in get_args(choices), f"{name} must be one of {', '.join(get_args(choices))}; got {value!r}")


@dataclass(frozen=True)
class ShardConfig:
    """How source images become records. All of it is part of the plan: other values give other bytes."""

    size: int = 256  # pixels a side of a record (paper, section 2)
    encoding: Encoding = "jpeg"
    quality: int = 95  # of JPEG records; the 2012 tools wrote q95 too
    records_per_shard: int = 4096  # at most; about 170 MB of JPEG records, 800 MB of raw ones
    subsampling: Subsampling = "444"  # of JPEG records: colour at full resolution, so that PCA colour has something to work on; "420": at half

    def __post_init__(self) -> None:
        """Refuse values that no shard can have."""
        for name in ("size", "quality", "records_per_shard"):
            check(type(getattr(self, name)) is int, f"{name} must be a whole number, got {getattr(self, name)!r}")
        check(8 <= self.size <= 4096, f"size must be 8..4096 pixels, got {self.size}")
        check_choice("encoding", self.encoding, Encoding)
        check_choice("subsampling", self.subsampling, Subsampling)
        check(1 <= self.quality <= 100, f"quality must be 1..100, got {self.quality}")
        # The per-pixel sums of a shard are uint32: 255 * 2**24 is the last that fits.
        check(1 <= self.records_per_shard <= 1 << 20, f"records_per_shard must be 1..1048576, got {self.records_per_shard}")

    def to_json(self) -> dict[str, Any]:
        """Return the parameters as plans, manifests and shards have them.

        What is younger than format version 1 is left out while it is as it always was: the plan, and with it repair and append,
        of an older data set stay what they were.
        """
        value = asdict(self)
        if self.subsampling == "444":
            del value["subsampling"]
        return value


@dataclass(frozen=True)
class LoaderConfig:
    """Which batches a `Loader` makes, and how.

    split       of the manifest: "train", "val", ...
    batch_size  of all ranks together
    views       "random": shuffled, random crop, flip and colour, partial last batch dropped; "center": the centre crop;
                "ten": four corners, centre, and their mirrors. The last two go through the split once, in stored
                order, every record exactly once. None: "random" for train, "center" for any other split.
    mean        subtracted: "pixel", the mean image at the crop's own offset (the paper's text); "center", the centre
                crop of the mean image from every crop (what the 2012 code did); "channel"; or "none"
    colour      standard deviation of the PCA colour alphas (paper, section 4.1: 0.1); 0 switches it off
    divide      random views are divided by this while colour is on (2012 code: 1.1)
    shuffle     of random views: "full"; "block", which reads in runs of 512 records and mixes 16 runs at a time, for disks and
                stores that are slow at random; "none", stored order each epoch
    mirror      whether half of the random views are mirrored
    on_bad      a damaged record: "raise" stops with its name; "skip" gives the next good record instead, with a warning
                (random views only: an evaluation counts every record once, or not at all)
    dtype       of the images: "float32", "bfloat16" or "float16"
    threads     None: as many as the CPUs that this process may use
    device_id   of the GPU, None: the current one of torch
    cache       local folder for the shards of an object store, which any number of ranks share
    cache_size  of that folder, bytes
    form        of what a service (`grpc://...`) sends: "records", as they are stored, from which everything is made here; "views", cut
                out and mirrored, uint8; "batches", finished
    patience    seconds without an answer from any of its servers before that is an error
    """

    split: str = "train"
    batch_size: int = 128
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    device: Device = "cpu"
    crop: int = 224
    views: Views | None = None
    mean: Mean = "pixel"
    colour: float = 0.1
    divide: float = 1.0
    mirror: bool = True
    shuffle: Shuffle = "full"
    on_bad: OnBad = "raise"
    layout: Layout = "CHW"
    dtype: Dtype = "float32"
    threads: int | None = None
    prefetch: int = 2
    device_id: int | None = None
    cache: str | None = None
    cache_size: int = 100 << 30
    form: Form = "records"
    patience: float = 120.0

    def __post_init__(self) -> None:
        """Refuse values that no loader can have."""
        for name in ("batch_size", "seed", "rank", "world_size", "crop", "prefetch", "cache_size", "threads", "device_id"):
            value = getattr(self, name)
            if value is not None or name not in ("threads", "device_id"):
                object.__setattr__(self, name, whole_number(name, value))
        for name in ("colour", "divide", "patience"):
            check(isinstance(getattr(self, name), int | float), f"{name} must be a number, got {getattr(self, name)!r}")
        check(0 <= self.seed < 1 << 64, f"seed must be 0..2**64-1, got {self.seed}")
        check(self.world_size >= 1, f"world_size must be at least 1, got {self.world_size}")
        check(0 <= self.rank < self.world_size, f"rank must be 0..{self.world_size - 1} (world_size is {self.world_size}), got {self.rank}")
        check(self.batch_size >= self.world_size, f"batch_size counts all ranks and must be at least {self.world_size}, got {self.batch_size}")
        check_choice("device", self.device, Device)
        check(self.crop >= 1, f"crop must be at least 1 pixel, got {self.crop}")
        if self.views is not None:
            check_choice("views", self.views, Views)
        check_choice("mean", self.mean, Mean)
        check(0 <= self.colour <= 1000, f"colour must be a standard deviation, 0..1000, got {self.colour}")
        check(1e-3 <= self.divide <= 1e6, f"divide must be 0.001..1,000,000, got {self.divide}")
        check(type(self.mirror) is bool, f"mirror must be true or false, got {self.mirror!r}")
        check_choice("shuffle", self.shuffle, Shuffle)
        check_choice("on_bad", self.on_bad, OnBad)
        check(self.on_bad == "raise" or self.view == "random", "on_bad=skip would count a record twice in an evaluation; use alexprep repair")
        check(
            self.cache is None or ("://" not in (cache := os.fspath(self.cache)) and cache != ""), f"cache must be a local folder, got {self.cache!r}"
        )
        check(self.cache_size > 0, f"cache_size must be a number of bytes above 0, got {self.cache_size}")
        check_choice("layout", self.layout, Layout)
        check_choice("dtype", self.dtype, Dtype)
        check_choice("form", self.form, Form)
        check(1 <= self.patience <= 86400, f"patience must be 1..86,400 seconds, got {self.patience}")
        check(self.batch_size <= 1 << 20, f"batch_size must be at most {1 << 20}, got {self.batch_size}")
        check(self.threads is None or 1 <= self.threads <= 1024, f"threads must be 1..1024, got {self.threads}")
        check(1 <= self.prefetch <= 64, f"prefetch must be 1..64, got {self.prefetch}")
        if self.view == "random":
            check(
                self.batch_size % self.world_size == 0,
                f"batch_size counts all ranks and must be divisible by world_size: {self.batch_size} by {self.world_size}",
            )

    @property
    def view(self) -> Views:
        """The views with the default filled in."""
        return self.views or ("random" if self.split == "train" else "center")
