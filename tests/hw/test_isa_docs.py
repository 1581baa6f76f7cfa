from pathlib import Path

import pytest

from vitloom.hw import isa, isa_docs

DOCS = Path(isa_docs.__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", ["instruction_set", "registers"])
def test_the_pages_are_those_of_the_instruction_set_in_use(page):
    assert (DOCS / f"{page.replace('_', '-')}.md").read_text() == getattr(isa_docs, page)(), "run python -m vitloom.hw.isa_docs"


def test_every_field_register_and_error_is_on_a_page():
    text = isa_docs.instruction_set()
    for body in isa.BODIES.values():
        assert all(f" {name} |" in text for name in body.members)
    text = isa_docs.registers()
    assert all(f" {member.name} |" in text for member in (*isa.Register, *isa.Error))


def test_comments_of_the_source_are_on_the_pages():
    assert "checked at start" in isa_docs.registers()
    assert "| x[row, k tile]" not in isa_docs.instruction_set()
    assert "moving + row * moving_row + k * moving_k |" in isa_docs.instruction_set()
