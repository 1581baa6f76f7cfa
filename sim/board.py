"""A board in simulation: UART, link, core, SDRAM controller and chip, run through the pins by :class:`..boards.host.Device`."""
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import Out, connect

from ..boards.linked import SdramCore
from ..boards.sdram import SdramChip
from ..compiler.compile import compile_network
from ..hw.config import CoreConfig
from ..model.networks import integer_network
from .far_end import FAR_END_VERILOG, FarEnd
from .runner import Model, build, run
from .sdram import CHIP_VERILOG, ChipModel, chip_plusargs

__all__ = ["CHIP", "CLOCK_HZ", "Board", "board_model", "run_board"]

_BENCH = f"{__package__}.bench_board"
CLOCK_HZ = 80e6
#: Its start is shorter than a real chip's.
CHIP = SdramChip(startup=1000)
#: Of the UART, cycles of a bit: the least there is.
_DIVISOR = 4
_BEATS = 1 << 17


class Board(wiring.Component):
    """What is on a board, with the far ends of the pins.

    Members
    -------
    interrupt : ``Out(1)``
    refreshes : ``Out(32)``
    others : as in :meth:`FarEnd.host`
    """

    def __init__(self, config: CoreConfig):
        self.core = SdramCore(config, CHIP, CLOCK_HZ, _DIVISOR)
        super().__init__({"interrupt": Out(1), "refreshes": Out(32), **FarEnd.host()})

    def elaborate(self, platform):
        m = Module()
        m.submodules.core = core = self.core
        m.submodules.chip = chip = ChipModel(CHIP, _BEATS)
        m.submodules.far_end = far_end = FarEnd(_DIVISOR)
        connect(m, core=core.sdram, chip=chip.pins)
        far_end.connect_host(m, self)
        m.d.comb += [core.rx.eq(far_end.to_device), far_end.from_device.eq(core.tx)]
        m.d.comb += [self.interrupt.eq(core.interrupt), self.refreshes.eq(chip.refreshes)]
        return m


def board_model(config: CoreConfig) -> Model:
    """The board, compiled."""
    return build(Board(config), name="board", verilog=[CHIP_VERILOG, FAR_END_VERILOG])


def run_board(
    network: str, config: CoreConfig, images: int, folder: Path, *, broken: int = 0, missing: Sequence[int] = (), seed: int = 1
) -> dict[str, Any]:
    """Upload a shipped network through the simulated pins and run its first samples.

    Parameters
    ----------
    network : str
        One with sample images.
    config : CoreConfig
        With a memory port as wide as the chip's bus.
    images : int
        How many.
    folder : Path
        For the files of the simulation.
    broken : int
        Broken frames to send before requests (:class:`.broken_frames.BrokenFrames`).
    missing : sequence of int
        Kilobytes of the network's memory that are not in the chip from the start, to be uploaded; empty: all of it.
    seed : int
        Of what the cable breaks.

    Returns
    -------
    dict
        ``logits`` and ``cycles`` of each image, ``uploaded`` (bytes of memory), ``broken`` frames sent and ``answered`` of them, ``cut``
        responses, ``retries``, and ``refreshes`` of the chip.
    """
    program = compile_network(integer_network(network), config)
    folder.mkdir(parents=True, exist_ok=True)
    content = bytearray(program.memory_image) if missing else bytearray()
    for kilobyte in missing:
        content[kilobyte << 10 : (kilobyte + 1) << 10] = bytes(len(content[kilobyte << 10 : (kilobyte + 1) << 10]))
    (folder / "memory.hex").write_text("\n".join(f"{word:04x}" for word in np.frombuffer(bytes(content), "<u2")) or "0000")
    job = {"network": network, "config": asdict(config), "images": images, "broken": broken}
    (folder / "job.json").write_text(json.dumps(job))
    options = ["memory=memory.hex", *chip_plusargs(CHIP, CLOCK_HZ)]
    run(board_model(config), _BENCH, test_dir=folder, plusargs=options, seed=seed)
    return json.loads((folder / "result.json").read_text())
