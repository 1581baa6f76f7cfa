"""Images run on a board that a serial port leads to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compiler.compile import compile_network
from ..hw.config import CoreConfig
from ..model.golden import patches
from ..model.network import IntegerNetwork
from .host import Device

__all__ = ["run_on_board", "run_text"]

#: Seconds between two lines that say how far an upload is.
_REPORT_SECONDS = 2.0


def run_on_board(
    device: Device, network: IntegerNetwork, config: CoreConfig, images: NDArray[np.uint8], progress: Callable[[str], None]
) -> dict[str, Any]:
    """Upload ``network``, compiled for ``config``, and run the images, (B, channels, size, size), one by one.

    The width of the memory port is the board's: the device says it.

    Returns
    -------
    dict
        ``network``, ``configuration`` (fingerprint), ``retries`` of the link, and ``images``: of each its ``class`` (the greatest sum of
        the outputs' logits, as :func:`..model.golden.predict`), ``logits`` by output and ``cycles``.
    """
    device.check()
    program = compile_network(network, replace(config, memory_bytes_per_cycle=device.port_bytes))
    device.check(program.fingerprint)
    progress(f"uploading {len(program.instructions)} instructions and {len(program.memory_image)} bytes, or what differs of them")
    device.upload(program, _upload_progress(progress))
    rows = []
    for image in patches(network.image, images):
        result = device.run(image)
        total = np.sum([result.logits[name][0] for name in network.outputs], axis=0, dtype=np.int64)
        logits = {name: values[0].tolist() for name, values in result.logits.items()}
        rows.append({"class": int(np.argmax(total)), "logits": logits, "cycles": result.cycles})
    return {"network": network.name, "configuration": program.fingerprint, "retries": device.retries, "images": rows}


def _upload_progress(progress: Callable[[str], None]) -> Callable[[int, int, int], None]:
    """Says now and then how far an upload is and how long the rest takes if all of it has to be sent; and at the end what was sent."""
    began = last = time.monotonic()

    def report(sent: int, kept: int, size: int) -> None:
        nonlocal last
        now, left = time.monotonic(), size - sent - kept
        if left and now - last >= _REPORT_SECONDS:
            last = now
            rest = f", {left * (now - began) / sent:.0f} s left at most" if sent else ""
            progress(f"{sent + kept} of {size} bytes{rest}")
        elif not left:
            progress(f"{sent} bytes sent in {now - began:.1f} s, {kept} were there already")

    return report


def run_text(content: dict[str, Any], names: Sequence[str]) -> str:
    """A line for each image. names : of the classes, or empty."""
    lines = [
        f"image {index}: {names[row['class']] if names else row['class']}, {row['cycles']} cycles"
        for index, row in enumerate(content["images"])
    ]
    return "\n".join([*lines, f"{content['retries']} requests repeated"]) + "\n"
