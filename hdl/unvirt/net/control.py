# SPDX-License-Identifier: BSD-2-Clause
"""The control queue: commands of the driver [virtio 5.1.9.5]."""

from amaranth import *
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from ..virtio.contract import row_width
from ..virtio.queue.coalescer import CoalescePortSignature, CoalesceSetting
from ..virtio.queue.request import RequestByte, ResponseByte
from .spec import ACK_ERR, ACK_OK, CTRL_MQ, CTRL_MQ_VQ_PAIRS_SET, CTRL_NOTF_COAL, CoalCommand

__all__ = ["ControlQueue"]


class _Coalesce(data.Struct):
    """virtio_net_ctrl_coal."""

    packets:      32
    microseconds: 32


class _QueueCoalesce(data.Struct):
    """virtio_net_ctrl_coal_vq."""

    queue:    16
    reserved: 16
    coalesce: _Coalesce


class _Command(data.Struct):
    """virtio_net_ctrl: what a driver may send at most; the data is read as one or the other."""

    kind:    8
    command: 8
    data:    data.UnionLayout({"pairs": 16, "coalesce": _Coalesce, "queue": _QueueCoalesce})


class _Phase(enum.Enum, shape=3):
    COLLECT = 0
    JUDGE = 1
    SETTLE = 2
    SPREAD = 3
    ASK = 4
    LOOK = 5
    ANSWER = 6


_LONGEST = _Command.as_shape().size // 8


