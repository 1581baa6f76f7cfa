"""The cocotb bench of :mod:`.board`: what ``vitloom run`` does, through simulated pins, with a cable that breaks frames."""

import json
import random
from pathlib import Path

import cocotb
from cocotb.task import bridge

from ..boards.host import Device
from ..compiler.compile import compile_network
from ..hw.config import CoreConfig
from ..model.golden import patches
from ..model.networks import integer_network, samples
from .broken_frames import BrokenFrames
from .far_end import FramePort, SimulatedTransport
from .streams import reset, start_clock

__all__ = ["run_job"]

#: Cycles without an answer after which a request is lost: more than a digest takes.
_PATIENCE = 20_000
#: Probability of one more broken request before each: more than 1000 in the 490 requests of ten digits.
_OFTEN = 0.75


@cocotb.test()
async def run_job(dut):
    """Run ``job.json`` (network, config, images, broken), write ``result.json``."""
    job = json.loads(Path("job.json").read_text())
    config = CoreConfig(**job["config"])
    network = integer_network(job["network"])
    program = compile_network(network, config)
    images = patches(network.image, samples(job["network"])[0][: job["images"]])
    start_clock(dut)
    port = FramePort(dut)
    await reset(dut)
    cable = BrokenFrames(
        transport=SimulatedTransport(port, _PATIENCE), rng=random.Random(cocotb.RANDOM_SEED), left=job["broken"], often=_OFTEN
    )
    device = Device(transport=cable, timeout=1e9)

    uploaded = []

    def host():
        device.upload(program, lambda *counts: uploaded.append(counts[0]))
        return [device.run(image, limit=1e9) for image in images]

    results = await bridge(host)()
    found = {
        "logits": [{name: values.tolist() for name, values in result.logits.items()} for result in results],
        "cycles": [result.cycles for result in results],
        "uploaded": uploaded[-1],
        "broken": cable.sent,
        "answered": cable.answered,
        "cut": cable.cut,
        "retries": device.retries,
        "refreshes": int(dut.refreshes.value),
    }
    Path("result.json").write_text(json.dumps(found))
