"""Real data and checkpoints that may lie beside the checkout, and the networks they belong to; tests skip without."""

from __future__ import annotations

import functools
import gzip
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT = Path(os.environ.get("LANDSCAPE_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def shared(*parts: str) -> Path:
    """A path under the folder of shared data; skips the test when it is absent."""
    path = ROOT.joinpath(*parts)
    if not path.exists():
        import pytest  # scripts that take these networks do without

        pytest.skip(f"needs {'/'.join(parts)} of the shared data; set LANDSCAPE_SHARED to its folder")
    return path


@functools.cache
def mnist_train() -> tuple[Tensor, Tensor]:
    """The 60,000 MNIST training images, scaled to [-1, 1] as the golden surfaces have it, and labels."""

    def read(name: str, offset: int) -> np.ndarray:
        with gzip.open(shared("data", "mnist", name)) as file:
            return np.frombuffer(file.read(), np.uint8, offset=offset)

    images = read("train-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28).astype(np.float32)
    labels = read("train-labels-idx1-ubyte.gz", 8).astype(np.int64)
    return torch.from_numpy((images / 255 - 0.5) / 0.5), torch.from_numpy(labels)


def cifar10_test(count: int = 10_000) -> tuple[Tensor, Tensor]:
    """The first CIFAR-10 test images, normalised as the ResNet-20 checkpoint was trained, and labels."""
    with np.load(shared("data", "cifar10", "cifar10_test.npz")) as file:
        images, labels = (file[name][:count] for name in file.files[:2])
    mean = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
    std = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]
    return torch.from_numpy((images.astype(np.float32) / 255 - mean) / std), torch.from_numpy(labels.astype(np.int64))


class Dense(nn.Module):
    """Fully connected ReLU network fc1..fcN."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.depth = len(widths) - 1
        for i in range(self.depth):
            setattr(self, f"fc{i + 1}", nn.Linear(widths[i], widths[i + 1]))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for i in range(self.depth):
            x = getattr(self, f"fc{i + 1}")(x)
            if i + 1 < self.depth:
                x = F.relu(x)
        return x


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.padding = stride, outputs // 4

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(y + x)


class ResNet(nn.Module):
    """CIFAR ResNet (He et al. 2015) with parameter-free shortcuts, of 6 n + 2 layers."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        inputs = 16
        for stage, outputs in enumerate((16, 32, 64)):
            blocks = []
            for i in range(n):
                blocks.append(_Block(inputs, outputs, 2 if stage and not i else 1))
                inputs = outputs
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.avg_pool2d(x, x.size(3)).flatten(1))


class ResNet20(ResNet):
    """The ResNet of 20 layers."""

    def __init__(self) -> None:
        super().__init__(3)


def resnet20_checkpoint() -> Path:
    """The trained ResNet-20."""
    return shared("data", "ckpt_cifar10_resnet", "resnet20_akamaster.safetensors")
