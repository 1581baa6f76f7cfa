"""Configuration of a core: every size that hardware, compiler and timing model share."""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass, replace

from amaranth.utils import ceil_log2, exact_log2

__all__ = ["LANES", "MODES", "NARROW", "PACKING", "PRESETS", "CoreConfig", "preset"]

LANES = (4, 8, 12, 16, 32, 64)
#: Operand modes, in the order of their bits in the configuration register and of their codes in an instruction.
MODES = ("int8", "log2", "int4", "int2", "binary")
#: Bits of both operands in the modes that take several products of a byte pair in a cycle.
NARROW = {"int4": 4, "int2": 2, "binary": 1}
#: log2 of the values in a byte of a mode's operands, as instructions have it.
PACKING = {mode: exact_log2(8 // NARROW.get(mode, 8)) for mode in MODES}
#: Bits of a product in each mode: of two bytes, of a power of two and a byte, of a dot product of 2, 4 or 8.
_PRODUCT_BITS = {"int8": 16, "log2": 22, "int4": 9, "int2": 6, "binary": 6}
#: Fields on which the area or the cycles of a core depend, and no program does.
_INVISIBLE = ("array_multipliers", "double_rate", "row_lanes")


@dataclass(frozen=True, kw_only=True)
class CoreConfig:
    """Sizes of a core.

    Parameters
    ----------
    lanes : int
        L: rows and columns of the array, and bytes of a scratchpad word.
    modes : tuple of str
        Operand modes of the array (:data:`MODES`). A program needs int8 for a network's first and last layer; an array can do without.
    packed_weights : bool
        Whether weights of 1, 2 and 4 bits are unpacked for operands of 8 bits too. A core with a narrow mode (:data:`NARROW`) always does.
    array_multipliers : int
        Multipliers of the device that the array has, at most one for each of its L**2 elements (or for two, with ``double_rate``); other
        processing elements multiply in LUTs, which takes the operand modes int8 and log2. 0 stands for all. Which elements have one:
        :meth:`row_multipliers`.
    double_rate : bool
        Whether these multipliers have a clock of their own, of twice the core's rate, and serve two elements each. Takes the operand modes
        int8 and log2, and a cycle more in the array.
    epilogue_lanes : int
        E: accumulators that leave through the epilogue in a cycle: L/4, L/2 or L; 0 stands for the least that hides behind a GEMM with
        K = 64, the head dimension of ViT and DeiT: L**2/64, and L/4 at least.
    row_lanes : int
        Elements that softmax and LayerNorm take in a cycle: L divided by a power of two, and at least :attr:`port_bytes`; 0 stands for L.
    scratchpad_bytes : int
        Upper bound; a bank has the largest power of two of words that keeps all banks within it.
    banks : int
        Scratchpad banks, a power of two.
    accumulator_rows : int
        Rows (tokens) of one MATMUL, at most.
    constant_channels, norm_channels : int
        Channels whose epilogue constants, LayerNorm constants are on chip at one time.
    tables : int
        Activation tables and softmax tables of 256 entries on chip at one time.
    map_rows : int
        Row offsets on chip at one time; 0 is a core without row maps.
    program_depth : int
        Instructions on chip; without ``program_stream`` those of a program, at most.
    program_stream : bool
        Whether longer programs come in block by block, by LOADs of their own (:class:`.sequencer.Sequencer`).
    queue_depth : int
        Instructions waiting in each of the four queues.
    memory_bytes_per_cycle : int
        Bandwidth of the external memory; :attr:`port_bytes` is what the port carries.
    memory_latency : int
        Cycles from an accepted read burst to its first beat. A property of the memory: the core works with any; simulation and the
        timing model use it.
    memory_efficiency : int
        Thousandths of a long transfer's cycles in which the memory moves a beat: an SDRAM's rows and refreshes take the rest. The timing
        model uses it.
    serial : bool
        A core for the smallest devices (:mod:`.serial`): one instruction after the other, L multipliers, an epilogue of a bit a cycle, one
        memory of a single port for a scratchpad; int8 alone, no row units, no residuals.
    """

    lanes: int = 16
    modes: tuple[str, ...] = MODES[:2]
    packed_weights: bool = False
    array_multipliers: int = 0
    double_rate: bool = False
    epilogue_lanes: int = 0
    row_lanes: int = 0
    scratchpad_bytes: int = 2 << 20
    banks: int = 8
    accumulator_rows: int = 256
    constant_channels: int = 4096
    norm_channels: int = 2048
    tables: int = 2
    map_rows: int = 4096
    program_depth: int = 8192
    program_stream: bool = False
    queue_depth: int = 16
    memory_bytes_per_cycle: int = 16
    memory_latency: int = 30
    memory_efficiency: int = 1000
    serial: bool = False

    def __post_init__(self) -> None:
        if self.lanes not in LANES:
            raise ValueError(f"lanes must be one of {', '.join(map(str, LANES))}, not {self.lanes}")
        if self.epilogue_lanes == 0:
            object.__setattr__(self, "epilogue_lanes", max(self.lanes // 4, self.lanes**2 // 64))
        if self.epilogue_lanes not in (self.lanes // 4, self.lanes // 2, self.lanes):
            raise ValueError(f"epilogue_lanes must be a quarter, half or all of {self.lanes} lanes, not {self.epilogue_lanes}")
        if self.row_lanes == 0:
            object.__setattr__(self, "row_lanes", self.lanes)
        unknown = [mode for mode in self.modes if mode not in MODES]
        if unknown or not self.modes or len(set(self.modes)) < len(self.modes):
            raise ValueError(f"modes must be some of {', '.join(MODES)}, not {', '.join(self.modes) or 'nothing'}")
        object.__setattr__(self, "modes", tuple(mode for mode in MODES if mode in self.modes))
        object.__setattr__(self, "packed_weights", bool(self.packed_weights or self.narrow))
        object.__setattr__(self, "program_stream", bool(self.program_stream))
        if self.packed_weights and self.lanes % 8:
            raise ValueError(f"packed operands need lanes that are a multiple of 8, not {self.lanes}")
        object.__setattr__(self, "double_rate", bool(self.double_rate))
        if self.double_rate and (self.narrow or self.serial):
            raise ValueError("double_rate takes the operand modes int8 and log2, and no serial core")
        most = self.lanes**2 // self.elements_per_multiplier
        if self.array_multipliers == 0:
            object.__setattr__(self, "array_multipliers", most)
        least = most if self.narrow else 1
        if not least <= self.array_multipliers <= most:
            raise ValueError(f"array_multipliers must be {least} to {most} with these modes, not {self.array_multipliers}")
        for name in ("banks", "accumulator_rows", "program_depth", "queue_depth", "tables", "constant_channels", "norm_channels"):
            value = getattr(self, name)
            if value < 2 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two of at least 2, not {value}")
        if self.accumulator_rows > 4096:
            raise ValueError(f"accumulator_rows must be at most 4096, not {self.accumulator_rows}")
        if self.program_depth > 8192:  # what the addresses of the control port reach
            raise ValueError(f"program_depth must be at most 8192, not {self.program_depth}")
        if self.program_stream and self.program_depth < 16:
            raise ValueError(f"program_depth must be at least 16 with program_stream, not {self.program_depth}")
        if self.map_rows and not (16 <= self.map_rows <= 8192 and self.map_rows & (self.map_rows - 1) == 0):
            raise ValueError(f"map_rows must be 0 or a power of two of 16 to 8192, not {self.map_rows}")
        if self.scratchpad_bytes < self.banks * self.lanes * 16:
            raise ValueError(f"scratchpad_bytes must be at least {self.banks * self.lanes * 16}, not {self.scratchpad_bytes}")
        if self.memory_bytes_per_cycle < 1:
            raise ValueError(f"memory_bytes_per_cycle must be at least 1, not {self.memory_bytes_per_cycle}")
        allowed = [
            self.lanes >> n for n in range(self.lanes.bit_length()) if self.lanes % (1 << n) == 0 and self.lanes >> n >= self.port_bytes
        ]
        if self.row_lanes not in allowed:
            raise ValueError(f"row_lanes must be one of {', '.join(map(str, allowed))}, not {self.row_lanes}")
        if self.memory_latency < 1:
            raise ValueError(f"memory_latency must be at least 1, not {self.memory_latency}")
        if not 1 <= self.memory_efficiency <= 1000:
            raise ValueError(f"memory_efficiency must be 1 to 1000 thousandths, not {self.memory_efficiency}")
        if self.address_bits > 20:
            raise ValueError(f"a scratchpad of {self.scratchpad_words} words of {self.lanes} bytes is more than 2**20 words")
        object.__setattr__(self, "serial", bool(self.serial))
        if self.serial and (self.lanes, self.epilogue_lanes, self.modes, self.packed_weights, self.map_rows) != (4, 1, ("int8",), False, 0):
            raise ValueError("a serial core has lanes=4, epilogue_lanes=1, modes=int8, packed_weights=0 and map_rows=0, nothing else")

    @property
    def bank_words(self) -> int:
        """Words of one bank, a power of two."""
        return 1 << ((self.scratchpad_bytes // (self.banks * self.lanes)).bit_length() - 1)

    @property
    def scratchpad_words(self) -> int:
        return self.bank_words * self.banks

    @property
    def address_bits(self) -> int:
        """Bits of a word address in the scratchpad; the highest ones are the bank."""
        return ceil_log2(self.scratchpad_words)

    @property
    def elements_per_multiplier(self) -> int:
        """Processing elements of the array that share a multiplier."""
        return 2 if self.double_rate else 1

    @property
    def multipliers(self) -> int:
        """Products of bytes in a cycle, at most."""
        return self.lanes if self.serial else self.lanes**2

    def row_multipliers(self, row: int) -> int:
        """Elements with a multiplier in a row of the array, those of the lowest columns.

        Whole rows, evenly spread over the array as multipliers are over an FPGA; what is left goes to the first of the other rows.
        """
        whole, left = divmod(self.array_multipliers * self.elements_per_multiplier, self.lanes)
        spread = [(r + 1) * whole // self.lanes > r * whole // self.lanes for r in range(self.lanes)]
        if spread[row]:
            return self.lanes
        return left if row == spread.index(False) else 0

    @property
    def word_count_bits(self) -> int:
        """Bits of a number of scratchpad words; also of an address on its way there, so that one outside is seen."""
        return self.address_bits + 1 if self.serial else 20

    @property
    def memory_bits(self) -> int:
        """Bits of an address of external memory, in beats; a serial core refuses higher ones."""
        return 16 if self.serial else 32

    @property
    def memory_words(self) -> int:
        """Words of external memory that instructions can address."""
        return (1 << self.memory_bits) // self.beats if self.serial else 1 << 28

    @property
    def port_bytes(self) -> int:
        """Bytes of a beat of the memory port: the largest divisor of a word that the memory's bandwidth allows."""
        return max(d for d in range(1, self.lanes + 1) if self.lanes % d == 0 and d <= self.memory_bytes_per_cycle)

    @property
    def beats(self) -> int:
        """Beats of the memory port to a scratchpad word."""
        return self.lanes // self.port_bytes

    @property
    def program_block(self) -> int:
        """Instructions of a block of a program that is streamed: a quarter of those on chip."""
        return self.program_depth // 4

    @property
    def program_limit(self) -> int:
        """Instructions of a program, at most."""
        return 1 << 16 if self.program_stream else self.program_depth

    @property
    def groups(self) -> int:
        """Cycles in which one row of L accumulators leaves through the epilogue."""
        return self.lanes // self.epilogue_lanes

    @property
    def row_parts(self) -> int:
        """Cycles in which softmax and LayerNorm take a word, a power of two."""
        return self.lanes // self.row_lanes

    @property
    def narrow(self) -> bool:
        """Whether the core has a mode with operands of less than 8 bits, and so packs activations."""
        return any(mode in NARROW for mode in self.modes)

    @property
    def product_bits(self) -> int:
        """Signed width of what a processing element adds in a cycle (log2: 2**14 times -128 has 22 bits)."""
        return max(_PRODUCT_BITS[mode] for mode in self.modes)

    @property
    def sum_bits(self) -> int:
        """Signed width of a partial sum in the array: L products."""
        return self.product_bits + ceil_log2(self.lanes)

    @property
    def row_sum_bits(self) -> int:
        """Signed width of the sum of a row of the moving operand: 1023 words, each of L pairs of -15..15."""
        return 1 + (1023 * self.lanes * 30).bit_length()

    @property
    def fingerprint(self) -> int:
        """32-bit check of every field that a program depends on; the core shows it in a register and refuses other programs."""
        fields = {name: value for name, value in asdict(self).items() if not name.startswith("memory_") and name not in _INVISIBLE}
        if not self.serial:
            del fields["serial"]  # programs of before the field stay valid
        fields["port_bytes"] = self.port_bytes
        return zlib.crc32(repr(sorted(fields.items())).encode())

    def override(self, settings: list[str]) -> CoreConfig:
        """A copy with ``name=value`` settings applied."""
        changes = {}
        for setting in settings:
            name, _, text = setting.partition("=")
            if name not in asdict(self):
                raise ValueError(f"no configuration field {name!r}; there are {', '.join(asdict(self))}")
            if name == "modes":
                changes[name] = tuple(text.split("+"))
                continue
            try:
                changes[name] = int(text, 0)
            except ValueError:
                raise ValueError(f"{name} takes an integer, not {text!r}") from None
        if "lanes" in changes:
            changes = {"array_multipliers": 0, "epilogue_lanes": 0, "row_lanes": 0} | changes
        if "double_rate" in changes:
            changes = {"array_multipliers": 0} | changes
        return replace(self, **changes)


#: What fits the block RAM of an LFE5U-85F together with the weights of digits_vit.
_LFE5U_85F = CoreConfig(
    lanes=8,
    scratchpad_bytes=32 << 10,
    banks=4,
    constant_channels=1024,
    norm_channels=512,
    map_rows=0,
    program_depth=256,
    memory_bytes_per_cycle=8,
)
#: A serial core, for small devices.
_SERIAL = CoreConfig(
    lanes=4,
    modes=("int8",),
    scratchpad_bytes=64 << 10,
    accumulator_rows=64,
    constant_channels=256,
    map_rows=0,
    program_depth=32,
    memory_bytes_per_cycle=2,
    memory_latency=2,
    serial=True,
)
#: Named configurations. Each board of ``boards/`` has a preset of its name.
PRESETS: dict[str, CoreConfig] = {f"l{lanes}": CoreConfig(lanes=lanes) for lanes in LANES} | {
    # With binary operands Q.K^T is one k tile for every head, and most GEMMs are few: the epilogue takes a row a cycle.
    **{f"l{lanes}-all": CoreConfig(lanes=lanes, modes=MODES, epilogue_lanes=lanes) for lanes in (8, 16, 32, 64)},
    # Swin's heads of 32 are one k tile: only a whole row a cycle keeps up with them (Swin-T 92.7 % of the array, with half a row 91.0 %).
    "l32": CoreConfig(lanes=32, epilogue_lanes=32),
    "ulx3s-85f": _LFE5U_85F,
    # The largest array that an LFE5U-85F has multipliers for, and the scratchpad that DeiT-Tiny needs.
    "ulx3s-85f-l16": CoreConfig(
        lanes=16,
        array_multipliers=123,
        double_rate=True,
        row_lanes=4,
        scratchpad_bytes=256 << 10,
        constant_channels=1024,
        norm_channels=256,
        map_rows=0,
        program_depth=512,
        program_stream=True,
        memory_bytes_per_cycle=2,
    ),
    "ecpix5-85f": _LFE5U_85F,
    # Scratchpad and external memory have two of the four single-port RAMs of an iCE40UP5K each, or 16 of 46 block RAMs of a GW2A-18C.
    "icebreaker": _SERIAL,
    "tang-primer-20k": replace(_SERIAL, scratchpad_bytes=32 << 10),
    "arty-a7-100": _LFE5U_85F,
}


def preset(name: str, settings: list[str] | None = None) -> CoreConfig:
    """The preset of that name with ``name=value`` overrides."""
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name].override(settings or [])
