"""Lightning: `Loader` as the train_dataloader of a LightningDataModule.

python examples/lightning_module.py shards/ --steps 20
python examples/lightning_module.py shards/ --steps 40 --checkpoint lightning.ckpt           # saved at the end
python examples/lightning_module.py shards/ --steps 80 --checkpoint lightning.ckpt --resume  # continues with step 41, as if never stopped
python examples/lightning_module.py shards/ --steps 20 --devices 2                           # the same batches, half of each on either rank

Batches arrive finished, on the device: random crop, mirror and PCA colour, pixels of 0..255 minus the mean image. Each rank makes its own part,
so Lightning must not insert a sampler. A Lightning checkpoint holds the state of a dataloader that has `state_dict` and `load_state_dict`, as
this one has: a run continues in mid-epoch with the very next batch, without any code for it.
"""

import argparse
from typing import Any

import lightning as L
import torch
from alexprep.pipeline import Batch, Loader, read_manifest
from torch import Tensor, nn
from torch.nn import functional as F


class Shards(L.LightningDataModule):
    def __init__(self, directory: str, **options: Any) -> None:  # noqa: ANN401  (fields of LoaderConfig)
        super().__init__()
        self.directory, self.options = directory, options

    def train_dataloader(self) -> Loader:
        return Loader(self.directory, **self.options, rank=self.trainer.global_rank, world_size=self.trainer.world_size)


class Classifier(L.LightningModule):
    def __init__(self, classes: int) -> None:
        super().__init__()
        stem = [nn.Conv2d(3, 32, 7, stride=4), nn.GroupNorm(8, 32), nn.ReLU()]  # the norm accepts pixels of any scale
        head = [nn.Conv2d(32, 64, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes)]
        self.network = nn.Sequential(*stem, *head).to(memory_format=torch.channels_last)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        options = self.trainer.datamodule.options
        assert batch.images.shape == (options["batch_size"] // self.trainer.world_size, 3, options["crop"], options["crop"])
        loss = F.cross_entropy(self.network(batch.images), batch.labels)
        mean = self.trainer.strategy.reduce(loss.detach().clone())
        if self.trainer.is_global_zero:
            print(f"step {self.global_step + 1}: loss {mean.item():.6f}, first record {batch.records[0].item()}", flush=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="folder that alexprep shard made")
    parser.add_argument("--steps", type=int, default=100, help="steps in total, including those before a --resume")
    parser.add_argument("--batch-size", type=int, default=128, help="images per batch, over all ranks")
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["cpu", "gpu"], default="gpu" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--devices", default="auto", help="number of ranks on this machine; auto: all GPUs")
    parser.add_argument("--checkpoint", metavar="FILE")
    parser.add_argument("--resume", action="store_true", help="continue from --checkpoint")
    args = parser.parse_args()

    L.seed_everything(args.seed, verbose=False)
    data = Shards(args.shards, batch_size=args.batch_size, crop=args.crop, seed=args.seed, device=args.device, layout="channels_last")
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(accelerator=args.device, devices=args.devices, max_steps=args.steps, use_distributed_sampler=False, **quiet)
    module = Classifier(len(read_manifest(args.shards).classes))
    trainer.fit(module, data, ckpt_path=args.checkpoint if args.resume else None, weights_only=True)
    if args.checkpoint:
        trainer.save_checkpoint(args.checkpoint)


if __name__ == "__main__":
    main()
