"""Every proof: the rules, how far they are proved, and the mistakes that they must find."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...boards.arbiter import MemoryArbiter
from ...boards.sdram import Sdram
from ...hw.bus.axi import AxiControl, AxiMemory, PageSplit
from ...hw.bus.wishbone import WishboneControl, WishboneMemory
from ...hw.load_engine import LoadEngine
from ...hw.sequencer import Sequencer
from ...hw.store_engine import StoreEngine
from .arbiter import ArbiterReadRules, ArbiterWriteRules
from .axi import AxiAnswerRules, AxiControlRules, AxiReadRules, AxiWriteRules, PageSplitRules
from .engines import LoadRules, StoreRules
from .rules import Harness
from .run import METHODS, Result, changed, check
from .sdram import SdramRules
from .sequencer import OrderRules, TokenRules
from .wishbone import WishboneControlRules, WishboneReadRules, WishboneWriteRules

__all__ = ["PROOFS", "Mistake", "Proof", "formal", "formal_text"]


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A change of the unit's source after which ``rule`` fails."""

    old: str
    new: str
    rule: str


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Rules of a unit of a certain size.

    Parameters
    ----------
    rules : callable
        The harness; takes the unit's class and ``settings``.
    unit : type
    settings : dict
        Sizes that the solver gets through; those of the unit, and of what is sent to it.
    method : str
        Of :data:`.run.METHODS`.
    depth : int
        Cycles of a bounded proof, and in which the mistakes show.
    cover : int
        Cycles in which everything that the rules expect to see can be seen; it shows that no assumption forbids it.
    mistakes : tuple of Mistake
    quick : bool
        Whether the test suite proves it, and finds the first mistake; otherwise the bench does.
    """

    rules: Callable[..., Harness]
    unit: Any
    settings: Mapping[str, Any] = field(default_factory=dict)
    method: str = "pdr"
    depth: int = 12
    cover: int = 12
    mistakes: tuple[Mistake, ...] = ()
    quick: bool = True

    @property
    def bound(self) -> str:
        """How long the rules are proved to hold."""
        return f"{self.depth} cycles" if METHODS[self.method][0] == "bmc" else "for ever"

    def prove(self, name: str) -> Result:
        return check(self.rules(self.unit, **self.settings), name, method=self.method, depth=self.depth)

    def reach(self, name: str) -> Result:
        """Look for a run of :attr:`cover` cycles in which everything happens that the rules expect to see."""
        harness = self.rules(self.unit, **self.settings)
        harness.reach = True
        return check(harness, f"{name}-reach", method="bmc", depth=self.cover)

    def find(self, mistake: Mistake, name: str) -> Result:
        """Look for the rule that fails after a mistake."""
        unit = changed(self.unit, mistake.old, mistake.new)
        return check(self.rules(unit, **self.settings), f"{name}-{mistake.rule}", method="bmc", depth=self.depth)


_PARTS = (Mistake(old="payload.last.eq(beats <= to_page_end)", new="payload.last.eq(beats < to_page_end)", rule="last"),)
_READS = (Mistake(old="Mux(beats > to_page_end, to_page_end, beats)", new="beats", rule="m_axi_ar_page"),)
_WRITES = (Mistake(old="((~self.m_axi_awvalid | self.m_axi_awready) & lasts.w_rdy)", new="(lasts.w_rdy)", rule="aw_held"),)
_ANSWERS = (Mistake(old="(~lasts.r_data & response.payload.error)", new="(response.payload.error)", rule="error"),)
_REGISTERS = (Mistake(old="addressed & given & ~self.s_axi_ctrl_bvalid", new="addressed & given", rule="b_held"),)
_SLAVE = (
    Mistake(old="self.s_wb_stall.eq(self.s_wb_ack | self.s_wb_err)", new="self.s_wb_stall.eq(self.s_wb_ack)", rule="held_access_once"),
)
_BUS_READS = (Mistake(old="ahead != self.READ_AHEAD", new="1", rule="room"),)
_BUS_WRITES = (Mistake(old="writing & (waiting == 1)", new="writing & (waiting <= 2)", rule="answer_at_the_end"),)
_TURNS = Mistake(old="Mux(request.ready, ~chosen, chosen)", new="chosen", rule="no_starvation_1")
_LOADS = (Mistake(old="written & (words == 1) & ~failed & ~self.cancel", new="written & (words == 1)", rule="done_once"),)
_STORES = (Mistake(old="(left == 1))", new="(left == 2))", rule="last"),)
_QUEUES = (
    Mistake(old="self.full.eq(level == self.depth - 1)", new="self.full.eq(0)", rule="all_started"),
    Mistake(old="Mux(last, alone, ~many)", new="1", rule="alone"),
)
_TOKENS = (Mistake(old="(others & ~self.tokens == 0) & ", new="", rule="starts_with_token"),)
_CHIP = (Mistake(old="column.hold(m, timing.rcd)", new="column.hold(m, timing.rcd - 1)", rule="column"),)
_SMALL_BUS = {"beats": 2, "read_ahead": 2}
_SMALL_ARBITER = changed(MemoryArbiter, "_BURSTS = 8", "_BURSTS = 2")
_ONE_REFRESH = changed(Sdram, "_STARTUP_REFRESHES = 8", "_STARTUP_REFRESHES = 1")
#: By name. What is smaller than in a core is in ``settings``, and in the names with ``_SMALL``: fewer bursts ahead, shorter bursts.
PROOFS: dict[str, Proof] = {
    "axi_parts": Proof(rules=PageSplitRules, unit=PageSplit, depth=6, cover=8, mistakes=_PARTS),
    "axi_read": Proof(rules=AxiReadRules, unit=AxiMemory, depth=6, cover=8, mistakes=_READS),
    "axi_write": Proof(
        rules=AxiWriteRules, unit=AxiMemory, settings={"writes_ahead": 2, "beats": 4}, depth=8, mistakes=_WRITES, quick=False
    ),
    "axi_answers": Proof(
        rules=AxiAnswerRules,
        unit=AxiMemory,
        settings={"writes_ahead": 2, "beats": 2},
        method="bmc",
        depth=12,
        mistakes=_ANSWERS,
        quick=False,
    ),
    "axi_registers": Proof(rules=AxiControlRules, unit=AxiControl, depth=8, mistakes=_REGISTERS),
    "wishbone_registers": Proof(rules=WishboneControlRules, unit=WishboneControl, depth=5, mistakes=_SLAVE),
    "wishbone_read": Proof(
        rules=WishboneReadRules, unit=WishboneMemory, settings={"pipelined": False, **_SMALL_BUS}, mistakes=_BUS_READS, quick=False
    ),
    "wishbone_read_pipelined": Proof(
        rules=WishboneReadRules, unit=WishboneMemory, settings={"pipelined": True, **_SMALL_BUS}, mistakes=_BUS_READS, quick=False
    ),
    "wishbone_write": Proof(
        rules=WishboneWriteRules, unit=WishboneMemory, settings={"pipelined": False, **_SMALL_BUS}, mistakes=_BUS_WRITES
    ),
    "wishbone_write_pipelined": Proof(
        rules=WishboneWriteRules, unit=WishboneMemory, settings={"pipelined": True, **_SMALL_BUS}, mistakes=_BUS_WRITES
    ),
    "arbiter_read": Proof(
        rules=ArbiterReadRules,
        unit=_SMALL_ARBITER,
        settings={"beats": 2},
        method="bmc",
        depth=10,
        mistakes=(_TURNS,),
        quick=False,
    ),
    "arbiter_write": Proof(
        rules=ArbiterWriteRules,
        unit=_SMALL_ARBITER,
        settings={"beats": 2},
        depth=10,
        mistakes=(_TURNS,),
        quick=False,
    ),
    "load": Proof(rules=LoadRules, unit=LoadEngine, settings={"words": 2}, method="bmc", depth=26, cover=26, mistakes=_LOADS),
    "store": Proof(
        rules=StoreRules,
        unit=StoreEngine,
        settings={"words": 2, "words_ahead": 2},
        method="bmc",
        depth=30,
        cover=46,
        mistakes=_STORES,
    ),
    "queues": Proof(
        rules=OrderRules,
        unit=Sequencer,
        settings={"program_depth": 8},  # more than a queue has room for
        method="bmc",
        depth=22,
        cover=24,
        mistakes=_QUEUES,
        quick=False,
    ),
    "tokens": Proof(rules=TokenRules, unit=Sequencer, settings={"program_depth": 8}, method="bmc", depth=16, cover=26, mistakes=_TOKENS),
    "sdram": Proof(rules=SdramRules, unit=_ONE_REFRESH, method="bmc", depth=36, cover=64, mistakes=_CHIP),
}


def formal(names: Iterable[str] = PROOFS) -> list[dict[str, Any]]:
    """Everything that is to be proved, reached and found: an entry a proof with ``name``, ``unit``, ``bound``, ``mistakes``, ``suite``.

    A rule that fails, what the rules expect and cannot be seen, or a mistake that nothing finds, ends it with a RuntimeError.
    """
    entries = []
    for name in names:
        proof = PROOFS[name]
        result = proof.prove(name)
        if result.status != "PASS":
            raise RuntimeError(f"{name} is not proved; {result}")
        seen = proof.reach(name)
        if seen.rules != ("unseen",):
            raise RuntimeError(f"{name}: no run of {proof.cover} cycles shows everything that the rules expect to see")
        for mistake in proof.mistakes:
            found = proof.find(mistake, name)
            if mistake.rule not in found.rules:
                raise RuntimeError(f"{name}: rule {mistake.rule} does not notice {mistake.new!r} for {mistake.old!r}; {found}")
        entries.append(
            {
                "name": name,
                "unit": proof.unit.__name__,
                "bound": proof.bound,
                "mistakes": len(proof.mistakes),
                "suite": proof.quick,
            }
        )
    return entries


def formal_text(entries: Iterable[Mapping[str, Any]]) -> str:
    """A Markdown table of :func:`formal`, a row each."""
    lines = ["| proof | unit | holds | mistakes found |", "| --- | --- | --- | ---: |"]
    for entry in entries:
        name = f"**{entry['name']}**" if entry["suite"] else entry["name"]
        lines.append(f"| {name} | `{entry['unit']}` | {entry['bound']} | {entry['mistakes']} |")
    return "\n".join(lines) + "\n"
