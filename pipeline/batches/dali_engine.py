"""Make batches on a GPU with a DALI graph (tests also run it on the CPU).

In:  a `StepInput` per step.    Out: tensors (views, labels, record numbers).

Nothing in the graph is random. Every crop offset, flip and colour shift is an input, drawn by
`augment`: DALI's own random operators depend on batch size and operator order. This is the only
module that imports `nvidia.dali`. `reference.py` computes the same in numpy; tests check that both
agree to the last bit.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from ..config import LoaderConfig
from ..errors import DataError
from ..shards.manifest import Manifest
from ..shards.stats import Stats
from .views import StepInput, Window, center_mean, channel_mean, divisor, mean_image, windows

try:
    from nvidia import dali
    from nvidia.dali import backend, fn, tensors, types
except ImportError as error:
    raise DataError(
        f"NVIDIA DALI cannot be imported ({error}): pip install 'alexprep[cuda12]', or 'alexprep[cuda13]' beside a CUDA 13 torch. "
        'Device "gpu" needs DALI; device "cpu" does not'
    ) from error

_backend: Any = backend  # a C++ module without complete type stubs


def build(config: LoaderConfig, manifest: Manifest, stats: Stats | None, batch: int, source: Callable[[int], StepInput]) -> Any:  # noqa: ANN401
    """Return a DALI pipeline that outputs (views, labels, records), at most `batch` per step.

    Views are float32 (float16 on a GPU if the config says so), of shape (crop, crop, 3) in the
    config's layout; (10, ...) for "ten". With device "gpu" and no device_id, the graph can be built
    and serialised, but not run, without a GPU.
    """
    size = manifest.config.size
    raw = manifest.config.encoding == "raw"
    gpu = config.device == "gpu"
    pipeline = dali.Pipeline(
        batch_size=batch, num_threads=config.threads, device_id=config.device_id if gpu else None, prefetch_queue_depth=config.prefetch, seed=0
    )
    with pipeline:
        inputs = 7 if config.view == "random" else 4
        image, label, record, shift, *window = fn.external_source(
            _Inputs(source, size - config.crop, ring=config.prefetch + 4),
            num_outputs=inputs,
            batch=True,
            no_copy=True,
            dtype=[types.UINT8, types.INT64, types.INT64, types.FLOAT, types.FLOAT, types.FLOAT, types.INT32][:inputs],
            ndim=[3 if raw else 1, 0, 0, 1, 0, 0, 0][:inputs],
            layout=["HWC" if raw else "", "", "", "", "", "", ""][:inputs],
        )
        image = (image.gpu() if gpu else image) if raw else decode(image, config.device)
        if config.mean == "pixel":
            image = image - types.Constant(mean_image(stats), device=config.device, layout="HWC")
        if config.view == "random":
            views = cut(image, Window(*window), shift, config, stats)
        else:
            room = max(size - config.crop, 1)
            fixed = [Window(w.top / room, w.left / room, w.flip) for w in windows(config.view, size - config.crop)]
            cuts = [cut(image, window, shift, config, stats) for window in fixed]
            views = cuts[0] if len(cuts) == 1 else fn.stack(*cuts, axis=0, axis_name="F")
        pipeline.set_outputs(views, *((label.gpu(), record.gpu()) if gpu else (label, record)))
    return pipeline


def decode(record: Any, device: str) -> Any:  # noqa: ANN401  (DALI's nodes are untyped)
    """Return uint8 pixels of JPEG records, decoded as Pillow and torchvision do.

    The reshape changes nothing, but makes the decoder wait until every header of the batch is
    parsed. Without it, DALI 2.4.0 crashes the process when one of 32 or more records has an
    unreadable header; with it, the step raises a RuntimeError.
    """
    shape = fn.cast(fn.peek_image_shape(record)[0:1] * 0 - 1, dtype=types.INT32)
    return fn.decoders.image(
        fn.reshape(record, shape=shape),
        device="mixed" if device == "gpu" else "cpu",
        output_type=types.RGB,
        adjust_orientation=False,
        jpeg_fancy_upsampling=True,  # as libjpeg-turbo always does; nvJPEG does it only if asked
        affine=False,  # otherwise the GPU decoders of all ranks pin their threads to the same CPUs
    )


def cut(image: Any, window: Window, shift: Any, config: LoaderConfig, stats: Stats | None) -> Any:  # noqa: ANN401
    """Return one view of every image: crop, mirror, subtract mean, add colour shift, divide.

    The shift is free: `crop_mirror_normalize` subtracts a mean per sample, and gets (mean - shift).
    """
    mean = types.Constant(channel_mean(config, stats)) - shift
    layout = "CHW" if config.layout == "CHW" else "HWC"
    view = fn.crop_mirror_normalize(
        image,
        crop=(config.crop, config.crop),
        crop_pos_y=window.top,
        crop_pos_x=window.left,
        mirror=window.flip,
        mean=mean,
        std=[divisor(config)] * 3,
        dtype=types.FLOAT16 if config.dtype == "float16" else types.FLOAT,
        output_layout=layout,
    )
    if config.mean == "center":
        centre = center_mean(stats, config.crop, divisor(config))
        centre = centre.transpose(2, 0, 1) if layout == "CHW" else centre
        centre = np.ascontiguousarray(centre.astype(config.dtype))
        view = view - types.Constant(centre, device=config.device, layout=layout)
    return view


def serving(size: int, crop: int, device: str, batch: int = 128) -> bytes:
    """Return a serialised graph for Triton's DALI backend.

    In: encoded images, `image`. Out: their centre views, `pixels`, float32 [3,crop,crop], 0..255.

    DALI's own filter scales the shorter side to `size`; it differs a little from the filter that
    makes records (imaging/codec.py).
    """
    gpu = device == "gpu"
    pipeline = dali.Pipeline(batch_size=batch, num_threads=4, device_id=None, seed=0)
    with pipeline:
        encoded = fn.external_source(name="image", device="cpu", dtype=types.UINT8, ndim=1)
        image = fn.decoders.image(encoded, device="mixed" if gpu else "cpu", output_type=types.RGB, adjust_orientation=False)
        image = fn.resize(image, resize_shorter=size, interp_type=types.INTERP_CUBIC, min_filter=types.INTERP_TRIANGULAR, antialias=True)
        view = fn.crop_mirror_normalize(
            image,
            crop=(crop, crop),
            rounding="truncate",  # of the centre offset, as imaging/codec.py does
            mean=[0.0],
            std=[1.0],
            dtype=types.FLOAT,
            output_layout="CHW",
            name="pixels",
        )
        pipeline.set_outputs(view)
    check_graph(pipeline)
    return bytes(pipeline.serialize())


class _Inputs:
    """DALI's callback: returns a step's input as arrays of the types that the graph declares.

    It keeps the tensors of the last few steps. Otherwise DALI would drop the last reference in a
    thread of its own, which waits for the GIL for every record.
    """

    def __init__(self, source: Callable[[int], StepInput], room: int, ring: int) -> None:
        self._source, self._room = source, np.float32(max(room, 1))
        self._ring: list[Any] = [None] * ring

    def __call__(self, iteration: int) -> tuple[Any, ...]:
        inputs = self._source(iteration)
        images = [tensors.TensorCPU(image, "HWC" if image.ndim == 3 else "") for image in inputs.images]
        out: tuple[Any, ...] = (images, inputs.labels, inputs.records, inputs.shift)
        if inputs.windows is not None:
            top, left, flip = inputs.windows
            # DALI recovers the exact offset from float32 offset / room, for room <= 2048 pixels.
            out += (top.astype(np.float32) / self._room, left.astype(np.float32) / self._room, flip.astype(np.int32))
        self._ring[iteration % len(self._ring)] = out
        return out


class DaliEngine:
    """Makes batches in step order on a GPU."""

    def __init__(self, config: LoaderConfig, manifest: Manifest, stats: Stats | None, source: Callable[[int], StepInput]) -> None:
        """Read the inputs of steps 0, 1, 2, ... from `source`."""
        share = -(-config.batch_size // config.world_size)
        self._config, self._pipeline = config, build(config, manifest, stats, share, source)

    ready = None  # unknown: DALI does not say how many batches are finished

    def run(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return (views, labels, record numbers) of the next step.

        Raises RuntimeError for whatever DALI cannot do, such as decode a damaged record.
        """
        stream = [torch.cuda.current_stream(self._config.device_id)] if self._config.device == "gpu" else []
        # No copy: DALI's memory lives as long as the tensor.
        views, labels, records = (from_dlpack(output.as_tensor()) for output in self._pipeline.run(*stream))
        return views.bfloat16() if self._config.dtype == "bfloat16" else views, labels, records

    def close(self) -> None:
        """Release the pipeline and its threads."""
        self._pipeline = None


