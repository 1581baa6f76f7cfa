"""Trains low-bit networks for scikit-learn's digits: ``python -m vitloom.model.training.digits``."""

# pyright: reportMissingImports=false
# torch and scikit-learn come with the extra `train`.

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..architectures import DATA, DIGITS
from ..checkpoint import load_checkpoint
from ..float_ops import normalise
from ..train_digits import VisionTransformer, augment, digits
from .export import ship
from .methods import METHODS, Method, attention_order, similarity
from .student import Recipe, Student

__all__ = ["main", "train"]

_BATCH = 64
_RATE = 1e-3


def teacher_network() -> VisionTransformer:
    """The float network ``digits_vit``, as the package ships it."""
    (_, state), network = load_checkpoint(DATA / "digits_vit.safetensors", DIGITS), VisionTransformer(DIGITS)
    network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})
    return network.eval()


def train(method: Method, seed: int, epochs: int, images: Tensor, labels: Tensor) -> Student:
    """The trained network of a method; the same on every run of one torch on one machine."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    teacher = teacher_network()
    if any(loss in (attention_order, similarity) for loss, _ in method.losses):
        # A student without quantisers keeps what these losses compare.
        teacher = Student(DIGITS, teacher, Recipe()).eval()
    student = Student(DIGITS, teacher_network(), method.recipe).train()
    for stage in method.stages:
        student.activate(mlp=stage.mlp)
        student.set_weights(stage.weights or method.recipe.weights)
        _train_stage(student, teacher, method, round(stage.share * epochs), images, labels)
    return student.eval()


def _train_stage(student: Student, teacher: VisionTransformer, method: Method, epochs: int, images: Tensor, labels: Tensor) -> None:
    optimizer = torch.optim.AdamW(student.parameters(), lr=_RATE, weight_decay=0.01)
    steps = epochs * -(-len(images) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=_RATE, total_steps=steps, pct_start=0.1)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(_BATCH):
            batch = augment(images[chosen])
            logits = student(batch)
            loss = functional.cross_entropy(logits, labels[chosen], label_smoothing=0.05)
            if method.losses:
                with torch.no_grad():
                    wanted = teacher(batch)
                loss = loss + sum(weight * each(logits, wanted, student, teacher) for each, weight in method.losses)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            schedule.step()


def correct(network: VisionTransformer, images: Tensor, labels: Tensor) -> int:
    """Images classified correctly."""
    with torch.no_grad():
        return int((network(images).argmax(-1) == labels).sum())


def learned_parameters(student: Student) -> dict[str, NDArray[np.float32]]:
    """Parameters by the names that the quantisers of ``vitloom quantize`` know."""
    renamed = {"weight_quantizer.scale": "weight_scale", "weight_quantizer.step": "weight_scale", "input_quantizer.step": "act_scale"}
    renamed |= {f"{name}_step.step": f"{name}_scale" for name in ("q", "k", "v", "map")}
    state = {}
    for name, value in student.state_dict().items():
        for part, other in renamed.items():
            if name.endswith(part):
                # A step is used without its sign; a scale of binary weights has one.
                name, value = name.removesuffix(part) + other, (value.abs() if part.endswith("step") else value).reshape(-1)
        if name.endswith("head_scales"):
            scales = zip("qkv", value.abs().clamp(min=1e-3), strict=True)
            state |= {name.removesuffix("head_scales") + f"{part}_scale": scale.reshape(-1) for part, scale in scales}
        else:
            state[name] = value.reshape(-1) if name.endswith("map_scale") else value
    return {name: value.detach().numpy().astype(np.float32) for name, value in state.items()}


def main() -> None:
    """Train every method and its baseline with some seeds; then write the shipped networks, from seed 0, and the page's table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", choices=[*METHODS, []], help="by default all")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, default=Path("build/training"), help="folder for parameters and accuracies")
    parser.add_argument("--trial", action="store_true", help="leave the shipped networks and the page as they are")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    images, test_images, labels, test_labels = digits()
    inputs, test_inputs = (torch.from_numpy(normalise(DIGITS, each)) for each in (images, test_images))
    targets, test_targets = torch.from_numpy(labels), torch.from_numpy(test_labels)
    path = given.output / "accuracy.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results["float"] = [correct(teacher_network(), test_inputs, test_targets)]
    for name in given.methods or METHODS:
        results["epochs"] = results.get("epochs", {}) | {name: given.epochs}
        for kind, method in zip((name, f"{name} baseline"), METHODS[name], strict=True):
            results[kind] = []
            for seed in range(given.seeds):
                began = time.perf_counter()
                student = train(method, seed, given.epochs, inputs, targets)
                results[kind].append(correct(student, test_inputs, test_targets))
                print(f"{kind}, seed {seed}: {results[kind][-1]} of {len(test_labels)}, {time.perf_counter() - began:.0f} s", flush=True)
                if kind == name:
                    np.savez_compressed(given.output / f"{name}_{seed}.npz", allow_pickle=False, **learned_parameters(student))
                path.write_text(json.dumps(results, indent=2) + "\n")
    if not given.trial:
        ship(given.output)


if __name__ == "__main__":
    main()
