"""`alextrain export`: a trained network for other programs."""

from pathlib import Path

import click

from .options import OWN

FORMATS = ("safetensors", "onnx", "torch-export", "hub-folder", "triton")


@click.command()
@click.argument("checkpoint", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--to", "kind", required=True, type=click.Choice(FORMATS), help="What to write.")
@click.option("--out", type=click.Path(path_type=Path), help="File or folder to write; it must not be there yet.  [default: in the run's folder]")
@OWN
@click.option("--device", default="gpu", show_default=True, type=click.Choice(["cpu", "gpu"]), help="triton: where its preprocessing decodes images.")
def export(checkpoint: Path, kind: str, out: Path | None, model: str, device: str) -> None:
    """Write the network of a run (its last.pt, or a .pt file) for other programs, and check what was written.

    \b
    safetensors   the weights, nothing that runs
    onnx          pixels in, probabilities out, the mean image inside; compared with torch in onnxruntime to 1e-5
    torch-export  the same as a .pt2 for torch.export.load
    hub-folder    weights, config.json and a model card filled from the run
    triton        a model repository for NVIDIA Triton: DALI preprocessing, the ONNX network, and both as one
    """
    from .exporting import export_to

    for path, note in export_to(checkpoint, kind, out, model, device):
        click.echo(f"{path}{note and '  ' + note}")
