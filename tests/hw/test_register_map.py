"""The C header compiled, the Verilog header and the SVD read back, say what hw/isa.py says."""

import re
import subprocess
from xml.etree import ElementTree

import pytest

from vitloom.hw import isa
from vitloom.hw.config import PRESETS
from vitloom.hw.isa import Error, Register
from vitloom.hw.register_map import c_header, svd, verilog_header

CONFIG = PRESETS["icebreaker"]
#: What each register is to a host.
WRITABLE = {Register.EXPECTED, Register.MEMORY_BASE, Register.INTERRUPT}


def expected_values():
    """Every name that the header defines without a parameter, but for its guard."""
    values = {register.name: 4 * register for register in Register}
    values |= {f"{register.name}_{name}": 1 << bit for register, names in isa.REGISTER_BITS.items() for bit, name in enumerate(names)}
    values |= {f"ERROR_IS_{error.name}": error.value for error in Error}
    values |= {"IDENTITY_VALUE": isa.IDENTITY, "FINGERPRINT": CONFIG.fingerprint, "INSTRUCTION_WORDS": isa.INSTRUCTION_WORDS}
    return values | {"LANES": CONFIG.lanes, "PORT_BYTES": CONFIG.port_bytes, "PROGRAM_DEPTH": CONFIG.program_depth}


@pytest.mark.parametrize("language", ["c", "c++"])
def test_the_header_compiles_and_has_every_number(language, tmp_path):
    values = expected_values()
    calls = [f'printf("{name} %u\\n", VITLOOM_{name});' for name in values] + ['printf("PROGRAM %u\\n", VITLOOM_PROGRAM(1 + 2, 11));']
    (tmp_path / "registers.h").write_text(c_header(CONFIG))
    source = '#include <stdio.h>\n#include "registers.h"\n#include "registers.h"\nint main(void) {{ {} return 0; }}\n'
    (tmp_path / "main.c").write_text(source.format("\n".join(calls)))
    command = ["c++", "-x", language, "-Wall", "-Wextra", "-Werror", "-pedantic", "main.c", "-o", "main"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True).stdout
    assert {name: int(value) for name, value in (line.split() for line in printed.splitlines())} == {
        **values,
        "PROGRAM": 4 * (isa.PROGRAM_WINDOW + 16 * 3 + 11),
    }
    defined = [line.split()[1] for line in c_header(CONFIG).splitlines() if line.startswith("#define") and len(line.split()) == 3]
    assert sorted(defined) == sorted(f"VITLOOM_{name}" for name in values)


def test_the_verilog_header_has_the_same_numbers():
    lines = re.findall(r"^`define VITLOOM_(\w+) 32'(h[0-9a-f]+|d\d+)$", verilog_header(CONFIG), re.M)
    assert {name: int(number[1:], 16 if number[0] == "h" else 10) for name, number in lines} == expected_values()
    assert "`define VITLOOM_PROGRAM(i, j) (32'h40000 + 32'd64 * (i) + 32'd4 * (j))\n" in verilog_header(CONFIG)


def test_the_svd_has_every_register_with_its_bits_and_access():
    device = ElementTree.fromstring(svd(CONFIG).encode())
    registers = {element.findtext("name"): element for element in device.iterfind(".//registers/register")}
    assert list(registers) == [register.name for register in Register]
    for register in Register:
        element = registers[register.name]
        access = "write-only" if register is Register.CONTROL else "read-write" if register in WRITABLE else "read-only"
        assert (int(element.findtext("addressOffset", ""), 0), element.findtext("access")) == (4 * register, access)
        assert element.findtext("description")
        bits = {field.findtext("name"): int(field.findtext("bitOffset", "")) for field in element.iterfind("fields/field")}
        assert bits == {name: bit for bit, name in enumerate(isa.REGISTER_BITS.get(register, ()))}
    instruction = device.find(".//registers/cluster")
    assert instruction is not None
    assert int(instruction.findtext("addressOffset", ""), 0) == 4 * isa.PROGRAM_WINDOW
    assert [int(instruction.findtext(name, "")) for name in ("dim", "dimIncrement")] == [CONFIG.program_depth, 64]
    assert [int(instruction.findtext(f"register/{name}", "")) for name in ("dim", "dimIncrement")] == [isa.INSTRUCTION_WORDS, 4]


def test_elements_come_in_the_order_of_the_svd_schema():
    order = ["dim", "dimIncrement", "name", "version", "description", "addressUnitBits", "width", "baseAddress", "addressOffset"]
    order += ["bitOffset", "bitWidth", "size", "access", "fields", "addressBlock", "interrupt", "registers", "register", "cluster"]
    order += ["peripherals", "peripheral", "field"]
    for element in ElementTree.fromstring(svd(CONFIG).encode()).iter():
        if element.tag in ("addressBlock", "interrupt"):  # offset, size, usage; name, description, value
            continue
        places = [order.index(child.tag) for child in element]
        assert places == sorted(places), element.tag
