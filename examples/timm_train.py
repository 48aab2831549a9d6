"""timm: its model, optimizer, schedule, Mixup and training task, with `Loader` instead of `timm.data.create_loader`.

python examples/timm_train.py shards/ --steps 20
python examples/timm_train.py shards/ --steps 40 --checkpoint timm.pt           # saved after each epoch and at the end
python examples/timm_train.py shards/ --steps 80 --checkpoint timm.pt --resume  # continues with step 41, as if never stopped
torchrun --nproc-per-node 2 examples/timm_train.py shards/ --steps 20           # the same batches, half of each on either rank

Batches arrive finished, on the device: random crop, mirror and PCA colour, pixels of 0..255 minus the mean image. They replace timm's transforms,
prefetcher and normalisation; the BatchNorm of the model's stem accepts that scale. (Pretrained weights need timm's own scale: use a Loader
with mean="none", then (images / 255 - mean) / std as in model.pretrained_cfg.) Mixup and CutMix take finished batches and stay.
"""

import argparse
from itertools import islice
from pathlib import Path

import timm
import torch
from alexprep.pipeline import Loader, read_manifest
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.task import ClassificationTask
from timm.utils import random_seed, reduce_tensor
from timm.utils.distributed import init_distributed_device_so


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="folder that alexprep shard made")
    parser.add_argument("--model", default="resnet10t")
    parser.add_argument("--steps", type=int, default=100, help="steps in total, including those before a --resume")
    parser.add_argument("--batch-size", type=int, default=128, help="images per batch, over all ranks")
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["cpu", "gpu"], default="gpu" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--checkpoint", metavar="FILE")
    parser.add_argument("--resume", action="store_true", help="continue from --checkpoint")
    args = parser.parse_args()

    joined = init_distributed_device_so("cuda" if args.device == "gpu" else "cpu")  # torchrun's ranks, if any, and the device of this rank
    rank, world_size, device = joined["global_rank"], joined["world_size"], torch.device(joined["device"])
    options = {"batch_size": args.batch_size, "crop": args.crop, "seed": args.seed, "device": args.device, "layout": "channels_last"}
    loader = Loader(args.shards, **options, rank=rank, world_size=world_size)

    random_seed(args.seed)
    classes = len(read_manifest(args.shards).classes)
    model = timm.create_model(args.model, num_classes=classes).to(device, memory_format=torch.channels_last)
    mixup = Mixup(mixup_alpha=0.2, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=classes)
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.1, weight_decay=5e-5)
    schedule, _ = create_scheduler_v2(optimizer, "cosine", num_epochs=90, warmup_epochs=5, step_on_epochs=False, updates_per_epoch=len(loader))
    task = ClassificationTask(model, SoftTargetCrossEntropy(), device=device)
    if args.resume:
        state = torch.load(args.checkpoint, map_location=device, weights_only=True)
        task.load_checkpoint_state(state["state_dict"])
        optimizer.load_state_dict(state["optimizer"])  # includes the learning rate
        loader.load_state_dict(state["loader"])  # at any number of ranks
    if world_size > 1:
        task.prepare_distributed(device_ids=[device] if args.device == "gpu" else None)

    task.train()
    while (done := loader.state_dict()["step"]) < args.steps:
        for images, labels, records in islice(loader, args.steps - done):  # the rest of the epoch
            assert images.shape == (args.batch_size // world_size, 3, args.crop, args.crop)
            step = loader.state_dict()["step"]  # equals the number of updates, including this one
            random_seed(args.seed + step * world_size, rank)  # so the draws of Mixup and drop path depend only on the step and the rank
            loss = task(*mixup(images, labels))["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step_update(step)
            mean = reduce_tensor(loss.detach(), world_size) if world_size > 1 else loss
            if rank == 0:
                print(f"step {step}: loss {mean.item():.6f}, first record {records[0].item()}", flush=True)
        if args.checkpoint and rank == 0:
            state = {**task.get_checkpoint_state(), "optimizer": optimizer.state_dict(), "loader": loader.state_dict()}
            torch.save(state, f"{args.checkpoint}.partial")
            Path(f"{args.checkpoint}.partial").replace(args.checkpoint)
    if world_size > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
