# amaranth: UnusedElaboratable=no
"""The host's class against devices that misbehave, and a digit through the pins of a board: UART, core, SDRAM."""

import json
import random
from dataclasses import dataclass, field

import cocotb
import numpy as np
import pytest
from amaranth import Array, Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from cocotb.task import bridge

from vitloom.boards.frames import HEADER_BYTES, REQUEST, RESPONSE, Command, Decoder, Status, encode
from vitloom.boards.host import CoreError, Device, LinkError, WrongDevice
from vitloom.boards.linked import SdramCore
from vitloom.boards.sdram import BANKS, SdramChip
from vitloom.boards.sdram import Command as ChipCommand
from vitloom.cli import main
from vitloom.compiler.compile import compile_network
from vitloom.hw import isa
from vitloom.hw.config import CoreConfig, preset
from vitloom.hw.control import version_number
from vitloom.hw.isa import Register
from vitloom.model import golden
from vitloom.model.networks import integer_network, samples
from vitloom.sim.runner import build, run
from vitloom.sim.streams import reset, start_clock
from vitloom.sim.uart import SimulatedTransport, Uart

CONFIG = preset("l4", ["memory_bytes_per_cycle=2"])
#: The chip's start is shorter than a real one's.
CHIP = SdramChip(startup=1000)
CLOCK = 80e6
DIVISOR = 4
#: Words of the chip that the simulation has, and bytes of the network that are not in it from the start: a UART is slow.
WORDS = 1 << 17
UPLOADED = 6000


