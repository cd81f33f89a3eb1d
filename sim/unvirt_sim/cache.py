# SPDX-License-Identifier: BSD-2-Clause
"""The folder where downloads and compiled simulations are kept from one run to the next."""

import contextlib
import fcntl
import os
from pathlib import Path

__all__ = ["CacheError", "cache_folder", "locked"]


class CacheError(Exception):
    """No folder can be written; the message is one sentence."""


def cache_folder():
    """Return ``$XDG_CACHE_HOME/unvirt``, ``~/.cache/unvirt``, or ``build/cache`` if neither can be written.

    Raises
    ------
    CacheError
        If none of them can.
    """
    candidates = [Path(os.environ["XDG_CACHE_HOME"]) / "unvirt"] if os.environ.get("XDG_CACHE_HOME") else []
    with contextlib.suppress(RuntimeError):
        candidates.append(Path.home() / ".cache/unvirt")
    candidates.append(Path("build/cache").absolute())
    for path in candidates:
        with contextlib.suppress(OSError):
            path.mkdir(parents=True, exist_ok=True)
            if os.access(path, os.W_OK):
                return path
    raise CacheError(f"None of {', '.join(map(str, candidates))} can be written; set XDG_CACHE_HOME to a folder that can.")


@contextlib.contextmanager
def locked(folder, name="lock"):
    """Hold ``folder``, or what ``name`` stands for in it, alone: of two that want the same thing made, one makes it and the other waits."""
    with open(Path(folder) / name, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
