"""Trained networks to integer ones, and how good both are: ``python -m vitloom.model.training.export FOLDER``, or the end of a training."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..architectures import DATA, DIGITS, LOW_BIT_NETWORKS
from ..float_ops import State, normalise
from ..golden import predict
from ..quantize import load_images, quantize, quantize_digits
from ..schemes.quantize import calibrated_reference
from ..schemes.scheme import LOW_BIT, Scheme
from ..schemes.weights import low_bit_weight

__all__ = ["TITLES", "accuracies", "as_deployed", "export", "held_out_images", "main", "render", "ship"]

_ROOT = Path(__file__).parents[2]
_DOCUMENT = _ROOT / "docs" / "training.md"
_TESTS = _ROOT / "tests" / "data" / "digits_split.npz"

#: By the name of a method: what the table calls it, and its baseline.
TITLES = {
    "bivit": ("BiViT", "BiBERT's attention and scales"),
    "bi_vit": ("Bi-ViT", "one threshold for all heads"),
    "tervit": ("TerViT", "ternary at once"),
    "qvit": ("Q-ViT, 2 bits", "LSQ"),
}


def as_deployed(scheme: Scheme, state: State) -> State:
    """``state`` with the weights of the blocks rounded as ``scheme`` does: all that the quantiser sees of them, and small when compressed.

    Rounding them again changes nothing.
    """
    result = dict(state)
    for name in state:
        layer = name.removesuffix(".weight")
        if layer == name or scheme.layer_weight_bits(layer) == 8:
            continue
        weight = low_bit_weight(scheme, state[name], state.get(f"{layer}.weight_scale"))
        result[name] = weight.value.astype(np.float32)
        if f"{layer}.weight_scale" in state:
            result[f"{layer}.weight_scale"] = weight.scale.astype(np.float32)
    return result


def held_out_images() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The 360 images that nothing was trained or calibrated with, and their labels."""
    with np.load(_TESTS, allow_pickle=False) as file:
        return file["xte"][:, None], file["yte"]


def accuracies(scheme: Scheme, state: State) -> tuple[int, int]:
    """Test images that the float-quantised network and the integer one classify correctly."""
    images, labels = held_out_images()
    calibration = load_images(DATA / "digits_calibration.npz")
    reference, _ = calibrated_reference(scheme, DIGITS, state, calibration)
    integer = quantize(DIGITS, state, calibration, scheme=scheme.name, name="trained", origin="training")
    found = reference.forward(normalise(DIGITS, images)).argmax(axis=1), predict(integer, images)
    return tuple(int(np.sum(predictions == labels)) for predictions in found)  # type: ignore[return-value]


def export(folder: Path, output: Path = DATA) -> dict[str, Any]:
    """Quantise every trained network in ``folder``, and write those of seed 0, and all accuracies, into ``output``."""
    results = json.loads((folder / "accuracy.json").read_text())
    for method in TITLES:
        name = f"{method}_digits"
        scheme = LOW_BIT[LOW_BIT_NETWORKS[name][1]]
        pairs = []
        for seed in range(len(results.get(method, []))):
            with np.load(folder / f"{method}_{seed}.npz", allow_pickle=False) as file:
                state = as_deployed(scheme, dict(file))
            pairs.append(accuracies(scheme, state))
            print(f"{method}, seed {seed}: float-quantised {pairs[-1][0]}, integer {pairs[-1][1]} of {results['images']}", flush=True)
            if seed == 0:
                np.savez_compressed(output / f"{name}.npz", allow_pickle=False, **state)
                quantize_digits(output, name).save(output / f"{name}.int.safetensors")
        if pairs:
            results[f"{method} reference"], results[f"{method} integer"] = (list(part) for part in zip(*pairs, strict=True))
    (output / "digits_training.json").write_text(json.dumps(results, indent=2) + "\n")
    return results


def table(results: dict[str, Any]) -> str:
    """Markdown table: a row for each kind of network, its correct images for each seed, and the mean."""
    seeds = max(len(value) for value in results.values() if isinstance(value, list))
    lines = [f"| network | {' | '.join(f'seed {seed}' for seed in range(seeds))} | mean |", "| --- |" + " ---: |" * (seeds + 1)]
    rows = {"float": "float, `digits_vit`"}
    for method, (name, baseline) in TITLES.items():
        rows |= {method: f"**{name}**", f"{method} baseline": f"baseline: {baseline}"}
        rows |= {f"{method} reference": f"{name}, float-quantised", f"{method} integer": f"{name}, integer network"}
    for key, title in rows.items():
        if counts := results.get(key):
            cells = [str(count) for count in counts] + [""] * (seeds - len(counts))
            lines.append(f"| {title} | {' | '.join(cells)} | {100 * np.mean(counts) / results['images']:.1f} % |")
    return "\n".join(lines) + "\n"


def render(results: dict[str, Any], document: str) -> str:
    """``document`` with the table between ``<!-- training -->`` and ``<!-- end -->``."""
    text, count = re.subn(r"(<!-- training -->\n).*?(<!-- end -->)", lambda m: m[1] + table(results) + m[2], document, flags=re.S)
    if count != 1:
        raise ValueError(f"the document must have the mark '<!-- training -->' once, not {count} times")
    return text


def ship(folder: Path, output: Path = DATA, document: Path = _DOCUMENT) -> None:
    """:func:`export`, and write the table into the ``document``."""
    document.write_text(render(export(folder, output), document.read_text()))


def main() -> None:
    """Export what a training left in a folder, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where vitloom.model.training.digits has left its parameters and accuracies")
    parser.add_argument("-o", "--output", type=Path, default=DATA, help="folder for the networks and the accuracies")
    parser.add_argument("--document", type=Path, default=_DOCUMENT, help="page with the table, updated")
    given = parser.parse_args()
    ship(given.folder, given.output, given.document)


if __name__ == "__main__":
    main()
