"""The control registers as headers for C and Verilog and as CMSIS-SVD, from :mod:`.isa`."""

import re
from importlib.metadata import version
from xml.etree import ElementTree

from . import isa, isa_docs
from .config import CoreConfig
from .isa import Error, Register

__all__ = ["c_header", "svd", "verilog_header"]

_ACCESS = {"Read and write": "read-write", "Read": "read-only", "Write": "write-only"}
#: Program words of an instruction lie in so many bytes.
_INSTRUCTION_PITCH = 64
_TITLE = "Control registers of a vitloom core; addresses are in bytes from the core's base, all accesses 32 bits."


def _access(register: Register) -> tuple[str, str]:
    """What a host may do with a register, in the words of SVD, and what the register is."""
    kind, text = isa_docs.comment("Register", register.name).split(": ", 1)
    return _ACCESS[kind], text


def c_header(config: CoreConfig) -> str:
    """Text of ``registers.h``: byte offsets of the registers, masks of their bits, error codes, and the numbers of this core."""
    guard = ["#ifndef VITLOOM_REGISTERS_H", "#define VITLOOM_REGISTERS_H"]
    lines = _header(config, define="#define", decimal="{}u", hexadecimal="0x{:05x}u")
    return "\n".join([f"/* {_TITLE} */", "", *guard, "", *lines, "", "#endif", ""])


def verilog_header(config: CoreConfig) -> str:
    """Text of ``registers.vh``: the same names and numbers for a testbench."""
    guard = ["`ifndef VITLOOM_REGISTERS_VH", "`define VITLOOM_REGISTERS_VH"]
    lines = _header(config, define="`define", decimal="32'd{}", hexadecimal="32'h{:05x}")
    return "\n".join([f"/* {_TITLE} */", "", *guard, "", *lines, "", "`endif", ""])


def _header(config: CoreConfig, *, define: str, decimal: str, hexadecimal: str) -> list[str]:
    """Lines of a header, in which the keyword and the numbers look like this."""
    lines = []

    def add(name: str, value: int, form: str) -> None:
        lines.append(f"{define} VITLOOM_{name} {form.format(value)}")

    for register in Register:
        access, text = _access(register)
        lines.append(f"/* {access}: {_text(text)} */")
        add(register.name, 4 * register, hexadecimal)
        for bit, name in enumerate(isa.REGISTER_BITS.get(register, ())):
            add(f"{register.name}_{name}", 1 << bit, decimal)
    lines += ["", "/* write-only: 32-bit word j of instruction i */"]
    first, pitch, size = hexadecimal.format(4 * isa.PROGRAM_WINDOW), decimal.format(_INSTRUCTION_PITCH), decimal.format(4)
    lines.append(f"{define} VITLOOM_PROGRAM(i, j) ({first} + {pitch} * (i) + {size} * (j))")
    lines += ["", "/* Values of VITLOOM_ERROR. */"]
    for error in Error:
        add(f"ERROR_IS_{error.name}", error.value, decimal)
    lines += ["", "/* This core. */"]
    add("IDENTITY_VALUE", isa.IDENTITY, hexadecimal)
    add("FINGERPRINT", config.fingerprint, hexadecimal)
    numbers = {"LANES": config.lanes, "PORT_BYTES": config.port_bytes, "PROGRAM_DEPTH": config.program_depth}
    for name, value in {**numbers, "INSTRUCTION_WORDS": isa.INSTRUCTION_WORDS}.items():
        add(name, value, decimal)
    return lines


def _text(text: str) -> str:
    """Plain text of a comment."""
    return re.sub(r":\w+:`\.*([^`]+)`", r"\1", text).rstrip(".")


def svd(config: CoreConfig) -> str:
    """Text of ``core.svd``: one peripheral at address 0, in the form of CMSIS-SVD 1.3."""
    device = ElementTree.Element("device", {"schemaVersion": "1.3", "xmlns:xs": "http://www.w3.org/2001/XMLSchema-instance"})
    device.set("xs:noNamespaceSchemaLocation", "CMSIS-SVD.xsd")
    _add(device, name="vitloom", version=version("vitloom"), description="Accelerator for quantised vision transformers")
    _add(device, addressUnitBits=8, width=32, size=32)
    peripheral = ElementTree.SubElement(ElementTree.SubElement(device, "peripherals"), "peripheral")
    _add(peripheral, name="VITLOOM", description="Control registers", baseAddress="0x0")
    size = 4 << isa.CONTROL_ADDRESS_BITS
    _add(ElementTree.SubElement(peripheral, "addressBlock"), offset="0x0", size=f"0x{size:x}", usage="registers")
    _add(ElementTree.SubElement(peripheral, "interrupt"), name="VITLOOM", description="Done, or an error", value=0)
    registers = ElementTree.SubElement(peripheral, "registers")
    for register in Register:
        _add_register(registers, register)
    cluster = ElementTree.SubElement(registers, "cluster")
    _add(cluster, dim=config.program_depth, dimIncrement=_INSTRUCTION_PITCH, name="INSTRUCTION[%s]", description="Program memory")
    _add(cluster, addressOffset=f"0x{4 * isa.PROGRAM_WINDOW:x}")
    word = ElementTree.SubElement(cluster, "register")
    _add(word, dim=isa.INSTRUCTION_WORDS, dimIncrement=4, name="WORD[%s]", description="Not while a program runs")
    _add(word, addressOffset="0x0", access="write-only")
    ElementTree.indent(device)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(device, encoding="unicode") + "\n"


def _add_register(registers: ElementTree.Element, register: Register) -> None:
    access, text = _access(register)
    element = ElementTree.SubElement(registers, "register")
    _add(element, name=register.name, description=_text(text), addressOffset=f"0x{4 * register:x}", access=access)
    names = isa.REGISTER_BITS.get(register, ())
    if not names:
        return
    fields = ElementTree.SubElement(element, "fields")
    for bit, name in enumerate(names):
        _add(ElementTree.SubElement(fields, "field"), name=name, bitOffset=bit, bitWidth=1)


def _add(element: ElementTree.Element, **children: object) -> None:
    for name, value in children.items():
        ElementTree.SubElement(element, name).text = str(value)
