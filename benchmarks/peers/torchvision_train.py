"""torchvision's alexnet with its usual recipe: FOLDER/train and FOLDER/val of images, STEPS, SEED, BATCH -> a line of JSON.

RandomResizedCrop, flip, mean and standard deviation; SGD 0.01, momentum 0.9, weight decay 5e-4; a tenth of the rate from 70 % of the steps on;
bfloat16 autocast and channels_last, as the other side has them. Errors of ten views (softmax averaged) and of the centre view, of 256x256 images.
"""

import json
import sys
import time
from itertools import count
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import alexnet
from torchvision.transforms import v2

NORMALISE = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
TRAIN = v2.Compose([v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), *NORMALISE])
TEST = v2.Compose(NORMALISE)


def train(model: torch.nn.Module, folder: Path, steps: int, batch: int) -> float:
    """Return the seconds that the steps took, without the first."""
    data = DataLoader(ImageFolder(folder, TRAIN), batch, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=5e-4)
    taken, start = 0, time.perf_counter()
    for _ in count():
        for images, labels in data:
            if taken == int(0.7 * steps):
                optimizer.param_groups[0]["lr"] /= 10
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(images.contiguous(memory_format=torch.channels_last))
            F.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
            taken += 1
            if taken == 1:
                start = time.perf_counter()
            if taken >= steps:
                return time.perf_counter() - start
    raise AssertionError


@torch.inference_mode()
def test(model: torch.nn.Module, folder: Path) -> dict[str, float]:
    """Return the top-1 errors."""
    wrong, images_seen = {"ten": 0, "one": 0}, 0
    ten, one = v2.TenCrop(224), v2.CenterCrop(224)
    for images, labels in DataLoader(ImageFolder(folder, TEST), 32, num_workers=2):
        views = torch.stack(ten(images), 1)
        averaged = model(views.flatten(0, 1)).softmax(1).reshape(len(images), 10, -1).mean(1)
        wrong["ten"] += int((averaged.argmax(1) != labels).sum())
        wrong["one"] += int((model(one(images)).argmax(1) != labels).sum())
        images_seen += len(images)
    return {name: value / images_seen for name, value in wrong.items()}


if __name__ == "__main__":
    folder, (steps, seed, batch) = Path(sys.argv[1]), map(int, sys.argv[2:5])
    torch.manual_seed(seed)
    torch.set_num_threads(2)
    network = alexnet(num_classes=len(list((folder / "train").iterdir()))).to(memory_format=torch.channels_last)
    seconds = train(network.train(), folder / "train", steps, batch)
    errors = test(network.eval(), folder / "val") if "--rate" not in sys.argv else {}
    print(json.dumps({"images_per_s": (steps - 1) * batch / seconds, "seconds": seconds, **errors}))
