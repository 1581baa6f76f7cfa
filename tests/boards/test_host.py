# amaranth: UnusedElaboratable=no
"""The host's class against devices that misbehave, and a digit through the pins of a board: UART, core, SDRAM."""

import json
import os
import pty
import random
import re
import zlib
from dataclasses import dataclass, field

import numpy as np
import pytest

from vitloom.boards.frames import HEADER_BYTES, REQUEST, RESPONSE, Command, Decoder, Status, encode
from vitloom.boards.host import Device, LinkError, SerialTransport, WrongDevice
from vitloom.boards.sdram import Sdram
from vitloom.cli import main
from vitloom.compiler.compile import compile_network
from vitloom.hw import isa
from vitloom.hw.config import preset
from vitloom.hw.control import version_number
from vitloom.hw.isa import Register
from vitloom.model import golden
from vitloom.model.networks import integer_network, samples
from vitloom.sim.board import CHIP, CLOCK_HZ, run_board
from vitloom.sim.sdram import sdram_bounds

CONFIG = preset("l4", ["memory_bytes_per_cycle=2"])


def test_a_digit_through_the_pins_with_a_bad_cable_has_the_golden_logits(compiled, tmp_path):
    program, _, expected = compiled
    # Two kilobytes are not in the chip from the start: what differs is uploaded, and no more.
    found = run_board("digits_vit", CONFIG, 1, tmp_path, broken=80, missing=(0, 100))
    np.testing.assert_array_equal(found["logits"], [{"head": expected.tolist()}])
    least, most = sdram_bounds(program, Sdram(CHIP, CLOCK_HZ))
    assert least < found["cycles"][0] <= most
    assert (found["broken"], found["answered"]) == (80, 0)
    assert found["retries"] == found["cut"] > 0
    assert found["uploaded"] == 2 * 4096 and found["refreshes"] > 100


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
    #: Whether memory does not keep what is written.
    forgets: bool = False
    #: Commands of the requests that came whole.
    commands: list[int] = field(default_factory=list)
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
        self.commands.append(command)
        if command == Command.READ_REGISTERS:
            data = b"".join(self.registers.get(address + index, 0).to_bytes(4, "little") for index in range(count))
        elif command == Command.WRITE_REGISTERS:
            for index in range(count):
                self.registers[address + index] = int.from_bytes(body[HEADER_BYTES + 4 * index :][:4], "little")
            if address == Register.CONTROL and self.registers[address] == 1:
                self.memory[self.output[0] : self.output[0] + len(self.output[1])] = self.output[1]
                self.registers |= {Register.STATUS: 2, Register.CYCLES_LOW: 7, Register.CYCLES_HIGH: 1}
        elif command == Command.DIGEST_MEMORY:
            data = zlib.crc32(self.memory[CONFIG.port_bytes * address :][: CONFIG.port_bytes * count]).to_bytes(4, "little")
        else:
            place = slice(CONFIG.port_bytes * address, CONFIG.port_bytes * (address + count))
            if command == Command.WRITE_MEMORY:
                if not self.forgets:
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


@pytest.fixture(scope="module")
def compiled():
    """Program, one image, its logits."""
    network = integer_network("digits_vit")
    image = samples("digits_vit")[0][:1]
    return compile_network(network, CONFIG), image, golden.run(network, image)[network.outputs[0]][0]


@pytest.fixture
def digits(compiled):
    """Program, one image, its logits, and a device that will answer them."""
    program, image, logits = compiled
    ((output, (address, _)),) = program.output_regions.items()
    transport = FakeDevice(output=(address * CONFIG.lanes, program.layouts[output].pack(logits)))
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


def test_what_the_memory_holds_already_is_not_sent_again(digits):
    program, _, _, transport = digits
    device, seen = Device(transport=transport), []
    device.upload(program, lambda *counts: seen.append(counts))
    size = len(program.memory_image)
    assert seen[-1] == (size, 0, size)
    for changed, sent in ((False, 0), (True, 4096)):
        if changed:
            transport.memory[5000] ^= 1
        transport.commands.clear()
        device.upload(program, lambda *counts: seen.append(counts))
        assert seen[-1] == (sent, size - sent, size) and transport.commands.count(Command.WRITE_MEMORY) == sent // 1024


def test_a_memory_that_forgets_is_said(digits):
    program, _, _, transport = digits
    transport.forgets = True
    with pytest.raises(LinkError, match="memory does not keep what is written to bytes 0 to 4095"):
        Device(transport=transport).upload(program)


def test_the_command_runs_an_image_on_the_board(digits, monkeypatch, capsys, tmp_path):
    _, image, logits, transport = digits
    monkeypatch.setattr("vitloom.cli.open_device", lambda port, baud: Device(transport=transport))
    np.save(tmp_path / "digit.npy", image[0])
    options = ["--preset", "l4", "--image", str(tmp_path / "digit.npy"), "--json"]
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


@pytest.mark.parametrize(
    ("fault", "options", "message"),
    [
        ("", ["--preset", "l8"], "the program is for configuration 0x[0-9a-f]{8}, the device has 0x[0-9a-f]{8}"),
        ("gone", ["--preset", "l4"], "does not answer after 4 attempts: device disconnected"),
        ("", ["--preset", "l5"], "no preset 'l5'; there are l4, l8"),
        ("", ["--preset", "l4", "--image", "none.npy"], "none.npy does not exist"),
        ("", ["--preset", "l4", "--image", "text.npy"], "text.npy is not a .npy file of numbers"),
        (
            "",
            ["--preset", "l4", "--image", "large.npy"],
            r"large.npy is uint8 of shape \(9, 9\); the network takes uint8 of shape \(1, 8, 8\)",
        ),
        ("", ["--preset", "l4", "--image", "float.npy"], "float.npy is float64"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_sentence(fault, options, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.npy").write_text("a digit")
    np.save("large.npy", np.zeros((9, 9), np.uint8))
    np.save("float.npy", np.zeros((8, 8)))
    monkeypatch.setattr("vitloom.cli.open_device", lambda port, baud: Device(transport=FakeDevice(faults=[fault] * 4)))
    assert main(["run", "digits_vit", "--port", "COM1", *options]) == 2
    said = capsys.readouterr().err.splitlines()
    assert re.match(f"vitloom: .*{message}", said[-1]) and len(said) == 1


def test_a_port_is_opened_again_when_it_is_back(tmp_path):
    port, (far, near) = tmp_path / "port", pty.openpty()
    port.symlink_to(os.ttyname(near))
    transport = SerialTransport(str(port))
    transport.write(b"first")
    assert os.read(far, 5) == b"first"
    os.close(far)
    os.close(near)
    for _ in range(2):  # the port has failed; it is not there
        with pytest.raises(OSError):
            transport.write(b"lost")
        port.unlink(missing_ok=True)
    far, near = pty.openpty()
    port.symlink_to(os.ttyname(near))
    transport.write(b"again")
    assert os.read(far, 5) == b"again"
    os.write(far, b"answer")
    assert transport.read(1.0) == b"answer" and transport.read(0.01) == b""
    transport.close()


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
