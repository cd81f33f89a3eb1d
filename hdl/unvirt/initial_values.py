# SPDX-License-Identifier: BSD-2-Clause
"""What registers and memories hold at first, in generated text: said in few words, or not at all.

Amaranth gives every memory an initial value and yosys writes it word by word: of the Verilog of a device with large buffers two thirds were zeros.
"""

import re

__all__ = ["clear_memories", "drop_clearing", "without_initial_values"]

_CLEARING = re.compile(r"^  cell \$meminit(?:_v2)? [^\n]*\n(?:    [^\n]*\n)*?    connect \\DATA \d+'0+\n(?:    [^\n]*\n)*  end\n", re.MULTILINE)
_DECLARED = r"reg (?:signed )?(?:\[[^]\n]*\] )?(?P<name>\\\S+ |\w+) ?"
_MEMORY = re.compile(rf"^(?P<indent> *){_DECLARED}\[(?P<last>\d+):0\];\n(?! *initial begin)", re.MULTILINE)
_LOOP = "{indent}initial begin : {label}\n{indent}  integer i;\n{indent}  for (i = 0; i <= {last}; i = i + 1) {name} [i] = 0;\n{indent}end\n"
_ANY_LOOP = re.compile(r"^ *initial begin : clear_\w+\n *integer i;\n.*\n *end\n", re.MULTILINE)
_REGISTER = re.compile(rf"^( *{_DECLARED})= \d+'[bdh][0-9a-f]+;$", re.MULTILINE)


def drop_clearing(rtlil):
    """Return RTLIL in which memories that are all zero at first have no initial value."""
    return _CLEARING.sub("", rtlil)


def clear_memories(verilog):
    """Return Verilog in which memories without an initial value, as :func:`drop_clearing` leaves them, are cleared by a loop each."""
    def loop(found):
        label = "clear_" + re.sub(r"\W", "_", found["name"].strip("\\ "))
        return found[0] + _LOOP.format(label=label, **found.groupdict())
    return _MEMORY.sub(loop, verilog)


def without_initial_values(verilog):
    """Return Verilog whose registers and cleared memories may hold anything at first.

    This is for simulation: a simulator that fills what has no value at random shows whether anything is used before the reset, a sweep or a write has
    set it. Memories that hold something at first, ROM, keep it.
    """
    return _REGISTER.sub(r"\1;", _ANY_LOOP.sub("", verilog))