class ControlQueue(wiring.Component):
    """Carries out commands one at a time and answers each: OK, or ERR without any effect.

    Known are VQ_PAIRS_SET of class MQ and the commands of NOTF_COAL, each if its feature was negotiated; everything else, and any command of
    another length than its own, is an error. Numbers of packets and microseconds up to 65,535 can be set; with more it is an error.
    The answer to VQ_PAIRS_SET waits until ``settled`` and then ``flushed``, TX_SET and RX_SET take a cycle for each queue pair, all others a few
    cycles. ``drain`` forgets what came so far, goes back to one pair and to no coalescing.

    Parameters
    ----------
    config : DeviceConfig

    Members
    -------
    drain, abandoned : ``In(1)``
        ``abandoned``: the command at hand is forgotten, unless it is carried out already.
    row_cleared, cleared_row : ``In``
        This queue was reset: it coalesces as its kind was told last.
    multiqueue, coalescing, queue_coalescing : ``In(1)``
        MQ, NOTF_COAL, VQ_NOTF_COAL was negotiated.
    requests : ``In(stream.Signature(RequestByte))``, responses : ``Out(stream.Signature(ResponseByte))``
    pairs : ``Out``
        Queue pairs in use, 1 at first.
    changed : ``Out(1)``
        Pulse: ``pairs`` has changed in this cycle.
    settled : ``In(1)``
        No packet that went by what ``pairs`` was before waits for its buffers.
    flush : ``Out(1)``, flushed : ``In(1)``
        The buffers of those that do not wait any more are to be published; they are.
    coalesce : ``Out(CoalescePortSignature)``

    Spec
    ----
    [virtio 5.1.9.5.5] Automatic receive steering in multiqueue mode, [virtio 5.1.9.5.9] Notifications Coalescing
    """

    def __init__(self, config):
        self._most = config.queue_pairs
        super().__init__({
            "drain": In(1),
            "abandoned": In(1),
            "row_cleared": In(1),
            "cleared_row": In(row_width(config.rows)),
            "multiqueue": In(1),
            "coalescing": In(1),
            "queue_coalescing": In(1),
            "requests": In(stream.Signature(RequestByte(config.rows))),
            "responses": Out(stream.Signature(ResponseByte)),
            "pairs": Out(range(config.queue_pairs + 1), init=1),
            "changed": Out(1),
            "settled": In(1),
            "flush": Out(1),
            "flushed": In(1),
            "coalesce": Out(CoalescePortSignature(config.rows)),
        })

    def elaborate(self, platform):
        m = Module()
        phase = Signal(_Phase)
        count = Signal(range(_LONGEST + 2))        # bytes so far, one more than the longest command for all beyond
        command = Signal(_Command)
        answer = Signal(8 * 9)                     # what is left of it, next byte lowest
        answer_left = Signal(range(10))
        pair = Signal(range(self._most + 1))
        byte, coalesce = self.requests.payload, self.coalesce
        of_queue = command.data.queue
        setting, setting_valid, setting_row = Signal(CoalesceSetting), Signal(), Signal.like(coalesce.set_row)
        # What TX_SET and RX_SET said last, for queues that come back.
        tx_default, rx_default = Signal(CoalesceSetting), Signal(CoalesceSetting)
        restoring, restored_row = Signal(), Signal.like(coalesce.set_row)
        queue_of_pair = self.cleared_row < 2 * Mux(self.multiqueue, self._most, 1)
        given = Signal(_Coalesce)
        queue_exists = of_queue.queue < 2 * Mux(self.multiqueue, self._most, 1)
        can_be_set = (given.packets[16:] == 0) & (given.microseconds[16:] == 0)

        def is_command(kind, number, enabled, length):
            return enabled & (command.kind == kind) & (command.command == number) & (count == 2 + length)

        tx_set = is_command(CTRL_NOTF_COAL, CoalCommand.TX_SET, self.coalescing, 8)
        rx_set = is_command(CTRL_NOTF_COAL, CoalCommand.RX_SET, self.coalescing, 8)
        queue_set = is_command(CTRL_NOTF_COAL, CoalCommand.VQ_SET, self.queue_coalescing, 12)
        queue_get = is_command(CTRL_NOTF_COAL, CoalCommand.VQ_GET, self.queue_coalescing, 4)
        m.d.comb += [
            given.eq(Mux(command.command == CoalCommand.VQ_SET, of_queue.coalesce, command.data.coalesce)),
            self.responses.payload.data.eq(answer[:8]),
            self.responses.payload.last.eq(answer_left == 1),
            setting.packets.eq(given.packets),
            setting.microseconds.eq(given.microseconds),
            coalesce.set_valid.eq(setting_valid | restoring),
            coalesce.set_row.eq(Mux(setting_valid, setting_row, restored_row)),
            coalesce.setting.eq(Mux(setting_valid, setting, Mux(restored_row[0], tx_default, rx_default))),
            setting_row.eq(of_queue.queue),
            coalesce.ask.payload.eq(of_queue.queue),
        ]
        m.d.sync += self.changed.eq(0)
        with m.If(~setting_valid):
            m.d.sync += restoring.eq(0)
        with m.If(self.row_cleared & queue_of_pair):
            m.d.sync += [restoring.eq(1), restored_row.eq(self.cleared_row)]

        def finish(ack, value=None):
            """Answer ``ack``; with VQ_GET behind the eight bytes that it asks for."""
            m.d.sync += [answer.eq(ack), answer_left.eq(1)]
            with m.If(queue_get):
                m.d.sync += [answer.eq(Cat(C(0, 64) if value is None else value, C(ack, 8))), answer_left.eq(9)]
            m.d.sync += phase.eq(_Phase.ANSWER)

        with m.Switch(phase):
            with m.Case(_Phase.COLLECT):
                m.d.comb += self.requests.ready.eq(1)
                m.d.sync += pair.eq(0)
                with m.If(self.requests.valid):
                    with m.If(byte.there & (count <= _LONGEST)):
                        m.d.sync += [command.as_value().word_select(count, 8).eq(byte.data), count.eq(count + 1)]
                    with m.If(byte.last):
                        m.d.sync += phase.eq(_Phase.JUDGE)
            with m.Case(_Phase.JUDGE):
                with m.If(is_command(CTRL_MQ, CTRL_MQ_VQ_PAIRS_SET, self.multiqueue, 2)
                          & (command.data.pairs != 0) & (command.data.pairs <= self._most)):
                    m.d.sync += [self.pairs.eq(command.data.pairs), self.changed.eq(1)]
                    m.d.sync += phase.eq(_Phase.SETTLE)
                with m.Elif((tx_set | rx_set) & can_be_set):
                    m.d.sync += phase.eq(_Phase.SPREAD)
                with m.Elif((queue_set | queue_get) & queue_exists):
                    m.d.sync += phase.eq(_Phase.ASK)
                with m.Else():
                    finish(ACK_ERR)
            with m.Case(_Phase.SETTLE):
                m.d.comb += self.flush.eq(~self.changed & self.settled)
                with m.If(self.flushed):
                    finish(ACK_OK)
            with m.Case(_Phase.SPREAD):
                m.d.comb += [setting_valid.eq(1), setting_row.eq(Cat(tx_set, pair))]
                with m.If(tx_set):
                    m.d.sync += tx_default.eq(setting)
                with m.Else():
                    m.d.sync += rx_default.eq(setting)
                m.d.sync += pair.eq(pair + 1)
                with m.If(pair == self._most - 1):
                    finish(ACK_OK)
            with m.Case(_Phase.ASK):
                m.d.comb += coalesce.ask.valid.eq(1)
                with m.If(coalesce.ask.ready):
                    m.d.sync += phase.eq(_Phase.LOOK)
            with m.Case(_Phase.LOOK):
                found = Signal(_Coalesce)
                m.d.comb += [found.packets.eq(coalesce.answer.packets), found.microseconds.eq(coalesce.answer.microseconds)]
                with m.If(coalesce.answer_enabled & (queue_get | can_be_set)):
                    m.d.comb += setting_valid.eq(queue_set)
                    finish(ACK_OK, found.as_value())
                with m.Else():
                    finish(ACK_ERR)
            with m.Case(_Phase.ANSWER):
                m.d.comb += self.responses.valid.eq(1)
                m.d.sync += count.eq(0)
                with m.If(self.responses.ready):
                    m.d.sync += [answer.eq(answer >> 8), answer_left.eq(answer_left - 1)]
                    with m.If(self.responses.payload.last):
                        m.d.sync += phase.eq(_Phase.COLLECT)
        with m.If(self.abandoned):
            m.d.sync += [phase.eq(_Phase.COLLECT), count.eq(0)]
        with m.If(self.drain):
            m.d.sync += [tx_default.eq(0), rx_default.eq(0), restoring.eq(0)]
            m.d.sync += [phase.eq(_Phase.COLLECT), count.eq(0), self.pairs.eq(1), self.changed.eq(0)]
        return m
