"""`alextrain export`: write a trained network for other programs."""

from pathlib import Path

import click

from ..options import USER_NETWORK, Grouped

FORMATS = ("safetensors", "onnx", "torch-export", "hub-folder", "triton")


@click.command(cls=Grouped)
@click.argument("checkpoint", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--to", "kind", required=True, type=click.Choice(FORMATS), help="Format to write.")
@click.option("--out", type=click.Path(path_type=Path), help="New file or folder to write.  [default: in the run's folder]")
@USER_NETWORK
@click.option("--device", default="gpu", show_default=True, type=click.Choice(["cpu", "gpu"]), help="Device of Triton's image decoding.")
def export(checkpoint: Path, kind: str, out: Path | None, model: str, device: str) -> None:
    """Write the network of a run for other programs.

    RUN is the folder of a run (its last.pt), or a .pt file. What is written is checked against torch.

    \b
    safetensors   the weights, nothing that runs
    onnx          pixels in, probabilities out, the mean image inside; compared with torch in onnxruntime to 1e-5
    torch-export  the same as a .pt2 for torch.export.load
    hub-folder    weights, config.json and a model card filled from the run
    triton        a model repository for NVIDIA Triton: DALI preprocessing, the ONNX network, and both as one
    """
    from alexprep.experiment.exporting.export import export as write

    for path, note in write(checkpoint, kind, out, model=model, device=device):
        click.echo(f"{path}{note and '  ' + note}")
