"""The packages and compiled modules of the wheel, read from the folders; everything else is in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parent


def package(folder: Path) -> str:
    """Return the package that a folder is: pipeline/storage is alexprep.pipeline.storage.files, cli/experiment is alexprep.experiment."""
    parts = folder.relative_to(ROOT).parts
    return ".".join(("alexprep", *(parts[1:] if parts[:2] == ("cli", "experiment") else parts)))


def compiled(name: str, source: str, *flags: str) -> Extension:
    """Return a compiled module, which is rebuilt when any file beside its source changes."""
    beside = sorted(str(path.relative_to(ROOT)) for path in (ROOT / source).parent.glob("*.[ch]"))
    # -ffp-contract=off: no fused multiply-add, the bits are the same everywhere; -g0: no paths of the build.
    # optional: without a compiler, kernels.py computes the same with numpy or torch
    return Extension(name, [source], depends=beside, extra_compile_args=["-O3", "-ffp-contract=off", "-Wno-psabi", "-g0", *flags], optional=True)


folders = {
    package(path.parent): str(path.parent.relative_to(ROOT)) for top in ("pipeline", "model", "cli") for path in (ROOT / top).rglob("__init__.py")
}
setup(
    packages=sorted(folders),
    package_dir=folders,
    ext_modules=[
        # -fwrapv: damaged files overflow sums, which are then thrown away
        compiled("alexprep.pipeline.imaging._kernels", "pipeline/imaging/native/module.c", "-fwrapv"),
        # the same for processors of 2013 and later
        compiled(
            "alexprep.pipeline.imaging._kernels_avx2", "pipeline/imaging/native/module_avx2.c", "-fwrapv", "-mavx2", "-mbmi", "-mbmi2", "-mf16c"
        ),
        # -fno-math-errno: a square root is one instruction
        compiled("alexprep.model.networks._kernels", "model/networks/native/kernels.c", "-fno-math-errno"),
    ],
)
