"""Trains the multilayer perceptron for scikit-learn's digits that ships with the package: ``python -m vitloom.model.training.mlp``."""

# pyright: reportMissingImports=false
# torch and scikit-learn come with the extra `train`.

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..architectures import DATA, DIGITS_MLP
from ..checkpoint import save_checkpoint
from ..float_mlp import MlpConfig, forward
from ..float_ops import normalise
from ..golden import predict
from ..quantize import quantize_digits
from ..train_digits import augment, digits

__all__ = ["main"]

_BATCH = 64
_RATE = 4e-3


class Perceptron(nn.Module):
    """The float network, with its parameters' names."""

    def __init__(self, config: MlpConfig) -> None:
        super().__init__()
        width, patch = config.embed_dim, config.patch_size
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(config.in_chans, width, patch, patch)})
        self.layers = nn.ModuleList(nn.ModuleDict({"fc1": nn.Linear(width, width)}) for _ in config.hidden_layers)
        self.head = nn.Linear(width, config.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of normalised images (B, C, H, W)."""
        x = self.patch_embed["proj"](images).flatten(1)
        for layer in self.layers:
            x = layer["fc1"](functional.gelu(x))  # pyright: ignore[reportIndexIssue]
        return self.head(functional.gelu(x))


def train(config: MlpConfig, images: NDArray[np.uint8], labels: NDArray[np.int64], epochs: int) -> dict[str, NDArray[np.float32]]:
    """Parameters after ``epochs``; the same on every run of one torch on one machine."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Perceptron(config)
    inputs, targets = torch.from_numpy(normalise(config, images)), torch.from_numpy(labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=_RATE, total_steps=epochs * -(-len(inputs) // _BATCH), pct_start=0.1)
    for _ in range(epochs):
        for chosen in torch.randperm(len(inputs)).split(_BATCH):
            loss = functional.cross_entropy(model(augment(inputs[chosen])), targets[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def main() -> None:
    """Train, quantise, and write the two files of ``digits_mlp``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("-o", "--output", type=Path, default=DATA, help="folder for the files; digits_calibration.npz must be in it")
    arguments = parser.parse_args()
    images, test_images, labels, test_labels = digits()
    state = train(DIGITS_MLP, images, labels, arguments.epochs)
    save_checkpoint(arguments.output / "digits_mlp.safetensors", DIGITS_MLP, state)
    network = quantize_digits(arguments.output, "digits_mlp")
    network.save(arguments.output / "digits_mlp.int.safetensors")
    correct = int((forward(DIGITS_MLP, state, normalise(DIGITS_MLP, test_images)).argmax(axis=1) == test_labels).sum())
    correct_integer = int((predict(network, test_images) == test_labels).sum())
    print(f"correct of {len(test_labels)} test images: {correct} in floating point, {correct_integer} in integers")


if __name__ == "__main__":
    main()
