import pytest

from vitloom.boards import BOARDS
from vitloom.boards.devices import DEVICES, device
from vitloom.hw.config import PRESETS


def test_cells_are_counted_by_what_they_take():
    cells = {"LUT4": 100, "CCU2C": 10, "TRELLIS_DPR16X4": 2, "TRELLIS_FF": 7, "PFUMX": 3}
    used = {use.kind.name: use.used for use in DEVICES["LFE5U-85F"].uses(cells)}
    assert used == {"LUT": 100, "carry": 10, "FF": 7, "LUT RAM": 2, "LUT sites": 100 + 20 + 12, "multiplier": 0, "block RAM": 0}


def test_patterns_join_the_kinds_of_a_flip_flop_and_half_block_rams():
    used = {use.kind.name: use.used for use in DEVICES["iCE40UP5K"].uses({"SB_DFF": 1, "SB_DFFESR": 2, "SB_RAM40_4KNW": 3})}
    assert (used["FF"], used["block RAM"]) == (3, 3)
    used = {use.kind.name: use.used for use in DEVICES["XC7A100T"].uses({"RAMB36E1": 1, "RAMB18E1": 1, "FDRE": 2, "LUT5": 1, "RAM32M": 1})}
    assert (used["block RAM"], used["FF"], used["LUT"], used["LUT RAM"], used["LUT sites"]) == (1.5, 2, 1, 4, 5)

    used = {use.kind.name: use.used for use in DEVICES["GW2A-18C"].uses({"DFFE": 3, "LUT3": 1, "ALU": 1, "RAM16SDP4": 2})}
    assert (used["FF"], used["FF sites"], used["LUT sites"]) == (3, 15, 10)


def test_a_use_knows_its_share_and_its_excess():
    multiplier = next(use for use in DEVICES["GW2A-18C"].uses({"MULT18X18": 48, "MULT9X9": 24}) if use.kind.name == "multiplier")
    assert (multiplier.used, multiplier.available, multiplier.percent, multiplier.excess) == (60, 48, 125, 12)


def test_every_device_has_all_of_its_family_s_kinds_and_its_ram():
    for each in DEVICES.values():
        assert {kind.name for kind in each.family.kinds} == set(each.available), each.name
    assert DEVICES["LFE5U-85F"].memory_bytes == 208 * 2048
    assert DEVICES["iCE40UP5K"].memory_bytes == 30 * 512 + 4 * 32768
    assert DEVICES["iCE40UP5K"].memory_kind == "30 block RAMs and 4 single-port RAMs"


def test_an_unknown_device_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="no device 'ep4ce22'; there are LFE5U-25F, LFE5U-45F, LFE5U-85F"):
        device("ep4ce22")


def test_each_board_has_a_preset_of_its_name():
    assert BOARDS.keys() <= PRESETS.keys()
