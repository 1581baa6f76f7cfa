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

__all__ = ["TITLES", "as_deployed", "digit_images", "export", "main", "predictions", "render", "ship"]

_ROOT = Path(__file__).parents[2]
_DOCUMENT = _ROOT / "docs" / "training.md"
_SPLIT = _ROOT / "tests" / "data" / "digits_split.npz"

TEST_IMAGES, ALL_IMAGES = 360, 1797

#: By the name of a method: its scheme, what the table calls it, and its baseline. Those of a name in ``LOW_BIT_NETWORKS`` ship.
TITLES = {
    "bivit": ("bivit", "BiViT", "BiBERT's attention and scales"),
    "bi_vit": ("bi_vit", "Bi-ViT", "one threshold for all heads"),
    "tervit": ("tervit", "TerViT", "ternary at once"),
    "qvit": ("qvit_w2a2", "Q-ViT", "LSQ"),
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


def digit_images() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All 1797 images and their labels; the last 360 are the test images, which nothing was trained or calibrated with."""
    with np.load(_SPLIT, allow_pickle=False) as file:
        return np.concatenate([file["xtr"], file["xte"]])[:, None], np.concatenate([file["ytr"], file["yte"]])


def predictions(scheme: Scheme, state: State, images: NDArray[np.uint8]) -> dict[str, NDArray]:
    """Classes (n,) that the float-quantised network, the ``reference``, and the ``integer`` network give images (n, 1, 8, 8)."""
    calibration = load_images(DATA / "digits_calibration.npz")
    reference, _ = calibrated_reference(scheme, DIGITS, state, calibration)
    integer = quantize(DIGITS, state, calibration, scheme=scheme.name, name="trained", origin="training")
    return {"reference": reference.forward(normalise(DIGITS, images)).argmax(axis=1), "integer": predict(integer, images)}


def export(folder: Path, output: Path = DATA) -> dict[str, Any]:
    """Quantise every trained network in ``folder``, and write those of seed 0, and all accuracies, into ``output``."""
    results = json.loads((folder / "accuracy.json").read_text())
    images, labels = digit_images()
    for method, (scheme_name, *_) in TITLES.items():
        name, scheme, found = f"{method}_digits", LOW_BIT[scheme_name], []
        for seed in range(len(results.get(method, []))):
            with np.load(folder / f"{method}_{seed}.npz", allow_pickle=False) as file:
                state = as_deployed(scheme, dict(file))
            found.append({kind: given == labels for kind, given in predictions(scheme, state, images).items()})
            print(
                f"{method}, seed {seed}: { ({kind: int(right.sum()) for kind, right in found[-1].items()}) } of {len(labels)}", flush=True
            )
            if seed == 0 and name in LOW_BIT_NETWORKS:
                np.savez_compressed(output / f"{name}.npz", allow_pickle=False, **state)
                quantize_digits(output, name).save(output / f"{name}.int.safetensors")
        for kind in ("reference", "integer") if found else ():
            right = np.stack([each[kind] for each in found])
            results[f"{method} {kind}"] = right[:, -TEST_IMAGES:].sum(axis=1).tolist()
            results[f"{method} {kind}, all images"] = right.sum(axis=1).tolist()
    (output / "digits_training.json").write_text(json.dumps(results, indent=2) + "\n")
    return results


def table(results: dict[str, Any]) -> str:
    """Markdown table: a row for each kind of network, its correct test images for each seed, and the means."""
    seeds = max(len(value) for value in results.values() if isinstance(value, list))
    titles = ["network", *(f"seed {seed}" for seed in range(seeds)), f"mean of {TEST_IMAGES}", f"mean of all {ALL_IMAGES}"]
    lines = [titles, ["---", *["---:"] * (seeds + 2)]]
    rows = {"float": "float, `digits_vit`"}
    for method, (_, name, baseline) in TITLES.items():
        rows |= {method: f"**{name}**, trained", f"{method} baseline": f"{name}'s baseline: {baseline}"}
        rows |= {f"{method} reference": f"{name}, float-quantised", f"{method} integer": f"{name}, integer network"}
    for key, title in rows.items():
        if counts := results.get(key):
            means = [f"{100 * np.mean(counts) / TEST_IMAGES:.1f} %"]
            means += [f"{100 * np.mean(whole) / ALL_IMAGES:.1f} %" if (whole := results.get(f"{key}, all images")) else ""]
            lines.append([title, *map(str, counts), *[""] * (seeds - len(counts)), *means])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


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
