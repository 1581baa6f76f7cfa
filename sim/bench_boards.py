"""Boards in simulation, parts of :mod:`.bench`: digits through UART and SDRAM over a bad cable, and networks whose memory is an SDRAM."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..hw.config import preset
from ..model import golden
from ..model.networks import architecture, integer_network, samples
from ..model.synthetic import shaped_images
from .board import run_board
from .report import model_timings
from .sdram import board_controller
from .simulate import simulate

__all__ = ["BOARD_PARTS", "sdram_text", "uart_text"]

_NETWORK, _PRESET, _IMAGES, _BROKEN = "digits_vit", "l4", 10, 1000
_BOARD = "ulx3s-85f"
#: By name of the part: network, preset, layers that the RTL runs (empty: all).
_SDRAM_RUNS = {
    "sdram-deit_tiny-l8": ("deit_tiny", "l8", ("blocks.0",)),
    "sdram-deit_tiny-l16": ("deit_tiny", "l16", ()),
}
_IMAGE_SEED = 1


def uart() -> dict[str, Any]:
    """Upload and run ten digits through the pins, with a thousand broken frames and some cut answers on the way."""
    network = integer_network(_NETWORK)
    expected = golden.run(network, samples(_NETWORK)[0][:_IMAGES])
    with tempfile.TemporaryDirectory(prefix="vitloom-") as folder:
        found = run_board(_NETWORK, preset(_PRESET, ["memory_bytes_per_cycle=2"]), _IMAGES, Path(folder), broken=_BROKEN)
    equal = sum(
        all(np.array_equal(found["logits"][index][name], expected[name][index]) for name in network.outputs) for index in range(_IMAGES)
    )
    agreed = equal == _IMAGES and found["broken"] == _BROKEN and found["answered"] == 0
    return {"images": _IMAGES, "equal": equal, "agreed": agreed, **{key: value for key, value in found.items() if key != "logits"}}


def sdram(network: str, name: str, layers: tuple[str, ...]) -> dict[str, Any]:
    """Run a network, or some of its layers, on the RTL with the board's SDRAM controller and chip."""
    controller = board_controller(_BOARD)
    images = shaped_images(architecture(network), 1, _IMAGE_SEED)
    config = preset(name, ["memory_bytes_per_cycle=2"])
    result = simulate(integer_network(network), config, images, layers=layers, controller=controller)
    least, most = result.bounds
    return {
        "network": network,
        "preset": name,
        "layers": list(layers),
        "bytes_per_cycle": controller.bytes_per_cycle,
        "ideal": least,
        "estimate": model_timings(result.program)[1],
        "most": most,
        "cycles": result.cycles[0],
        "clock_hz": controller.clock_hz,
        "values_compared": result.values_compared,
        "agreed": result.agreed,
    }


BOARD_PARTS: dict[str, Callable[[], Any]] = {"uart": uart, **{name: partial(sdram, *run) for name, run in _SDRAM_RUNS.items()}}


def uart_text(results: Mapping[str, Any]) -> str:
    """Table of :func:`uart`."""
    entry = results["uart"]
    return (
        "| what | required | measured |\n| --- | ---: | ---: |\n"
        f"| images with the golden model's logits | {_IMAGES} of {_IMAGES} | {entry['equal']} of {entry['images']} |\n"
        f"| broken frames that were answered | 0 of {_BROKEN} | {entry['answered']} of {entry['broken']} |\n"
        f"| answers that were cut, requests that were repeated | | {entry['cut']}, {entry['retries']} |\n"
        f"| bytes uploaded | | {entry['uploaded']} |\n"
        f"| cycles of an image | | {max(entry['cycles'])} |\n"
    )


def sdram_text(results: Mapping[str, Any]) -> str:
    """Table of the runs with an SDRAM."""
    head = (
        "network, preset",
        "RTL ran",
        "memory never waits (model)",
        "SDRAM (model)",
        "SDRAM (RTL)",
        "images/s at {} MHz",
        "values compared",
    )
    rows = []
    for entry in (results[name] for name in _SDRAM_RUNS if name in results):
        rate = "" if entry["layers"] else f"{entry['clock_hz'] / entry['cycles']:.1f}"
        verdict = f"{entry['values_compared']}, {'all equal' if entry['agreed'] else 'DIFFERENT'}"
        cells = entry["ideal"], entry["estimate"], entry["cycles"], rate, verdict
        rows.append([f"{entry['network']}, {entry['preset']}", ", ".join(entry["layers"]) or "all", *cells])
        clock = f"{entry['clock_hz'] / 1e6:g}"
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([f"| {' | '.join(head).format(clock)} |", "| --- | --- |" + " ---: |" * (len(head) - 2), *lines]) + "\n"
