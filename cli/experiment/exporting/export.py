"""Write the formats of `alextrain export`.

An export is read back and compared with torch before it gets its name.
"""

import io
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from alexprep.model.distributed import Ranks
from alexprep.model.events import Measured, of_kind
from alexprep.model.networks.inference import CONFIG, WEIGHTS, Architecture, Deployed, config_of, load
from alexprep.pipeline import DataError
from alexprep.pipeline.batches.views import center_mean
from alexprep.pipeline.sources.listing import some
from alexprep.pipeline.storage.files import published, published_folder

from ..measuring.evaluate import Trained
from ..run_folder import RunFolder
from .model_card import card, preprocessing
from .triton import triton_configs, triton_notes

CLOSE = 1e-5  # maximum difference of another engine's probabilities
NAMES = {"safetensors": WEIGHTS, "onnx": "model.onnx", "torch-export": "model.pt2", "hub-folder": "hub", "triton": "triton"}
Written = tuple[Path, str]  # path and a note on it


def export(checkpoint: str | Path, kind: str, out: str | Path | None = None, *, model: str = "", device: str = "gpu") -> list[Written]:
    """Write a checkpoint in a format of NAMES, and check it; return what was written.

    checkpoint   folder of a run (its last.pt) or a .pt file
    kind         "safetensors", "onnx", "torch-export", "hub-folder" or "triton"
    out          new file or folder; None: in the run's folder
    model        package:function that made the network, if it is the user's own
    device       where Triton's preprocessing decodes images, "gpu" or "cpu"

    DataError if `out` exists, or the export gives other probabilities than torch.
    """
    checkpoint, own = Path(checkpoint), model
    if kind not in NAMES:
        raise DataError(f"no format {kind}: expected one of {', '.join(NAMES)}")
    trained = Trained.load(checkpoint, Ranks(), own)
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    _refuse_diverged(trained, checkpoint)
    out = folder / NAMES[kind] if out is None else Path(out)
    _refuse_existing(out)
    if kind in ("hub-folder", "triton") and own:
        raise DataError(f"{kind} works only for networks of this project, which others can build from its config")
    return _Export(trained, _deployed(trained), RunFolder(folder)).write(kind, out, device)


