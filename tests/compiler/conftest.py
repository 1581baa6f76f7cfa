"""What tests of compiled programs have in common."""

import numpy as np
import pytest

from vitloom.compiler import expected_words
from vitloom.model import golden
from vitloom.sim.interpreter import Interpreter


@pytest.fixture(scope="session")
def image_of():
    """An image of noise for a network."""

    def image_of(network) -> np.ndarray:
        form = network.image
        return np.random.default_rng(3).integers(0, 256, (1, form.channels, form.size, form.size), dtype=np.uint8)

    return image_of


@pytest.fixture(scope="session")
def assert_runs_as_golden(image_of):
    """In the order of the program and in random ones: logits, every word that an instruction writes, no element of a tensor left out."""

    def assert_runs_as_golden(network, program, seeds, rows=None) -> None:
        """Rows : of the network's input, by default those of an image."""
        rows = golden.patches(network.image, image_of(network)) if rows is None else rows
        tensors = {name: tensor[0] for name, tensor in golden.run_from(network, rows).items()}
        written = {name: np.zeros((layout.rows, layout.tiles), int) for name, layout in program.layouts.items()}

        def compare(index: int) -> None:
            instruction = program.instructions[index]
            if (part := instruction.slice) is None:
                return
            expected = expected_words(program, instruction, tensors)
            word, mask = (np.frombuffer(b"".join(each), np.uint8) for each in zip(*expected.values(), strict=True))
            found = interpreter.scratchpad[list(expected)].ravel() & mask
            np.testing.assert_array_equal(found, word & mask, err_msg=f"{index}: {instruction}")
            rows, tiles, _ = part.targets.T[:, :, None]
            written[part.tensor][rows, tiles + np.arange(part.tiles)] += 1

        for seed in seeds:
            interpreter = Interpreter(program, compare)
            logits = interpreter.run(rows[0], seed)
            assert set(logits) == set(network.outputs)
            for name in network.outputs:
                np.testing.assert_array_equal(logits[name], tensors[name])
        for name, counts in written.items():
            assert counts.max() == len(seeds), name
            assert (counts.min(1) == counts.max(1)).all(), name

    return assert_runs_as_golden
