# SPDX-License-Identifier: BSD-2-Clause
"""Jobs for the tests of the farm: functions that a worker can import."""

import os
import time
from pathlib import Path


def _note(folder, name):
    """Leave a trace of one attempt."""
    with open(Path(folder) / name, "a") as file:
        file.write(f"{os.getpid()}\n")


def square(folder, number):
    _note(folder, f"{number}")
    return {"square": number * number}


def raises(folder, number):
    _note(folder, f"{number}")
    raise ValueError(f"{number} is not to my taste")


def ends_itself(folder, number):
    """Number 3 ends its process, at once; the others take their time, so that they are under way then."""
    _note(folder, f"{number}")
    if number == 3:
        os._exit(7)
    time.sleep(0.3)
    return number


def ends_itself_once(folder, number):
    first = not (Path(folder) / f"{number}").exists()
    _note(folder, f"{number}")
    if first and number % 2:
        os._exit(7)
    return number


def takes_long(folder, number):
    _note(folder, f"{number}")
    time.sleep(600)
