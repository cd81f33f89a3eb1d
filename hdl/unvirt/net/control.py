# SPDX-License-Identifier: BSD-2-Clause
"""The control queue: commands of the driver [virtio 5.1.9.5]."""

from amaranth import *
from amaranth.lib import enum, stream, wiring
from amaranth.lib.wiring import In, Out

from ..virtio.queue.request import RequestByte
from .spec import ACK_ERR, ACK_OK, CTRL_MQ, CTRL_MQ_VQ_PAIRS_SET

__all__ = ["ControlQueue"]


class _Phase(enum.Enum, shape=2):
    COLLECT = 0
    JUDGE = 1
    SETTLE = 2
    ANSWER = 3


class ControlQueue(wiring.Component):
    """Carries out commands one at a time and answers each with a byte: OK, or ERR without any effect.

    Known is VQ_PAIRS_SET of class MQ, if ``multiqueue`` was negotiated; everything else, and any command of another length than its own, is an
    error. The answer to a change waits until ``settled``, a few cycles otherwise. ``drain`` forgets what came so far and goes back to one pair.

    Parameters
    ----------
    config : DeviceConfig

    Members
    -------
    drain, multiqueue : ``In(1)``
    requests : ``In(stream.Signature(RequestByte))``, responses : ``Out(stream.Signature(8))``
    pairs : ``Out``
        Queue pairs in use, 1 at first.
    changed : ``Out(1)``
        Pulse: ``pairs`` has changed in this cycle.
    settled : ``In(1)``
        Nothing under way goes by what ``pairs`` was before.

    Spec
    ----
    [virtio 5.1.9.5.5] Automatic receive steering in multiqueue mode
    """

    def __init__(self, config):
        self._most = config.queue_pairs
        super().__init__({
            "drain": In(1),
            "multiqueue": In(1),
            "requests": In(stream.Signature(RequestByte(config.rows))),
            "responses": Out(stream.Signature(8)),
            "pairs": Out(range(config.queue_pairs + 1), init=1),
            "changed": Out(1),
            "settled": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        phase = Signal(_Phase)
        count = Signal(3)                  # bytes so far, 7 for more
        command = Signal(32)               # class, command, virtqueue_pairs
        wanted = command[16:]
        byte = self.requests.payload
        m.d.comb += [
            self.requests.ready.eq(phase == _Phase.COLLECT),
            self.responses.valid.eq(phase == _Phase.ANSWER),
        ]
        m.d.sync += self.changed.eq(0)
        with m.Switch(phase):
            with m.Case(_Phase.COLLECT):
                with m.If(self.requests.valid):
                    with m.If(byte.there & (count != 7)):
                        m.d.sync += count.eq(count + 1)
                    with m.If(byte.there & (count < 4)):
                        m.d.sync += command.eq(Cat(command[8:], byte.data))
                    with m.If(byte.last):
                        m.d.sync += phase.eq(_Phase.JUDGE)
            with m.Case(_Phase.JUDGE):
                m.d.sync += [self.responses.payload.eq(ACK_ERR), count.eq(0), phase.eq(_Phase.ANSWER)]
                with m.If(self.multiqueue & (count == 4) & (command[:8] == CTRL_MQ) & (command[8:16] == CTRL_MQ_VQ_PAIRS_SET)
                          & (wanted != 0) & (wanted <= self._most)):
                    m.d.sync += [self.responses.payload.eq(ACK_OK), self.pairs.eq(wanted), self.changed.eq(1), phase.eq(_Phase.SETTLE)]
            with m.Case(_Phase.SETTLE):
                with m.If(~self.changed & self.settled):
                    m.d.sync += phase.eq(_Phase.ANSWER)
            with m.Case(_Phase.ANSWER):
                with m.If(self.responses.ready):
                    m.d.sync += phase.eq(_Phase.COLLECT)
        with m.If(self.drain):
            m.d.sync += [phase.eq(_Phase.COLLECT), count.eq(0), self.pairs.eq(1), self.changed.eq(0)]
        return m
