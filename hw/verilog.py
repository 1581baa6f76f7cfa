"""Amaranth components to Verilog text, the same on every machine."""

import os

from amaranth import ClockDomain
from amaranth.back import verilog
from amaranth.lib import wiring

from .array.double_product import DOUBLE_DOMAIN, DOUBLE_PRODUCT_SOURCE
from .array.lut_product import LUT_PRODUCT_SOURCE
from .ram import RAM_SOURCE
from .serial.scratchpad import SINGLE_PORT_SOURCE

__all__ = ["to_verilog"]

#: What is everywhere in the Verilog of Yosys: implicit extension and truncation, cases with a default before them, empty ranges of
#: zero-width fields, names that C++ reserves.
_LINT_OFF = ("WIDTHEXPAND", "WIDTHTRUNC", "CASEINCOMPLETE", "ASCRANGE", "SYMRSVDWORD")
#: Verilog sources, by the modules in them that components instantiate.
_SOURCES = {
    "vitloom_ram": RAM_SOURCE,
    "vitloom_lut_product": LUT_PRODUCT_SOURCE,
    "vitloom_double_product": DOUBLE_PRODUCT_SOURCE,
    "vitloom_single_port_ram": SINGLE_PORT_SOURCE,
}


def to_verilog(component: wiring.Component, name: str) -> str:
    """Verilog of ``component`` as module ``name``.

    Ports are the flattened signature (``i__payload``, structs as one vector, field 0 in the least significant bits) and ``clk``, ``rst``.
    A component with :class:`.array.double_product.DoubleProduct` has the port ``double_clk``, too. The modules of :class:`.ram.Ram`,
    :class:`.array.lut_product.LutProduct`, ``DoubleProduct`` and :class:`.serial.scratchpad.SinglePortRam` are included where they are
    used. The text depends on the component alone: no source locations, and always the Yosys that is bundled with Amaranth.
    """
    os.environ["AMARANTH_USE_YOSYS"] = "builtin"
    text = verilog.convert(component, name=name, emit_src=False, strip_internal_attrs=True, missing_domain=_domain)
    pragmas = "".join(f"/* verilator lint_off {warning} */\n" for warning in _LINT_OFF)
    return pragmas + text + "".join(source.read_text() for module, source in _SOURCES.items() if module in text)


def _domain(name: str) -> ClockDomain:
    """What gives a component its clocks is outside."""
    return ClockDomain(name, reset_less=name == DOUBLE_DOMAIN)
