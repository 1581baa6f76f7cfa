"""A core with AXI or Wishbone as a LiteX module: control registers as a bus slave, memory as a bus master, and an interrupt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from litex.gen import LiteXModule
from litex.soc.integration.soc import SoCRegion
from litex.soc.interconnect import axi, wishbone
from litex.soc.interconnect.csr_eventmanager import EventManager, EventSourceLevel
from migen import ClockSignal, Instance, ResetSignal, Signal

from ..hw import isa

__all__ = ["CONTROL_BYTES", "VitloomCore", "add_vitloom"]

#: Of the control registers' region.
CONTROL_BYTES = 1 << (_CONTROL_BITS := isa.CONTROL_ADDRESS_BITS + 2)
#: Fields of each AXI4-Lite channel from master to slave, and back; what AXI4 has in addition comes from the channel's source.
_CHANNELS = {
    "aw": (("addr", "prot", "valid"), ("ready",), ("id", "len", "size", "burst", "cache")),
    "w": (("data", "strb", "valid"), ("ready",), ("last",)),
    "b": (("ready",), ("resp", "valid"), ("id",)),
    "ar": (("addr", "prot", "valid"), ("ready",), ("id", "len", "size", "burst", "cache")),
    "r": (("ready",), ("data", "resp", "valid"), ("id", "last")),
}


class VitloomCore(LiteXModule):
    """The core that ``vitloom elaborate --bus axi`` (or ``wishbone``) wrote, in the clock domain ``sys``.

    ``control`` is a slave of :data:`CONTROL_BYTES`, ``memory`` a master with bursts on AXI, ``ev.done`` an event that lasts while the core
    is done or has an error, until a clear or the next start. LiteX converts widths and standards. Addresses have 32 bits; the register
    MEMORY_BASE says, in beats of ``port_bytes``, where in them the core's memory begins.

    Parameters
    ----------
    platform : LiteX platform
        Gets ``core.v``.
    folder : str or Path
        That ``vitloom elaborate`` wrote.
    """

    def __init__(self, platform: Any, folder: str | Path) -> None:
        folder = Path(folder)
        about = json.loads((folder / "configuration.json").read_text())
        connect = {"axi": self._axi, "wishbone": self._wishbone}.get(about["bus"])
        if connect is None:
            raise ValueError(f"LiteX takes a core with --bus axi or wishbone; the one in {folder} has {about['bus']}")
        self.port_bytes = about["derived"]["port_bytes"]
        self.ev = EventManager()
        self.ev.done = EventSourceLevel(description="A run is done, or has an error.")
        self.ev.finalize()
        self.core = Instance("core", o_irq=self.ev.done.trigger, **connect())
        platform.add_source(str((folder / "core.v").resolve()))

    def _axi(self) -> dict[str, Any]:
        self.control = control = axi.AXILiteInterface(data_width=32, address_width=32)
        self.memory = memory = axi.AXIInterface(data_width=8 * self.port_bytes, address_width=32, id_width=1, bursting=True)
        ports = {"i_aclk": ClockSignal(), "i_aresetn": ~ResetSignal()}
        for channel, (asks, answers, more) in _CHANNELS.items():
            slave, master = getattr(control, channel), getattr(memory, channel)
            ports |= {f"i_s_axi_ctrl_{channel}{name}": getattr(slave, name) for name in asks}
            ports |= {f"o_s_axi_ctrl_{channel}{name}": getattr(slave, name) for name in answers}
            asks, answers = (asks, answers + more) if channel in ("b", "r") else (asks + more, answers)
            ports |= {f"o_m_axi_{channel}{name}": getattr(master, name) for name in asks}
            ports |= {f"i_m_axi_{channel}{name}": getattr(master, name) for name in answers}
            if "addr" in asks:
                address = ports[f"o_m_axi_{channel}addr"] = Signal(32 + (self.port_bytes - 1).bit_length())
                ports[f"i_s_axi_ctrl_{channel}addr"] = slave.addr[:_CONTROL_BITS]
                self.comb += master.addr.eq(address)
        return ports

    def _wishbone(self) -> dict[str, Any]:
        self.control = control = wishbone.Interface(data_width=32, address_width=32, addressing="word")
        self.memory = memory = wishbone.Interface(data_width=8 * self.port_bytes, address_width=32, addressing="word")
        address = Signal(32)
        self.comb += memory.adr.eq(address)
        ports = {
            "i_clk": ClockSignal(),
            "i_rst": ResetSignal(),
            "i_m_wb_stall": 0,
            "o_s_wb_stall": Signal(),
            "o_m_wb_adr": address,
            "i_s_wb_adr": control.adr[: _CONTROL_BITS - 2],
        }
        for name in ("cyc", "stb", "we", "sel", "dat_w"):
            ports |= {f"i_s_wb_{name}": getattr(control, name), f"o_m_wb_{name}": getattr(memory, name)}
        for name in ("ack", "err", "dat_r"):
            ports |= {f"o_s_wb_{name}": getattr(control, name), f"i_m_wb_{name}": getattr(memory, name)}
        return ports


def add_vitloom(soc: Any, folder: str | Path, *, name: str = "vitloom", origin: int | None = None) -> VitloomCore:
    """Add a core to a LiteX SoC: module, bus slave, bus master, and interrupt of the CPU.

    A target does ``add_vitloom(self, "build/axi")`` once its memory is there, and its software includes ``registers.h`` of that folder,
    with offsets from ``VITLOOM_BASE`` of ``generated/mem.h``.

    Parameters
    ----------
    soc : SoCCore
        That gets the core.
    folder : str or Path
        That ``vitloom elaborate --bus …`` wrote.
    name : str
        Of the module and its region.
    origin : int or None
        Address of the control registers; None lets LiteX choose.
    """
    core = VitloomCore(soc.platform, folder)
    soc.add_module(name, core)
    soc.bus.add_slave(name, core.control, SoCRegion(origin=origin, size=CONTROL_BYTES, cached=False))
    soc.bus.add_master(name, core.memory)
    if soc.irq.enabled:
        soc.irq.add(name, use_loc_if_exists=True)
    return core
