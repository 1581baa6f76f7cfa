"""Write a core as Verilog, with its documents and, for a board, a project that vendor or open tools turn into a bitstream."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..compiler.compile import compile_network
from ..compiler.program import Program
from ..hw import isa, isa_docs, register_map
from ..hw.bus import vivado
from ..hw.bus.core import BusCore
from ..hw.config import CoreConfig
from ..hw.core import Core
from ..hw.verilog import to_verilog
from ..model.golden import patches
from ..model.networks import integer_network, samples
from . import Board, fusesoc
from . import board as find_board
from .host_readme import host_readme
from .jobs import Job, digits_network, network_job, self_test_job
from .project import board_plan
from .top import HostTop

__all__ = ["elaborate"]

_GENERATOR = "vitloom"


def elaborate(
    config: CoreConfig,
    *,
    board: str | None,
    output: Path,
    preset: str,
    program: Program | None = None,
    bus: str | None = None,
    uart: bool = False,
    clock_mhz: float | None = None,
) -> list[Path]:
    """Write the folder ``output``, all of it or nothing; no tool of a vendor is run.

    ``core.v`` is the core, ``configuration.json`` what it was made from, ``registers.md`` and ``instruction-set.md`` how a host
    talks to it, ``registers.h`` and ``core.svd`` the same for its compiler and debugger. Without a board there is a FuseSoC core, too.
    With ``program`` there are ``program.bin``, ``memory.bin`` and ``memory-plan.txt``. For a board, ``board/`` has a top around the core,
    constraints and ``build_top.sh``, which makes a bitstream; with ``uart``, ``README.md`` says how to build, load and use it.

    Parameters
    ----------
    config : CoreConfig
        Of the core.
    board : str or None
        A name in :data:`..boards.BOARDS`.
    output : Path
        A new or an empty folder, or one that this function wrote before.
    preset : str
        Where ``config`` comes from, for the record.
    program : Program or None
        What the board runs, with an image of zeros; by default ``digits_vit``, or ``digits_mlp`` on a serial core, on its first sample,
        or the self test of :mod:`.jobs` on a board with too little memory for it.
    bus : str or None
        A name in :data:`..hw.bus.core.BUSES`: what ``core.v`` has in place of the core's own ports. Not with a board.
    uart : bool
        The board's core has the board's SDRAM and does what a host at the UART says (:mod:`.host`), in place of running one program.
    clock_mhz : float or None
        With ``uart``: the clock of core and SDRAM; by default that of a preset for the board, or the board's own.

    Returns
    -------
    list of Path
        The files, sorted.
    """
    if board is not None and bus is not None:
        raise ValueError(f"a board's project has no use for a bus: give board {board} or bus {bus}, not both")
    if uart and board is None:
        raise ValueError("a core for a host at a UART needs a board")
    target = None if board is None else find_board(board)
    if clock_mhz is not None and not uart:
        raise ValueError("a clock is for a board's core that a host at a UART uses")
    if target is not None and uart:
        target = target.at(clock_mhz, preset)
        HostTop.check(target, config)
    job = None if target is None or uart else _job(config, target, program)
    with _replace(output) as folder:
        text = to_verilog(Core(config) if bus is None else BusCore(config, bus=bus), "core")
        (folder / "core.v").write_text(vivado.annotate(text, "core") if bus == "axi" else text)
        isa_docs.write(folder)
        (folder / "registers.h").write_text(register_map.c_header(config))
        (folder / "core.svd").write_text(register_map.svd(config))
        if target is None:
            fusesoc.write(folder, config, preset=preset, bus=bus)
        if program is not None:
            _write_program(folder, program)
        if target is not None and uart:
            (folder / "README.md").write_text(host_readme(target, config, preset))
        if target is not None:
            board_plan(config, target, job).extract(str(folder / "board"))
        _write_json(folder / "configuration.json", _describe(config, preset, bus, target, job))
    return sorted(path for path in output.rglob("*") if path.is_file())


def _job(config: CoreConfig, target: Board, program: Program | None) -> Job:
    """What the board runs: ``program``; or a network for digits on its first sample, or the self test where there is no room for one.

    The single-port RAM of an iCE40UP5K, all of its room, is empty at power-up.
    """
    if program is None and target.device.spram_bytes:
        job = self_test_job(config)
    elif program is None:
        name = digits_network(config)
        network = integer_network(name)
        image = patches(network.image, samples(name)[0][:1])[0]
        compiled = compile_network(network, config)
        job = network_job(compiled, compiled.layouts[compiled.input].pack(image))
        if job.memory_bytes(config) > target.device.memory_bytes:
            job = self_test_job(config)
    else:
        job = network_job(program)
    need = job.memory_bytes(config)
    if need > target.device.memory_bytes:
        ram = f"{target.device.memory_bytes} ({target.device.memory_kind})"
        raise ValueError(f"the core and {job.name} take at least {need} bytes of RAM; {target.name} has {ram}")
    return job


def _write_program(folder: Path, program: Program) -> None:
    """The program as a host writes it (32-bit words, little-endian, twelve an instruction), and what memory holds before the first run."""
    size = isa.INSTRUCTION_BITS // 8
    (folder / "program.bin").write_bytes(b"".join(word.to_bytes(size, "little") for word in program.resident_words()))
    (folder / "memory.bin").write_bytes(program.memory_image)
    (folder / "memory-plan.txt").write_text(program.describe() + "\n")


def _describe(config: CoreConfig, preset: str, bus: str | None, target: Board | None, job: Job | None) -> dict[str, Any]:
    """What the folder was made from and what follows from it."""
    derived = ("fingerprint", "scratchpad_words", "bank_words", "address_bits", "port_bytes", "beats", "groups", "sum_bits")
    content: dict[str, Any] = {
        "generator": f"{_GENERATOR} {version(_GENERATOR)}",
        "preset": preset,
        "bus": bus or "none",
        "configuration": asdict(config),
        "derived": {name: getattr(config, name) for name in derived},
    }
    if target is not None:
        board = {"name": target.name, "description": target.description, "runs": "what a host at the UART uploads"}
        if job is not None:
            board |= {"runs": job.name, "instructions": len(job.instructions), "memory_bytes": len(job.memory)}
            board |= {"ram_bytes_at_least": job.memory_bytes(config), "ram_bytes_of_board": target.device.memory_bytes}
        if job is None and (memory := target.sdram or target.spram) is not None:
            board |= {"clock_hz": memory.clock_hz, "baud": memory.baud}
        content["board"] = board | {"tools": target.tools, "programmer": target.programmer, "note": target.note}
    return content


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


@contextmanager
def _replace(output: Path) -> Iterator[Path]:
    """A new folder that takes the place of ``output`` when the block ends well, and vanishes when it does not."""
    if output.exists() and not _is_ours(output):
        raise ValueError(f"{output} exists and is not a folder that 'vitloom elaborate' wrote; give a new or an empty one")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as work:
        folder = Path(work) / "new"
        folder.mkdir()
        yield folder
        if output.exists():
            output.rename(Path(work) / "old")
        folder.rename(output)


def _is_ours(folder: Path) -> bool:
    """Whether ``folder`` is empty, or has the file that :func:`elaborate` always writes."""
    if not folder.is_dir() or folder.is_symlink():
        return False
    if not any(folder.iterdir()):
        return True
    try:
        return json.loads((folder / "configuration.json").read_text())["generator"].startswith(_GENERATOR)
    except (OSError, ValueError, KeyError, TypeError):
        return False
