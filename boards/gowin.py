"""Boards with Gowin FPGAs, for the tools as they are called now."""

from amaranth_boards.tang_primer_20k import TangPrimer20kDockPlatform

__all__ = ["TangPrimer20kDock"]


class TangPrimer20kDock(TangPrimer20kDockPlatform):
    """The board's platform with nextpnr-himbaechel, which took the place of the nextpnr-gowin that Amaranth 0.5 calls."""

    _apicula_required_tools = ["yosys", "nextpnr-himbaechel-gowin", "gowin_pack"]
    _apicula_command_templates = [
        command.replace('"nextpnr-gowin"', '"nextpnr-himbaechel-gowin"')
        .replace("--family {{platform._chipdb_device}}", "--vopt family={{platform._chipdb_device}}")
        .replace("--cst {{name}}.cst", "--vopt cst={{name}}.cst")
        for command in TangPrimer20kDockPlatform._apicula_command_templates
    ]
