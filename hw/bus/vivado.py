"""Verilog attributes by which Vivado's block designs know the interfaces of the core on AXI."""

import re

__all__ = ["annotate"]

#: Kind and role of what is no bus, and what else Vivado asks about it.
_SIGNALS = {
    "aclk": ("clock", "CLK", "ASSOCIATED_BUSIF s_axi_ctrl:m_axi, ASSOCIATED_RESET aresetn"),
    "aresetn": ("reset", "RST", "POLARITY ACTIVE_LOW"),
    "irq": ("interrupt", "INTERRUPT", "SENSITIVITY LEVEL_HIGH"),
}


def annotate(verilog: str, top: str) -> str:
    """The same Verilog with attributes at the ports of module ``top``; every other tool skips them.

    It is done on the text because attributes of an Amaranth signal appear at every wire that it is connected to, in all modules.
    """
    before, header, rest = verilog.partition(f"\nmodule {top}(")
    body, end, after = rest.partition("\nendmodule")
    body = re.sub(r"^  (?:input|output) (?:\[[^]]*\] )?(\w+);", lambda port: _attributes(port[1]) + port[0], body, flags=re.M)
    return before + header + body + end + after


def _attributes(port: str) -> str:
    if port in _SIGNALS:
        kind, role, parameter = _SIGNALS[port]
        info = f"xilinx.com:signal:{kind}:1.0 {port} {role}"
        return f'  (* X_INTERFACE_INFO = "{info}", X_INTERFACE_PARAMETER = "{parameter}" *)\n'
    bus, _, role = port.rpartition("_")
    return f'  (* X_INTERFACE_INFO = "xilinx.com:interface:aximm:1.0 {bus} {role.upper()}" *)\n'
