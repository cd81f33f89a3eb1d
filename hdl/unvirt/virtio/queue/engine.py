# SPDX-License-Identifier: BSD-2-Clause
"""The queue engine: every virtqueue of the device, with its state in memory and its logic shared.

                     doorbells                                        interrupts
                        |                                                 ^
        +---------------v---------------+     used     +-----------+  +---+------+
        | fetch   available rings ->    |  +---------->| used      |->| notify   |
        |         chains in the store   |  |  +------->| writer    |  | decision |
        +--+---------+----------+-------+  |  |        +----+------+  +---+------+
           | chains  | chains   | reads    |  |             | writes      | reads (by fetch)
        +--v------+  +--v----+  |          |  |             v             v
        | source  |  | sink  |  +---> read engine       write engine
        +--+------+  +--+-+--+             |  |
           | packets    | +--- writes      |  |
           v            ^ frames           |  |
        personality ----+------------------+--+

Nothing here knows what kind of device it serves.
"""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...pcie.dma import WriteBeat
from ..contract import EngineControlSignature, row_width
from .control import EngineControl
from .fetch import FetchSide
from .notify_decision import NotifyDecision
from .sink import Sink
from .source_service import SourceService
from .used import UsedWriter

__all__ = ["CONFIG_PORTS", "QueueEngine"]

CONFIG_PORTS = 5
"""Readers of the queue configuration rows: available side, ring parser, walker, used writer, decision."""
