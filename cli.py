"""The command line: ``vitloom <command>``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from . import __version__
from .boards import BOARDS
from .boards import board as find_board
from .boards.elaborate import elaborate
from .boards.frames import BAUD
from .boards.host import open_device
from .boards.run import run_on_board, run_text
from .boards.sdram import BUS_BYTES
from .compiler.compile import compile_network
from .hw.bus.core import BUSES
from .hw.config import LANES, PRESETS, preset
from .model.images import load_image
from .model.network import IntegerNetwork
from .model.networks import ARCHITECTURES, SHIPPED, integer_network, network_structure, read_network, samples
from .model.part import part
from .model.quantize import SCHEMES, quantize_checkpoint
from .model.synthetic import shaped_noise
from .sim.html_report import html_report
from .sim.report import compare, model_timings, report
from .sim.report_text import json_text, layers_csv, print_comparison, print_report, write_json, write_text
from .sim.result_text import print_result
from .sim.runner import SimulationError
from .sim.sdram import board_controller, with_sdram
from .sim.simulate import simulate
from .sim.stalls import check_seed
from .sim.synth_command import add_options, check_clock, run_synth
from .sim.timeline import windows

__all__ = ["main"]

_DISAGREED, _BAD_INPUT, _INTERRUPTED = 1, 2, 130
#: Options that name a file for the result.
_OUTPUTS = ("json", "csv", "html")
#: Of images for networks without samples: other ones than synthetic weights are calibrated on.
_NOISE_SEED = 1


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(_BAD_INPUT, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. 0: done, and everything agreed; 1: the simulation disagreed or failed; 2: bad input, in one sentence on stderr."""
    given = _parser().parse_args(arguments)
    try:
        _check_outputs([path for name in _OUTPUTS if (path := getattr(given, name, None))])
        return given.run(given)
    except (SimulationError, ValueError, OSError, RuntimeError) as error:
        print(f"vitloom: {error}", file=sys.stderr)
        return _DISAGREED if isinstance(error, SimulationError) else _BAD_INPUT
    except KeyboardInterrupt:
        print("vitloom: interrupted", file=sys.stderr)
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="vitloom", description="Hardware generator for fully quantised vision transformers.")
    parser.add_argument("--version", action="version", version=f"vitloom {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (_add_list, _add_report, _add_simulate, _add_run, _add_elaborate, _add_synth, _add_quantize):
        add(commands)
    return parser


def _add_list(commands: argparse._SubParsersAction) -> None:
    commands.add_parser("list", help="networks, presets, boards and schemes").set_defaults(run=_list)


def _add_report(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("report", help="cycles of each layer, from the timing model")
    _add_network(command)
    _add_config(command, otherwise="the first of --compare")
    _add_memory(command)
    command.add_argument("--compare", metavar="L,L,…", help="compare the presets with these lanes, too: 8,16,32,64")
    command.add_argument("--clock", metavar="MHZ", type=float, help="give times, too, at this clock")
    _add_json(command)
    command.add_argument("--csv", metavar="F", help="write a line for each layer as CSV; - is stdout")
    command.add_argument("--html", metavar="F", help="write everything, with charts, as one page; - is stdout")
    command.set_defaults(run=_report)


def _add_simulate(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("simulate", help="run the core's RTL and compare every value and every cycle")
    _add_network(command)
    _add_images(command)
    command.add_argument("--stalls", metavar="SEED", type=int, help="let the memory stall at random; cycles are then only bounded")
    _add_config(command)
    _add_memory(command)
    _add_json(command)
    command.set_defaults(run=_simulate)


def _add_run(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("run", help="run images on a board, over its serial port")
    _add_network(command, layers=False)
    command.add_argument("--port", metavar="DEV", required=True, help="serial port of the board: /dev/ttyUSB0, COM3")
    command.add_argument("--baud", metavar="N", type=int, default=BAUD, help=f"its rate (default {BAUD})")
    _add_images(command)
    _add_config(command)
    _add_json(command)
    command.set_defaults(run=_run)


def _add_elaborate(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("elaborate", help="Verilog of a core and what goes with it")
    _add_config(command, otherwise="that of the board")
    command.add_argument("--board", metavar="B", help=f"a project for this board: {', '.join(BOARDS)}")
    buses = f"ports of the core: none, its own (default), or {', '.join(BUSES)}"
    command.add_argument("--bus", metavar="B", choices=("none", *BUSES), default="none", help=buses)
    command.add_argument("--uart", action="store_true", help="the board's core obeys a host at its UART, with the board's SDRAM")
    command.add_argument("--clock", metavar="MHZ", type=float, help="with --uart: the clock of core and SDRAM (default: the preset's)")
    command.add_argument("-o", dest="output", metavar="DIR", type=Path, required=True, help="folder to write")
    command.set_defaults(run=_elaborate)


def _add_synth(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("synth", help="resources and clock on an FPGA, or area and clock in standard cells")
    _add_config(command)
    add_options(command)
    _add_json(command)
    command.set_defaults(run=_synth)


def _add_quantize(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("quantize", help="a float checkpoint to an integer network")
    command.add_argument("checkpoint", metavar="CKPT", type=Path, help="safetensors file with timm's names")
    command.add_argument(
        "--arch",
        metavar="A",
        required=True,
        help="a network that 'vitloom list' names; auto: the file says it; auto:num_heads=3,mean=0.5: it says the rest",
    )
    command.add_argument("--scheme", metavar="S", default=next(iter(SCHEMES)), help=f"one of {', '.join(SCHEMES)}")
    command.add_argument("--calibration", metavar="F", type=Path, required=True, help=".npz file: images, (n, C, H, W) uint8")
    command.add_argument("-o", dest="output", metavar="OUT", type=Path, required=True, help="file to write")
    command.set_defaults(run=_quantize)


def _add_network(command: argparse.ArgumentParser, *, layers: bool = True) -> None:
    command.add_argument("network", metavar="NET", help="name of a network, or a quantised network's file")
    weights = "weights for the named network: a quantised network's file, or a float checkpoint with timm's names"
    command.add_argument("--checkpoint", metavar="F", type=Path, help=weights)
    command.set_defaults(layers=None)
    if layers:
        only = "only these layers and what they consist of: blocks.0; norm,head"
        command.add_argument("--layers", metavar="NAME,…", type=lambda text: text.split(","), help=only)


def _add_images(command: argparse.ArgumentParser) -> None:
    command.add_argument("--samples", metavar="N", type=int, help="run the first N of the network's sample images (default 1)")
    command.add_argument("--image", metavar="F", type=Path, help="run this image: .npy, uint8, (channels, height, width)")


def _add_config(command: argparse.ArgumentParser, *, otherwise: str = "") -> None:
    default = f" (default: {otherwise})" if otherwise else ""
    command.add_argument("--preset", metavar="P", required=not otherwise, help=f"configuration: {', '.join(PRESETS)}{default}")
    command.add_argument("--set", dest="settings", metavar="FIELD=VALUE", action="append", default=[], help="override a field of it")


def _add_memory(command: argparse.ArgumentParser) -> None:
    boards = [board.name for board in BOARDS.values() if board.sdram]
    command.add_argument("--sdram", metavar="B", choices=boards, help=f"the memory is the SDRAM of this board: {', '.join(boards)}")


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", metavar="F", help="write the result as JSON; - is stdout, then without the table")


def _list(given: argparse.Namespace) -> int:
    for title, names in (
        ("networks", [f"{name} ({'trained' if name in SHIPPED else 'synthetic weights'})" for name in ARCHITECTURES]),
        ("presets", PRESETS),
        ("boards", [f"{board.name} ({board.description})" for board in BOARDS.values()]),
        ("schemes", SCHEMES),
    ):
        print(f"{title}:", *names, sep="\n  ")
    return 0


def _report(given: argparse.Namespace) -> int:
    presets = _compared(given.compare) if given.compare is not None else []
    name = given.preset or next(iter(presets), None)
    if name is None:
        raise ValueError("report takes --preset, --compare or both")
    check_clock(given.clock)
    network = _network(given, weights=False)
    if given.layers:
        network = part(network, given.layers)
    controller = board_controller(given.sdram, name, given.clock) if given.sdram else None
    configs = {each: preset(each, given.settings) for each in dict.fromkeys([name, *presets])}
    if controller is not None:
        configs = {each: with_sdram(config, controller) for each, config in configs.items()}
    programs = {each: compile_network(network, config) for each, config in configs.items()}
    reports = {each: report(program, preset=each, clock_mhz=given.clock) for each, program in programs.items()}
    content = reports[name]
    if presets:
        content["comparison"] = compare([reports[each] for each in presets])
    texts = {}
    if given.csv:
        texts[given.csv] = layers_csv(content)
    if given.html:
        program = programs[name]
        texts[given.html] = html_report(content, windows(program, model_timings(program)[0]))
    if given.json:
        texts[given.json] = json_text(content)
    for path, text in texts.items():
        write_text(text, path)
    if "-" not in texts:
        print_report(content, sys.stdout)
        if presets:
            print_comparison(content, sys.stdout)
    return 0


def _compared(text: str) -> list[str]:
    """Names of the presets with these lanes."""
    wrong = [part for part in text.split(",") if part not in map(str, LANES)]
    if wrong:
        raise ValueError(f"--compare takes lanes of {', '.join(map(str, LANES))} with commas between them, not {wrong[0]!r}")
    return [f"l{lanes}" for lanes in dict.fromkeys(text.split(","))]


def _simulate(given: argparse.Namespace) -> int:
    config = preset(given.preset, given.settings)
    if given.stalls is not None:
        check_seed(given.stalls)
    network = _network(given)
    images, labels = _images(given, network)
    controller = board_controller(given.sdram, given.preset) if given.sdram else None
    options = {"layers": given.layers or (), "stalls": given.stalls, "controller": controller}
    result = simulate(network, config, images, labels, progress=_progress, **options)
    content = result.content(preset=given.preset)
    if given.json:
        write_json(content, given.json)
    if given.json != "-":
        print_report(content, sys.stdout)
        print_result(result, network.labels, sys.stdout)
    return 0 if result.agreed else _DISAGREED


def _run(given: argparse.Namespace) -> int:
    config = preset(given.preset, given.settings)
    network = _network(given)
    images, _ = _images(given, network)
    with open_device(given.port, given.baud) as device:
        content = run_on_board(device, network, config, images, _progress)
    if given.json:
        write_json(content, given.json)
    if given.json != "-":
        print(run_text(content, network.labels), end="")
    return 0


def _elaborate(given: argparse.Namespace) -> int:
    name = given.preset or given.board
    if name is None:
        raise ValueError("elaborate takes --preset, --board or both")
    check_clock(given.clock)
    if given.board is not None:
        find_board(given.board)
    # What a host runs needs the port of the board's SDRAM.
    config = preset(name, [*([f"memory_bytes_per_cycle={BUS_BYTES}"] if given.uart else []), *given.settings])
    bus = None if given.bus == "none" else given.bus
    for path in elaborate(config, board=given.board, output=given.output, preset=name, bus=bus, uart=given.uart, clock_mhz=given.clock):
        print(path)
    return 0


def _synth(given: argparse.Namespace) -> int:
    return run_synth(given, preset(given.preset, given.settings), _progress)


def _quantize(given: argparse.Namespace) -> int:
    quantize_checkpoint(given.checkpoint, given.arch, given.scheme, given.calibration, given.output)
    print(given.output)
    return 0


def _progress(text: str) -> None:
    print(f"vitloom: {text}", file=sys.stderr, flush=True)


def _check_outputs(paths: list[str]) -> None:
    """Refuse files that cannot be written before any work is done."""
    for path in paths:
        if paths.count(path) > 1:
            raise ValueError(f"{'stdout' if path == '-' else path} cannot take two results")
        if path != "-" and (not Path(path).parent.is_dir() or Path(path).is_dir()):
            raise ValueError(
                f"cannot write {path}: {'it is a folder' if Path(path).is_dir() else f'there is no folder {Path(path).parent}'}"
            )


def _network(given: argparse.Namespace, *, weights: bool = True) -> IntegerNetwork:
    """A built-in network, with the user's weights if given, or the one in a file; without ``weights`` it may have only its shapes."""
    name, checkpoint, layers = given.network, given.checkpoint, given.layers
    if name in ARCHITECTURES:
        if layers:
            part(network_structure(name), layers)  # refuses wrong ones before the work
        network = integer_network(name, checkpoint) if weights or checkpoint else network_structure(name)
        if checkpoint or name not in SHIPPED:
            _progress(f"{name}: {network.origin}")
        return network
    if checkpoint is not None:
        raise ValueError(f"--checkpoint goes with the name of a network, one of {', '.join(ARCHITECTURES)}, not with {name!r}")
    if Path(name).exists():
        return read_network(name)
    raise ValueError(f"no network {name!r}: it is neither a file nor one of {', '.join(ARCHITECTURES)}")


def _images(given: argparse.Namespace, network: IntegerNetwork) -> tuple[NDArray[np.uint8], list[int] | None]:
    """Images to run and their labels: a file, samples of the package, or noise for a network that has none."""
    if given.image is not None:
        if given.samples is not None:
            raise ValueError("give --image or --samples, not both")
        return load_image(given.image, network.image), None
    count = 1 if given.samples is None else given.samples
    if count < 1:
        raise ValueError(f"--samples must be at least 1, not {count}")
    if given.network in SHIPPED:
        images, labels = samples(given.network)
        if count > len(images):
            raise ValueError(f"{given.network} has {len(images)} samples, not {count}")
        return images[:count], labels[:count].tolist()
    _progress(f"{network.name} has no sample images; noise with the spectrum of photographs is in their place")
    return shaped_noise(count, network.image.channels, network.image.size, _NOISE_SEED), None
