"""Trains the shipped network, a small vision transformer for scikit-learn's digits: ``python -m vitloom.model.train_digits``."""

# pyright: reportMissingImports=false
# torch and scikit-learn come with the extra `train`.

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

from .architectures import DATA, DIGITS
from .checkpoint import save_checkpoint
from .float_ops import normalise
from .float_vit import LAYER_NORM_EPSILON, ViTConfig, forward
from .golden import predict
from .quantize import quantize_digits

__all__ = ["main"]

CALIBRATION_IMAGES = 200
SAMPLES = 20


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, tokens, width) to the same shape."""
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attention = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, tokens, width) to the same shape."""
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        width = config.embed_dim
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPSILON)
        self.attn = Attention(width, config.num_heads)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPSILON)
        self.mlp = Mlp(width, config.hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, tokens, width) to the same shape."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Vision transformer with timm's parameter names; no distillation token."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        width, patch = config.embed_dim, config.patch_size
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, config.tokens, width) * 0.02)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(config.in_chans, width, patch, patch)})
        self.blocks: Any = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPSILON)
        self.head = nn.Linear(width, config.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of normalised images (B, C, H, W)."""
        x = self.patch_embed["proj"](images).flatten(2).mT
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def digits() -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Training images, test images (n, 1, 8, 8) uint8 in 0..255, training labels, test labels; 1437 and 360."""
    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    split = train_test_split(pixels, labels, test_size=0.2, random_state=0, stratify=labels)
    train, test, train_labels, test_labels = (np.asarray(part) for part in split)
    return train, test, train_labels, test_labels


def augment(images: Tensor) -> Tensor:
    """Each image turned by up to 10 degrees, scaled by up to 10 % and moved by up to one pixel; outside is the background."""
    count = len(images)
    angle = (torch.rand(count) * 2 - 1) * np.pi / 18
    size = 1 + (torch.rand(count) * 2 - 1) * 0.1
    cos, sin = size * angle.cos(), size * angle.sin()
    move = (torch.rand(count, 2) * 2 - 1) * 2 / images.shape[-1]
    transform = torch.stack([torch.stack([cos, -sin, move[:, 0]], 1), torch.stack([sin, cos, move[:, 1]], 1)], 1)
    grid = functional.affine_grid(transform, list(images.shape), align_corners=False)
    return functional.grid_sample(images + 1, grid, align_corners=False) - 1  # padding is zero, the background -1


def train(config: ViTConfig, images: NDArray[np.uint8], labels: NDArray[np.int64], epochs: int) -> dict[str, NDArray[np.float32]]:
    """Parameters after ``epochs``; the same on every run of one torch on one machine."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    model = VisionTransformer(config)
    inputs, targets = torch.from_numpy(normalise(config, images)), torch.from_numpy(labels)
    batch = 64
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=epochs * -(-len(inputs) // batch), pct_start=0.1)
    for epoch in range(epochs):
        total = 0.0
        for chosen in torch.randperm(len(inputs)).split(batch):
            loss = functional.cross_entropy(model(augment(inputs[chosen])), targets[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: loss {total / len(inputs):.4f}", flush=True)
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def main() -> None:
    """Train, quantise, and write the four files of the built-in network ``digits_vit``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("-o", "--output", type=Path, default=DATA, help="folder for the files")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)

    images, test_images, labels, test_labels = digits()
    state = train(DIGITS, images, labels, arguments.epochs)
    save_checkpoint(arguments.output / "digits_vit.safetensors", DIGITS, state)
    chosen = np.random.default_rng(0).choice(len(images), CALIBRATION_IMAGES, replace=False)
    np.savez_compressed(arguments.output / "digits_calibration.npz", images=images[chosen])
    np.savez_compressed(arguments.output / "digits_samples.npz", images=test_images[:SAMPLES], labels=test_labels[:SAMPLES])
    network = quantize_digits(arguments.output)
    network.save(arguments.output / "digits_vit.int.safetensors")

    correct = int((forward(DIGITS, state, normalise(DIGITS, test_images)).argmax(axis=1) == test_labels).sum())
    correct_integer = int((predict(network, test_images) == test_labels).sum())
    print(f"correct of {len(test_labels)} test images: {correct} in floating point, {correct_integer} in integers")


if __name__ == "__main__":
    main()
