# SPDX-License-Identifier: BSD-2-Clause
"""Area of a netlist that yosys wrote for ECP5: by module, and what each memory became."""

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Area", "Instance", "Memory", "read_hierarchy", "read_memories"]

_LOGIC_PER_CARRY = 2       # a CCU2C is two logic cells
_LOGIC_PER_RAM = 4         # a 16 x 4 RAM is four logic cells (and a write port, which nextpnr counts apart)


@dataclass(frozen=True)
class Area:
    """Cells of an ECP5 netlist; ``lut`` counts as nextpnr's TRELLIS_COMB does."""

    lut4: int = 0
    carry: int = 0             # CCU2C
    ram: int = 0               # TRELLIS_DPR16X4
    ff: int = 0
    bram: int = 0              # DP16KD
    dsp: int = 0               # MULT18X18D

    @classmethod
    def of(cls, cells):
        """Count the primitives of a ``Counter`` of cell types."""
        return cls(lut4=cells["LUT4"], carry=cells["CCU2C"], ram=cells["TRELLIS_DPR16X4"],
                   ff=cells["TRELLIS_FF"], bram=cells["DP16KD"], dsp=cells["MULT18X18D"])

    @property
    def lut(self):
        return self.lut4 + _LOGIC_PER_CARRY * self.carry + _LOGIC_PER_RAM * self.ram

    def __add__(self, other):
        return Area(**{name: getattr(self, name) + getattr(other, name)
                       for name in self.__dataclass_fields__})


@dataclass
class Instance:
    """One instance of the hierarchy: what is in it and, in ``total``, in everything below it too."""

    path: str
    own: Area
    children: list = field(default_factory=list)

    @property
    def name(self):
        return self.path.rpartition(".")[2]

    @property
    def total(self):
        return sum((child.total for child in self.children), self.own)

    def walk(self, depth=0):
        """Yield (depth, instance), the largest child first."""
        yield depth, self
        for child in sorted(self.children, key=lambda child: -child.total.lut):
            yield from child.walk(depth + 1)

    def find(self, path):
        return next(instance for _, instance in self.walk() if instance.path == path)


def read_hierarchy(netlist, top):
    """Return the tree of instances of module ``top``.

    Parameters
    ----------
    netlist : Path or str
        A file of ``write_json``.
    """
    modules = json.loads(Path(netlist).read_text())["modules"]
    contents = {name: [(cell, entry["type"]) for cell, entry in module["cells"].items()]
                for name, module in modules.items()}

    def build(module, path):
        cells = contents[module]
        own = Area.of(Counter(kind for _, kind in cells))
        inner = [(cell, kind) for cell, kind in cells
                 if kind in contents and not modules[kind]["attributes"].get("blackbox")]
        return Instance(path, own, [build(kind, f"{path}.{cell}") for cell, kind in inner])

    return build(top, top)


@dataclass(frozen=True)
class Memory:
    """One memory of the design and the resource it was mapped to."""

    path: str
    width: int
    depth: int
    kind: str                  # "block", "distributed" or "registers"

    @property
    def bits(self):
        return self.width * self.depth


_KINDS = {"$__DP16KD_": "block", "$__PDPW16KD_": "block", "$__TRELLIS_DPR16X4_": "distributed"}
_MAPPED = re.compile(r"mapping memory (\S+) via (\S+)")
_FLIPFLOPS = re.compile(r"using FF mapping for memory (\S+)")
_MODULE = re.compile(r"module \\(\S+)")
_MEMORY = re.compile(r"  memory width (\d+) size (\d+) \\(\S+)")


def read_memories(rtlil, log):
    """Return what became of each memory, by path.

    Parameters
    ----------
    rtlil : Path
        The design before synthesis: the sizes.
    log : Path
        What yosys said during the run: the mapping.
    """
    sizes, module = {}, None
    for line in Path(rtlil).read_text().splitlines():
        if match := _MODULE.match(line):
            module = match[1]
        elif match := _MEMORY.match(line):
            sizes[f"{module}.{match[3]}"] = int(match[1]), int(match[2])
    kinds = {}
    for line in Path(log).read_text().splitlines():
        if match := _MAPPED.search(line):
            kinds[match[1]] = _KINDS[match[2]]
        elif match := _FLIPFLOPS.search(line):
            kinds[match[1]] = "registers"
    # A memory that is never read, or never written, is removed before it is mapped.
    return [Memory(path, *sizes[path], kind) for path, kind in sorted(kinds.items())]
