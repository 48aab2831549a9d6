"""Plain PyTorch: a training loop written out, fed by `Loader`.

python examples/plain_pytorch.py shards/ --steps 20
python examples/plain_pytorch.py shards/ --steps 40 --checkpoint plain.pt           # saved after each epoch and at the end
python examples/plain_pytorch.py shards/ --steps 80 --checkpoint plain.pt --resume  # continues with step 41, as if never stopped
torchrun --nproc-per-node 2 examples/plain_pytorch.py shards/ --steps 20            # the same batches, half of each on either rank

Batches arrive finished, on the device: random crop, mirror and PCA colour, pixels of 0..255 minus the mean image. There are no transforms,
sampler, worker processes or copies to the device. The position of the loader is one integer, which goes into the checkpoint.
"""

import argparse
import os
from itertools import islice
from pathlib import Path

import torch
from alexprep.pipeline import Loader, read_manifest
from torch import distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="folder that alexprep shard made")
    parser.add_argument("--steps", type=int, default=100, help="steps in total, including those before a --resume")
    parser.add_argument("--batch-size", type=int, default=128, help="images per batch, over all ranks")
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["cpu", "gpu"], default="gpu" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--checkpoint", metavar="FILE")
    parser.add_argument("--resume", action="store_true", help="continue from --checkpoint")
    args = parser.parse_args()

    ranks = {"rank": int(os.environ.get("RANK", "0")), "world_size": int(os.environ.get("WORLD_SIZE", "1"))}  # torchrun sets them
    first, world_size, device = ranks["rank"] == 0, ranks["world_size"], torch.device("cpu")
    if args.device == "gpu":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)  # the loader uses the current device
    if world_size > 1:
        distributed.init_process_group("nccl" if args.device == "gpu" else "gloo")

    options = {"batch_size": args.batch_size, "crop": args.crop, "seed": args.seed, "device": args.device, "layout": "channels_last"}
    loader = Loader(args.shards, **options, **ranks)
    torch.manual_seed(args.seed)
    stem = [nn.Conv2d(3, 32, 7, stride=4), nn.GroupNorm(8, 32), nn.ReLU()]  # the norm accepts pixels of any scale
    head = [nn.Conv2d(32, 64, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(*stem, *head, nn.Linear(64, len(read_manifest(args.shards).classes))).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    if args.resume:
        state = torch.load(args.checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        loader.load_state_dict(state["loader"])  # at any number of ranks
    network = DistributedDataParallel(model) if world_size > 1 else model

    while (done := loader.state_dict()["step"]) < args.steps:
        for images, labels, records in islice(loader, args.steps - done):  # the rest of the epoch
            assert images.shape == (args.batch_size // world_size, 3, args.crop, args.crop)
            loss = F.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            mean = loss.detach() / world_size
            if world_size > 1:
                distributed.all_reduce(mean)
            if first:
                print(f"step {loader.state_dict()['step']}: loss {mean.item():.6f}, first record {records[0].item()}", flush=True)
        if args.checkpoint and first:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "loader": loader.state_dict()}
            torch.save(state, f"{args.checkpoint}.partial")
            Path(f"{args.checkpoint}.partial").replace(args.checkpoint)
    if world_size > 1:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
