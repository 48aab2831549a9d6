"""The loaders of a run, opened when they are first needed."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from alexprep.model.distributed import Ranks
from alexprep.pipeline import Loader, Stats

from . import synthetic
from .config import RunConfig
from .measuring.evaluate import evaluation, open_loader


class RunLoaders:
    """Loaders of the training batches, with and without colour, and of the validation views."""

    def __init__(self, data: Path, settings: RunConfig, ranks: Ranks, feed: tuple[int, int], cache: Mapping[str, Any]) -> None:
        """Take the source of the batches; nothing is opened. `feed` is this rank's part of a training batch: (index of the part, number of parts)."""
        self._data, self._settings, self._ranks, self._feed, self._cache = data, settings, ranks, feed, cache
        self._open: dict[tuple[str, Any], Loader] = {}

    def training(self, step: int, epoch_steps: int, stats: Stats, *, colour: bool) -> Iterable[Any]:
        """Return the training batches from `step` to the end of its epoch."""
        if self._data == synthetic.NOWHERE:
            return synthetic.batches(step, epoch_steps, self._settings, self._feed, self._ranks.device)
        rank, world_size = self._feed
        strength = self._settings.data.colour if colour else 0.0
        loader = self._loader("train", colour, stats, colour=strength, rank=rank, world_size=world_size)
        loader.load_state_dict({"step": step})
        return loader

    def validation(self, split: str, views: int, stats: Stats) -> Loader:
        """Return the loader of a split with 1 or 10 views a record."""
        return self._loader(split, views, stats, **evaluation(split, views, self._settings, self._ranks))

    @property
    def of_training(self) -> Loader | None:
        """One of the training loaders; None if none is open yet."""
        return next((loader for (name, _), loader in self._open.items() if name == "train"), None)

    @property
    def ready(self) -> int:
        """Number of finished training batches that wait in the loader."""
        ready = (loader.ready for (name, _), loader in self._open.items() if name == "train")
        return next((count for count in ready if count), 0)

    def _loader(self, name: str, kind: Any, stats: Stats, **changes: Any) -> Loader:  # noqa: ANN401  (fields of LoaderConfig)
        if (name, kind) not in self._open:
            self._open[name, kind] = open_loader(self._data, self._settings, stats, self._ranks, **self._cache, **changes)
        return self._open[name, kind]
