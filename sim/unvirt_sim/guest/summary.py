# SPDX-License-Identifier: BSD-2-Clause
"""What a boot came to: numbers for programs, and a table for people."""

from collections import defaultdict
from dataclasses import asdict, dataclass, field

from rich.table import Table

__all__ = ["Summary"]


@dataclass
class Summary:
    """Result of one boot; times are wall-clock seconds since QEMU started, None for what was not reached."""

    kernel: str
    network: str
    preset: str
    device: str
    ok: bool = False
    reason: str = ""
    release: str | None = None
    qemu: str = ""
    init_seconds: float | None = None
    device_seconds: float | None = None
    address_seconds: float | None = None
    first_ping_seconds: float | None = None
    total_seconds: float | None = None
    driver: str | None = None
    negotiated: list = field(default_factory=list)
    """Names of the features that driver and device agreed on."""
    queue_pairs: int | None = None
    """How many of them the guest has."""
    address: str | None = None
    pings: list = field(default_factory=list)
    """Per ping: ``guest_ms`` as the guest measured it, or None when lost."""
    ping_cycles: list = field(default_factory=list)
    """As :class:`PingMeter` has them."""
    download: dict | None = None
    script_status: int | None = None
    entropy_read: str = ""
    """What the guest read from an entropy device, in hexadecimal."""
    entropy: dict | None = None
    """``bytes`` of these; ``runs`` of them in the stream that the device was fed, (place, size), or None if they are not there in order;
    ``fed``, how many bytes the device took."""
    statistics: dict = field(default_factory=dict)
    server: dict = field(default_factory=dict)
    tlps: dict = field(default_factory=dict)
    violations: list = field(default_factory=list)
    cycles: int = 0
    cycles_per_second: float = 0.0
    qemu_cpu_seconds: float = 0.0
    rtl_blocking_seconds: float = 0.0
    """How long QEMU waited for answers of the RTL."""
    rtl_background_seconds: float = 0.0
    """How long the RTL was clocked while QEMU ran on."""
    rtl_cpu_seconds: float = 0.0
    """CPU time of the thread that clocks the RTL and serves QEMU."""
    logs: str = ""

    def as_dict(self):
        """Return everything as plain data."""
        return asdict(self)

    def table(self):
        """Return a rich table for the terminal."""
        table = Table(show_header=False, box=None, pad_edge=False)
        table.add_column(style="bold")
        table.add_column()

        def seconds(value):
            return "not reached" if value is None else f"{value:.1f} s"

        table.add_row("guest", f"Linux {self.release or 'that never spoke'} on QEMU {self.qemu}")
        table.add_row("device", f"{self.device}, preset {self.preset}, network {self.network}")
        if self.negotiated:
            table.add_row("negotiated", ", ".join(self.negotiated) + (f"; {self.queue_pairs} queue pairs" if self.queue_pairs else ""))
        ping = "" if self.network == "none" else f"first ping {seconds(self.first_ping_seconds)}, "
        table.add_row("from QEMU start", f"init {seconds(self.init_seconds)}, device {seconds(self.device_seconds)}, {ping}"
                                         f"end {seconds(self.total_seconds)}")
        if self.pings:
            times = [ping for ping in self.pings if ping is not None]
            table.add_row("pings", f"{len(times)} of {len(self.pings)} answered"
                          + (f", {min(times):.2f} to {max(times):.2f} ms as the guest sees it" if times else ""))
        if self.ping_cycles:
            table.add_row("ping in RTL cycles", ", ".join(
                f"{ping['total']} ({ping['transmit']} out, {ping['receive']} in; {ping['bytes']} B)" for ping in self.ping_cycles))
        if self.download:
            rate = self.download["bytes"] / max(self.download["seconds"], 0.01) / 1e6
            table.add_row("download", f"{self.download['bytes']} bytes in {self.download['seconds']:.1f} s ({rate:.2f} MB/s), SHA-256 "
                                      f"{'equal' if self.download['equal'] else 'DIFFERENT'}")
        if self.entropy:
            runs, size, fed = self.entropy["runs"], self.entropy["bytes"], self.entropy["fed"]
            table.add_row("entropy", f"{size} bytes read from /dev/hwrng, " + (
                f"equal to the stream fed ({len(runs)} runs of it, from byte {runs[0][0]} on; {fed} bytes fed)" if runs
                else f"[red]NOT those fed ({fed} bytes)"))
        if self.server:
            counts = self.server
            table.add_row("accesses", f"configuration {counts['config_reads']} read, {counts['config_writes']} written; BAR "
                          f"{counts['bar_reads']} read, {counts['bar_writes']} written; {counts['interrupts']} interrupts"
                          + ("" if self.network == "none" else f"; {counts['frames']['sent']} frames out, {counts['frames']['received']} in"))
            table.add_row("RTL", f"{self.cycles:,} cycles, {self.cycles_per_second:,.0f} per second, "
                                 f"{self.cycles / max(self.rtl_cpu_seconds, 1e-3):,.0f} per second of its CPU time")
            table.add_row("CPU time", f"QEMU {self.qemu_cpu_seconds:.1f} s, RTL {self.rtl_cpu_seconds:.1f} s beside it; QEMU waited "
                                      f"{self.rtl_blocking_seconds:.1f} s for the RTL")
        if self.tlps:
            count = defaultdict(int, self.tlps)
            table.add_row("TLPs up", f"{count['read_requests']:,} reads, {count['writes']:,} writes, {count['completions_up']:,} "
                                     f"completions, {count['messages_up']:,} messages")
            table.add_row("TLPs down", f"{count['config_accesses']:,} configuration, {count['host_reads']:,} reads, "
                                       f"{count['host_writes']:,} writes, {count['completions_down']:,} completions")
            table.add_row("DMA", f"{count['dma_read_bytes']:,} bytes read, {count['dma_write_bytes']:,} written, at most "
                                 f"{count['dma_most_reads_in_flight']} reads in flight")
        if self.violations:
            table.add_row("violations", f"[red]{len(self.violations)}, the first: {self.violations[0]}")
        table.add_row("logs", self.logs)
        table.add_row("result", "[green]passed" if self.ok else f"[red]failed: {self.reason}")
        return table