class _Export:
    def __init__(self, trained: Trained, model: Deployed, folder: RunFolder) -> None:
        self.trained, self.model, self.folder = trained, model, folder

    def write(self, kind: str, out: Path, device: str) -> list[Written]:
        writers: dict[str, Callable[[], list[Written]]] = {
            "safetensors": lambda: self._file(out, self._safetensors, "the network's weights and `mean`"),
            "onnx": lambda: self._file(out, self._onnx, "equals torch to 1e-5 in onnxruntime"),
            "torch-export": lambda: self._file(out, self._torch_export, "for torch.export.load"),
            "hub-folder": lambda: self._hub(out),
            "triton": lambda: self._triton(out, device),
        }
        return writers[kind]()

    def _file(self, out: Path, make: Callable[[], bytes], note: str) -> list[Written]:
        notes = out.with_name(f"{out.name}.md")
        _refuse_existing(notes)
        content = make()  # compared with torch before anything is written
        for path, data in ((out, content), (notes, preprocessing(self.trained).encode())):
            with published(path) as file:
                file.write(data)
        return [(out, note), (notes, "how images become its input")]

    def _safetensors(self) -> bytes:
        from safetensors.torch import save

        tensors = {name: value.contiguous() for name, value in self.model.state_dict().items()}
        return save(tensors, metadata={"alexprep": json.dumps(self._config())})

    def _config(self) -> dict[str, Any]:
        settings = self.trained.settings
        network = settings.network
        architecture = Architecture(network.preset, len(self.trained.classes), network.width, settings.data.crop, network.ablations)
        facts = {
            "record_size": self._size,
            "mean": settings.data.mean,
            "step": self.trained.step,
            "plan": self.trained.plan,
            "model": settings.network.model,
        }
        return config_of(architecture, list(self.trained.classes), facts)

    @property
    def _size(self) -> int:
        return int(self.trained.stats.mean_image.shape[0])

    def _onnx(self) -> bytes:
        import onnxruntime

        inputs = self._inputs()
        with _quiet():
            program = torch.onnx.export(
                self.model,
                (inputs,),
                dynamo=True,
                input_names=["pixels"],
                output_names=["probabilities"],
                dynamic_shapes={"pixels": {0: torch.export.Dim("batch", min=1, max=65536)}},
                verbose=False,
            )
            assert program is not None
        proto = program.model_proto
        proto.doc_string = preprocessing(self.trained)
        for name, value in (("classes", json.dumps(self.trained.classes)), ("preprocessing", preprocessing(self.trained))):
            proto.metadata_props.add(key=name, value=value)
        content = bytes(proto.SerializeToString())
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        for batch in (inputs, inputs[:1]):
            self._compare("ONNX", torch.from_numpy(session.run(None, {"pixels": batch.numpy()})[0]), batch)
        return content

    def _torch_export(self) -> bytes:
        inputs, file = self._inputs(), io.BytesIO()
        with _quiet():
            program = torch.export.export(self.model, (inputs,), dynamic_shapes={"pixels": {0: torch.export.Dim("batch", min=1, max=65536)}})
            torch.export.save(program, file)
            file.seek(0)
            again = torch.export.load(file).module()
        with torch.inference_mode():
            self._compare("torch.export", again(inputs), inputs)
        return file.getvalue()

    def _hub(self, out: Path) -> list[Written]:
        with _folder(out) as folder:
            (folder / WEIGHTS).write_bytes(self._safetensors())
            results = [result for result in of_kind(self.folder.events(), Measured) if result.step == self.trained.step]
            (folder / CONFIG).write_text(json.dumps(self._config(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            (folder / "README.md").write_text(card(self.trained, self.folder.start(), results), encoding="utf-8")
            again, _ = load(folder)
            with torch.inference_mode():
                inputs = self._inputs()
                self._compare("the folder", again(inputs), inputs)
        return [(out / name, "") for name in ("README.md", CONFIG, WEIGHTS)]

    def _triton(self, out: Path, device: str) -> list[Written]:
        from alexprep.pipeline.batches.dali_engine import serving

        with _folder(out) as folder:
            for name, text in triton_configs(self.trained, device).items():
                (folder / name / "1").mkdir(parents=True)
                (folder / name / "config.pbtxt").write_text(text, encoding="utf-8")
            (folder / "preprocess" / "1" / "model.dali").write_bytes(serving(self._size, self.trained.settings.data.crop, device))
            (folder / "network" / "1" / "model.onnx").write_bytes(self._onnx())
            # an ensemble has no file, but the folder of its version must exist
            (folder / "classify" / "1" / ".keep").touch()
            (folder / "README.md").write_text(triton_notes(self.trained, device), encoding="utf-8")
        return [(out, "tritonserver --model-repository; the graph is checked, but was not tried in Triton itself")]

    def _inputs(self) -> torch.Tensor:
        """Return float32[3,3,crop,crop]: two images of noise, and the mean image."""
        crop = self.trained.settings.data.crop
        noise = torch.rand(2, 3, crop, crop, generator=torch.Generator().manual_seed(0)) * 255
        return torch.cat([noise, self.model.mean[None]])

    def _compare(self, what: str, other: torch.Tensor, inputs: torch.Tensor) -> None:
        with torch.inference_mode():
            furthest = float((self.model(inputs) - other).abs().max())
        if not furthest <= CLOSE:
            raise DataError(f"{what} gives probabilities that differ by {furthest:.2g} from torch's, more than {CLOSE:g}; nothing was written")


def _refuse_diverged(trained: Trained, checkpoint: Path) -> None:
    """Raise DataError if a number of the network or of the mean image is not finite."""
    numbers = {name: value for name, value in trained.model.state_dict().items() if value.is_floating_point()}
    numbers["the mean image"] = torch.from_numpy(trained.stats.mean_image)
    bad = [name for name, value in numbers.items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise DataError(f"the weights in {checkpoint} have diverged ({some(bad)} are not finite): nothing was written; export an earlier checkpoint")


def _refuse_existing(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise DataError(f"{path} is already there; delete it, or choose another --out")


def _deployed(trained: Trained) -> Deployed:
    """Return the network with the mean that is subtracted from a centre view."""
    crop = trained.settings.data.crop
    mean = np.zeros((crop, crop, 3), np.float32)
    if trained.settings.data.mean in ("pixel", "center"):
        mean = center_mean(trained.stats, crop, 1.0)
    elif trained.settings.data.mean == "channel":
        mean = mean + trained.stats.colours.mean.astype(np.float32)
    return Deployed(trained.model, torch.from_numpy(np.ascontiguousarray(mean.transpose(2, 0, 1))))


@contextmanager
def _folder(out: Path) -> Iterator[Path]:
    """Yield a folder that gets the name `out` when it is complete."""
    try:
        with published_folder(out) as folder:
            yield folder
    except OSError as error:
        raise DataError(f"cannot write {out}: {error.strerror or error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings of torch's exporters about their own parts."""
    import logging

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
