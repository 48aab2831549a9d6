"""A ten-view evaluation as usually written: torchvision's ImageFolder, TenCrop and a DataLoader, and a network of torch's own layers.

FOLDER of class folders, HUB folder of `alextrain export --to hub-folder` (its weights and mean) -> a line of JSON.
"""

import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

BATCH = 32


class Norm(nn.Module):
    """Response normalisation within each of two towers; after it, in layer 2, within each map."""

    def __init__(self, within: bool) -> None:
        super().__init__()
        self.norm, self.within = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2), within

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = self.norm(x.reshape(2 * n, c // 2, h, w)).reshape(n, c, h, w)
        return x * (1 + 1e-3 * F.avg_pool2d(x * x, 5, stride=1, padding=2)) ** -0.75 if self.within else x


class Source(nn.Module):
    """The `source` network."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        widths = {name.split(".")[0]: value.shape for name, value in state.items() if name.endswith("weight")}
        self.conv1 = nn.Conv2d(3, widths["conv1"][0], 11, stride=4)
        self.conv2 = nn.Conv2d(widths["conv1"][0], widths["conv2"][0], 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(widths["conv2"][0], widths["conv3"][0], 3, padding=1)
        self.conv4 = nn.Conv2d(widths["conv3"][0], widths["conv4"][0], 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(widths["conv4"][0], widths["conv5"][0], 3, padding=1, groups=2)
        self.fc6, self.fc7, self.fc8 = (nn.Linear(widths[name][1], widths[name][0]) for name in ("fc6", "fc7", "fc8"))
        self.norm1, self.norm2, self.pool = Norm(within=False), Norm(within=True), nn.MaxPool2d(3, 2)
        self.load_state_dict(state)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.pool(self.norm1(self.conv1(F.pad(x, (0, 3, 0, 3))))))
        x = self.pool(self.norm2(F.relu(self.conv2(x))))
        x = self.pool(F.relu(self.conv5(F.relu(self.conv4(F.relu(self.conv3(x)))))))
        x = 0.5 * F.relu(self.fc6(x.flatten(1)))
        return self.fc8(0.5 * F.relu(self.fc7(x)))


if __name__ == "__main__":
    folder, hub = Path(sys.argv[1]), Path(sys.argv[2])
    state = load_file(hub / "model.safetensors")
    mean = state.pop("mean")
    model = Source({name.removeprefix("network."): value for name, value in state.items()}).eval()
    torch.set_num_threads(2)
    transform = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32), v2.TenCrop(224), lambda views: torch.stack(views) - mean])
    data = ImageFolder(folder, transform)
    wrong = seen = 0
    start = time.perf_counter()
    with torch.inference_mode():
        for images, labels in DataLoader(data, BATCH, num_workers=2):
            p = model(images.flatten(0, 1)).softmax(1).reshape(len(images), 10, -1).mean(1)
            wrong += int((p.argmax(1) != labels).sum())
            seen += len(images)
    seconds = time.perf_counter() - start
    print(json.dumps({"images_per_s": seen / seconds, "top1_error": wrong / seen}))
