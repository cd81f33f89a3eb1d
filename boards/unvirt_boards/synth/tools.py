# SPDX-License-Identifier: BSD-2-Clause
"""Runs the tools of the open flow, says what they are doing, and keeps what they said."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["ToolFailed", "ToolMissing", "find_tool", "run_tool"]

_PASS = re.compile(r"^[\d.]+ Executing (.+?)(?: pass)?(?: \(.*\))?\.?$")
_INFO = re.compile(r"^Info: +(?:at )?(iteration.*?|Routing.*?|.*placer.*?|Packing.*?),?(?: type.*)?$")


class ToolMissing(Exception):
    """A tool of the flow is not installed."""


class ToolFailed(Exception):
    """A tool of the flow ended with an error."""


def find_tool(name):
    """Return the path of a tool beside this Python or in PATH.

    Raises
    ------
    ToolMissing
        With a sentence that says how to install it.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise ToolMissing(f"{name} is needed for this and was not found; "
                          f"install the boards extra: pip install 'unvirt[boards]'.")
    return found


def run_tool(command, log, *, cwd, say=lambda text: None):
    """Run a tool to its end; its output goes to ``log``, the names of its steps to ``say``.

    Raises
    ------
    ToolFailed
        With its last words and the name of the log.
    """
    with open(log, "w") as file, subprocess.Popen(
            command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            for line in process.stdout:
                file.write(line)
                if match := _PASS.match(line) or _INFO.match(line):
                    say(match[1])
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        tail = "\n".join(Path(log).read_text().splitlines()[-5:])
        raise ToolFailed(f"{Path(command[0]).name} failed (status {process.returncode}); the log is {log}:\n{tail}")