class Board(wiring.Component):
    """What is on a board: UART pins, and a chip with ``content`` behind the SDRAM pins.

    The chip's times are checked where the controller is tested alone.
    """

    def __init__(self, config: CoreConfig, content: bytes):
        self.dut = SdramCore(config, CHIP, CLOCK, DIVISOR)
        self.init = np.frombuffer(content, "<u2").tolist()
        super().__init__({"rx": In(1), "tx": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.dut
        m.submodules.memory = memory = Memory(shape=16, depth=WORDS, init=self.init)
        m.d.comb += [dut.rx.eq(self.rx), self.tx.eq(dut.tx)]
        pins, command = dut.sdram, Signal(ChipCommand)
        rows = Array(Signal(CHIP.row_bits, name=f"row_{bank}") for bank in range(BANKS))
        read, write = memory.read_port(), memory.write_port()
        m.d.comb += [
            Cat(command).eq(Cat(pins.ras, pins.cas, pins.we)),
            read.addr.eq(Cat(pins.a[: CHIP.column_bits], pins.ba, rows[pins.ba])),
            write.addr.eq(read.addr),
            write.data.eq(pins.dq_o),
            write.en.eq((command == ChipCommand.WRITE) & (pins.dqm == 0)),
            read.en.eq(1),
        ]
        fresh = Signal()
        m.d.sync += [fresh.eq(command == ChipCommand.READ), pins.dq_i.eq(Mux(fresh, read.data, 0xDEAD))]
        with m.If(command == ChipCommand.ACTIVATE):
            m.d.sync += rows[pins.ba].eq(pins.a)
        return m


@cocotb.test()
async def a_digit_is_classified_through_the_pins(dut):
    network = integer_network("digits_vit")
    program = compile_network(network, CONFIG)
    image = samples("digits_vit")[0][:1]
    start_clock(dut)
    uart = Uart(dut, DIVISOR)
    await reset(dut)
    device = Device(transport=SimulatedTransport(uart, 20_000), timeout=600.0)

    def host():
        device.upload_program(program)
        device.write_memory(0, program.memory_image[:UPLOADED])
        # A program without an instruction stops, and says so; after it the right one runs.
        device.write_registers(isa.PROGRAM_WINDOW, [0])
        with pytest.raises(CoreError, match="error OPCODE at instruction 0"):
            device.run(golden.patches(network.image, image)[0], limit=600.0)
        device.upload_program(program)
        return device.run(golden.patches(network.image, image)[0], limit=600.0)

    result = await bridge(host)()
    expected = golden.run(network, image)[network.outputs[0]]
    np.testing.assert_array_equal(result.logits["head"].reshape(-1), np.asarray(expected).reshape(-1))
    cocotb.log.info(f"{result.cycles} cycles, logits {result.logits['head'].tolist()}")
    assert result.cycles > program.lower_bound_cycles and device.retries == 0


def test_a_digit_through_uart_and_sdram(tmp_path):
    content = compile_network(integer_network("digits_vit"), CONFIG).memory_image
    model = build(Board(CONFIG, bytes(UPLOADED) + content[UPLOADED:]), name="board")
    run(model, __file__, test_dir=tmp_path, seed=1)


@dataclass
class FakeDevice:
    """Answers requests without a core: registers and memory are dictionaries. ``faults`` are done once each, in order."""

    registers: dict[int, int] = field(
        default_factory=lambda: {
            Register.IDENTITY: isa.IDENTITY,
            Register.VERSION: version_number(),
            Register.CONFIGURATION: CONFIG.fingerprint,
            Register.SHAPE: CONFIG.port_bytes << 16,
        }
    )
    memory: bytearray = field(default_factory=lambda: bytearray(1 << 18))
    faults: list[str] = field(default_factory=list)
    #: Written to memory when a run starts, which then is done.
    output: tuple[int, bytes] = (0, b"")
    answer: bytes = b""

    def write(self, content):
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "gone":
            raise OSError("device disconnected")
        (body,) = Decoder().feed(content)
        tag, command, count, address = REQUEST.unpack(body[:HEADER_BYTES])
        data = b""
        if command == Command.READ_REGISTERS:
            data = b"".join(self.registers.get(address + index, 0).to_bytes(4, "little") for index in range(count))
        elif command == Command.WRITE_REGISTERS:
            for index in range(count):
                self.registers[address + index] = int.from_bytes(body[HEADER_BYTES + 4 * index :][:4], "little")
            if address == Register.CONTROL and self.registers[address] == 1:
                self.memory[self.output[0] : self.output[0] + len(self.output[1])] = self.output[1]
                self.registers |= {Register.STATUS: 2, Register.CYCLES_LOW: 7, Register.CYCLES_HIGH: 1}
        else:
            place = slice(CONFIG.port_bytes * address, CONFIG.port_bytes * (address + count))
            if command == Command.WRITE_MEMORY:
                self.memory[place] = body[HEADER_BYTES:]
            else:
                data = bytes(self.memory[place])
        frame = encode(bytes([tag, RESPONSE | Status.OK]) + data)
        self.answer = {
            "silent": b"",
            "echo": content,
            "late": encode(bytes([tag - 1 & 0xFF, RESPONSE]) + b"late"),
            "cut": frame[:-3],
            "changed": frame[:2] + bytes([frame[2] ^ 1]) + frame[3:],
            "noise first": b"noise\xc0\xc0\xdb" + frame,
        }.get(fault, frame)

    def read(self, timeout):
        answer, self.answer = self.answer, b""
        return answer

    def close(self):
        self.faults = ["gone"] * 100


@pytest.mark.parametrize("fault", ["gone", "silent", "echo", "late", "cut", "changed"])
def test_a_fault_of_the_link_costs_one_retry(fault):
    device = Device(transport=FakeDevice(faults=[fault]))
    device.check(CONFIG.fingerprint)
    assert device.retries == 1


def test_noise_before_an_answer_costs_nothing():
    device = Device(transport=FakeDevice(faults=["noise first"]))
    device.check()
    assert device.retries == 0


@pytest.mark.parametrize(("fault", "message"), [("gone", "device disconnected"), ("silent", "no answer within 0.5 s")])
def test_a_device_that_is_gone_is_said_and_used_again_when_it_is_back(fault, message):
    device = Device(transport=FakeDevice(faults=[fault] * 4))
    with pytest.raises(LinkError, match=f"does not answer after 4 attempts: {message}"):
        device.check()
    device.check()
    assert device.retries == 3


@pytest.mark.parametrize(
    ("register", "value", "message"),
    [
        (Register.IDENTITY, 0, "no vitloom core: its identity is 0x00000000, not 0x4d4c5456"),
        (Register.VERSION, 9 << 16 | 8 << 8 | 7, "has version 9.8.7 of vitloom"),
        (Register.CONFIGURATION, 1, "the device has 0x00000001"),
    ],
)
def test_another_device_is_refused(register, value, message):
    transport = FakeDevice()
    transport.registers[register] = value
    with pytest.raises(WrongDevice, match=message):
        Device(transport=transport).check(CONFIG.fingerprint)


def test_running_without_a_program_is_refused():
    with pytest.raises(ValueError, match="no program is uploaded"):
        Device(transport=FakeDevice()).run(np.zeros((1, 1), np.int8))


@pytest.fixture
def digits():
    """Network, one image, its logits, and a device that will answer them."""
    network = integer_network("digits_vit")
    image = samples("digits_vit")[0][:1]
    logits = golden.run(network, image)[network.outputs[0]][0]
    program = compile_network(network, CONFIG)
    address, _ = program.output_regions[network.outputs[0]]
    transport = FakeDevice(output=(address * CONFIG.lanes, program.layouts[network.outputs[0]].pack(logits)))
    return program, image, logits, transport


def test_a_run_uploads_all_and_reads_logits_and_cycles(digits):
    program, image, logits, transport = digits
    transport.faults = ["silent", "", "", "cut", "", "changed"]
    device = Device(transport=transport)
    device.upload(program)
    assert transport.memory[: len(program.memory_image)] == program.memory_image
    words = [transport.registers[isa.PROGRAM_WINDOW + 16 + word] for word in range(isa.INSTRUCTION_WORDS)]
    assert sum(word << 32 * place for place, word in enumerate(words)) == program.words()[1]
    result = device.run(golden.patches(integer_network("digits_vit").image, image)[0])
    np.testing.assert_array_equal(result.logits["head"], logits)
    assert (result.cycles, device.retries) == (1 << 32 | 7, 3)


def test_the_command_runs_an_image_on_the_board(digits, monkeypatch, capsys, tmp_path):
    _, image, logits, transport = digits
    monkeypatch.setattr("vitloom.cli.open_device", lambda port, baud: Device(transport=transport))
    np.save(tmp_path / "digit.npy", image[0])
    options = ["--preset", "l4", "--set", "memory_bytes_per_cycle=2", "--image", str(tmp_path / "digit.npy"), "--json"]
    assert main(["run", "digits_vit", "--port", "COM1", *options, str(tmp_path / "result.json")]) == 0
    assert capsys.readouterr().out == f"image 0: {np.argmax(logits)}, {(1 << 32) + 7} cycles\n0 requests repeated\n"
    (row,) = json.loads((tmp_path / "result.json").read_text())["images"]
    assert row["logits"]["head"] == logits[0].tolist()


def test_the_command_says_what_is_wrong_with_the_port(capsys):
    options = ["run", "digits_vit", "--preset", "l4", "--port"]
    assert main([*options, "/dev/no_such_port"]) == 2
    assert "could not open port /dev/no_such_port" in capsys.readouterr().err
    # Its own frames come back, which no device would send.
    assert main([*options, "loop://"]) == 2
    assert "does not answer after 4 attempts" in capsys.readouterr().err


def test_the_decoder_finds_frames_in_pieces():
    rng = random.Random(1)
    contents = [rng.randbytes(rng.randint(1, 40)) + b"\xc0\xdb\xdc\xdd" for _ in range(50)]
    stream = b"".join(map(encode, contents))
    decoder, found = Decoder(), []
    while stream:
        size = rng.randint(1, 30)
        found += decoder.feed(stream[:size])
        stream = stream[size:]
    assert found == contents and decoder.rejected == 0
