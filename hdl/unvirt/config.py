# SPDX-License-Identifier: BSD-2-Clause
"""Every size of the device, in one frozen and validated place."""

from dataclasses import dataclass, fields, replace

__all__ = ["DeviceConfig", "PERSONALITIES", "PRESETS", "preset"]

PERSONALITIES = ("net", "entropy")
"""What a device can be: a network device or an entropy device."""


def _check_range(config, name, low, high):
    value = getattr(config, name)
    label = name.replace("_", " ").capitalize()
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{label} must be an integer, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{label} must be between {low} and {high}, not {value!r}")


def _check_power(config, name, low, high):
    value = getattr(config, name)
    label = name.replace("_", " ").capitalize()
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{label} must be an integer, not {value!r}")
    if not low <= value <= high or value & (value - 1):
        raise ValueError(f"{label} must be a power of two between {low} and {high}, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """Parameters of one device; see the comments for units.

    Raises
    ------
    TypeError, ValueError
        With a sentence naming the parameter, the rule and the value.
    """

    personality: str = "net"          # one of PERSONALITIES
    data_width: int = 64              # bits per beat, PCIe and MAC side
    rows: int = 2                     # virtqueue rows, a power of two that holds the queue pairs and the control queue
    queue_pairs: int = 1
    control_queue: bool = False       # without it a network driver uses one queue pair only
    max_queue_size: int = 1024        # entries; what queue_size reads after reset
    msix_vectors: int = 4
    nonposted_depth: int = 16         # host reads that may wait; the credits advertised
    meta_tags: int = 16               # tags kept for index, ring and descriptor reads
    data_tags: int = 48               # tags kept for packet data
    meta_contexts: int = 64           # reads of rings and descriptors in flight, walks among them
    chain_slots: int = 128            # descriptor chains held at once
    queue_window: int = 64            # chains held per queue
    segment_groups: int = 64          # groups of eight segments for chains of several descriptors
    max_chain: int = 64               # descriptors per chain
    tx_buffer_size: int = 32768       # bytes
    rx_buffer_size: int = 32768       # bytes
    max_frame: int = 9018             # bytes without FCS
    mtu: int = 1500                   # bytes, device configuration field
    mac: int = 0x02_75_6e_76_69_72    # 02:75:6e:76:69:72
    cycles_per_microsecond: int = 125    # clock rate in MHz, for times that the driver gives
    completion_timeout: int = 6_250_000  # cycles (50 ms at 125 MHz)
    serial_number: int = 0x756E_7669_7274_0001

    def __post_init__(self):
        if self.personality not in PERSONALITIES:
            raise ValueError(f"Personality must be one of {', '.join(PERSONALITIES)}, not {self.personality!r}")
        if self.data_width not in (32, 64, 128, 256, 512):
            raise ValueError(f"Data width must be one of 32, 64, 128, 256, 512, "
                             f"not {self.data_width!r}")
        _check_power(self, "rows", 2, 512)
        _check_range(self, "queue_pairs", 1, 255)
        if self.queues > self.rows:
            raise ValueError(f"Rows must be at least twice the queue pairs ({self.queue_pairs}){' and one more' * self.control_queue}, "
                             f"not {self.rows!r}; raise rows or lower queue pairs")
        _check_power(self, "max_queue_size", 2, 32768)
        _check_range(self, "msix_vectors", 2, 2048)
        _check_power(self, "nonposted_depth", 2, 128)
        _check_range(self, "meta_tags", 4, 128)
        _check_range(self, "data_tags", 4, 224)
        if self.meta_tags + self.data_tags > 256:
            raise ValueError(f"Meta tags and data tags must sum to at most 256, not "
                             f"{self.meta_tags + self.data_tags}; lower one of them")
        _check_power(self, "meta_contexts", 16, 128)
        _check_power(self, "chain_slots", 8, 8192)
        _check_power(self, "queue_window", 4, 512)
        # Receive buffers keep their slots until frames come: all receive queues together must leave some for the others.
        pairs = self.queue_pairs if self.control_queue else 1
        if 2 * pairs * self.queue_window > self.chain_slots:
            raise ValueError(f"Queue window must be at most half of the chain slots ({self.chain_slots})"
                             f"{f' for {pairs} queue pairs together' if pairs > 1 else ''}, "
                             f"not {self.queue_window!r}; one queue would starve the others")
        _check_power(self, "segment_groups", 16, 512)
        _check_range(self, "max_chain", 8, 8 * self.segment_groups // 2)
        _check_power(self, "tx_buffer_size", 16384, 1 << 20)
        _check_power(self, "rx_buffer_size", 16384, 1 << 20)
        _check_range(self, "max_frame", 1514, 9018)
        _check_range(self, "mtu", 68, 9000)
        if self.mtu + 18 > self.max_frame:
            raise ValueError(f"MTU must be at most {self.max_frame - 18} with frames of "
                             f"{self.max_frame} bytes, not {self.mtu!r}; raise max_frame")
        _check_range(self, "mac", 0, (1 << 48) - 1)
        if self.mac >> 40 & 1:
            raise ValueError(f"MAC must be a unicast address (first octet even), "
                             f"not {self.mac:012x}")
        _check_range(self, "cycles_per_microsecond", 1, 1000)
        _check_range(self, "completion_timeout", 64, 1 << 30)
        _check_range(self, "serial_number", 0, (1 << 64) - 1)

    @property
    def queues(self):
        """Number of virtqueues."""
        return 1 if self.personality == "entropy" else 2 * self.queue_pairs + self.control_queue

    def with_options(self, **options):
        """Return a copy with some parameters changed; unknown names raise TypeError."""
        known = {field.name for field in fields(self)}
        for name in options:
            if name not in known:
                raise TypeError(f"Device parameters are {', '.join(sorted(known))}; "
                                f"{name!r} is not one of them")
        return replace(self, **options)


PRESETS = {
    "minimal": DeviceConfig(meta_tags=8, data_tags=24, meta_contexts=32, chain_slots=32,
                            queue_window=16, segment_groups=32, max_chain=32,
                            tx_buffer_size=16384, rx_buffer_size=16384, max_queue_size=256),
    "default": DeviceConfig(rows=8, control_queue=True),
    # Four windows of chains: beside a queue that keeps a window for ever, and the quarter for queues that hold few, another still
    # gets a window of its own.
    "wide": DeviceConfig(data_width=256, cycles_per_microsecond=250, rows=8, control_queue=True, meta_tags=48, data_tags=192,
                         chain_slots=2048, queue_window=512, tx_buffer_size=65536, rx_buffer_size=65536),
    "wide512": DeviceConfig(data_width=512, cycles_per_microsecond=250, rows=8, control_queue=True, meta_tags=48, data_tags=208, meta_contexts=128,
                            chain_slots=2048, queue_window=512, tx_buffer_size=131072,
                            rx_buffer_size=131072),
    "entropy": DeviceConfig(personality="entropy", msix_vectors=2, meta_tags=8, data_tags=8, meta_contexts=16, chain_slots=32, queue_window=16,
                            segment_groups=32, max_chain=32, max_queue_size=256, tx_buffer_size=16384, rx_buffer_size=16384),
}
"""Named parameter sets."""


def preset(name):
    """Return the preset called ``name``.

    Raises
    ------
    ValueError
        If there is no such preset; the message lists those that exist.
    """
    if name not in PRESETS:
        raise ValueError(f"Preset must be one of {', '.join(PRESETS)}, not {name!r}")
    return PRESETS[name]