def gpu_count() -> int:
    """Return the number of GPUs that DALI can use; 0 without a driver."""
    return int(_backend.GetCUDADeviceCount())


def require_gpu(device_id: int) -> None:
    """Raise DataError if there is no GPU `device_id`."""
    count = gpu_count()
    if count == 0:
        raise DataError('device "gpu" needs an NVIDIA GPU with its driver, and there is none on this machine: use device "cpu"')
    if not 0 <= device_id < count:
        raise DataError(f"there is no GPU {device_id}: this machine has {count}, numbered from 0")


def check_graph(pipeline: Any) -> list[tuple[str, str]]:  # noqa: ANN401  (DALI's pipeline is untyped)
    """Check a graph without running it, with or without a GPU; return its (operator, device) pairs.

    Serialising checks argument names and types, and that no CPU operator gets GPU data. It does not check that each
    operator exists on its device; the registry is asked for that. Raises TypeError or RuntimeError.
    """
    pipeline.serialize()
    registry = {"cpu": set(_backend.RegisteredCPUOps()), "gpu": set(_backend.RegisteredGPUOps()), "mixed": set(_backend.RegisteredMixedOps())}
    used = [(op._op.schema.Name(), op._op.device) for op in pipeline._ops]  # noqa: SLF001  (DALI has no public way)
    missing = [(name, device) for name, device in used if name not in registry[device]]
    if missing:
        raise TypeError(f"this DALI has no such operator on that device: {missing}")
    return used
