import os
import subprocess
import sys

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In

from vitloom.hw.verilog import to_verilog


class Sink(wiring.Component):
    i: In(stream.Signature(4))

    def elaborate(self, platform):
        m = Module()
        total = Signal(8)
        with m.If(self.i.valid):
            m.d.sync += total.eq(total + self.i.payload)
        m.d.comb += self.i.ready.eq(total[7])
        return m


def test_ports_are_the_flattened_signature():
    text = to_verilog(Sink(), "sink")
    for port in ("input clk", "input rst", "input i__valid", "output i__ready", "input [3:0] i__payload"):
        assert f"  {port};" in text


def test_text_does_not_depend_on_the_process():
    program = "import sys, test_verilog as t; sys.stdout.write(t.to_verilog(t.Sink(), 'sink'))"
    texts = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.path.dirname(__file__)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in "12"
    }
    assert texts == {to_verilog(Sink(), "sink")}
