"""Images run on a board that a serial port leads to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compiler.compile import compile_network
from ..hw.config import CoreConfig
from ..model.golden import patches
from ..model.network import IntegerNetwork
from .host import Device

__all__ = ["run_on_board", "run_text"]


def run_on_board(
    device: Device, network: IntegerNetwork, config: CoreConfig, images: NDArray[np.uint8], progress: Callable[[str], None]
) -> dict[str, Any]:
    """Upload ``network``, compiled for ``config``, and run the images, (B, channels, size, size), one by one.

    Returns
    -------
    dict
        ``network``, ``configuration`` (fingerprint), ``retries`` of the link, and ``images``: of each its ``class`` (the greatest sum of
        the outputs' logits, as :func:`..model.golden.predict`), ``logits`` by output and ``cycles``.
    """
    program = compile_network(network, config)
    device.check(program.fingerprint)
    progress(f"uploading {len(program.instructions)} instructions and {len(program.memory_image)} bytes")
    device.upload(program)
    rows = []
    for image in patches(network.image, images):
        result = device.run(image)
        total = np.sum([result.logits[name][0] for name in network.outputs], axis=0, dtype=np.int64)
        logits = {name: values[0].tolist() for name, values in result.logits.items()}
        rows.append({"class": int(np.argmax(total)), "logits": logits, "cycles": result.cycles})
    return {"network": network.name, "configuration": config.fingerprint, "retries": device.retries, "images": rows}


def run_text(content: dict[str, Any], names: Sequence[str]) -> str:
    """A line for each image. names : of the classes, or empty."""
    lines = [
        f"image {index}: {names[row['class']] if names else row['class']}, {row['cycles']} cycles"
        for index, row in enumerate(content["images"])
    ]
    return "\n".join([*lines, f"{content['retries']} requests repeated"]) + "\n"
