# SPDX-License-Identifier: BSD-2-Clause
"""The raw attachment: the contract of :mod:`unvirt.pcie.contract` on two streams of TLPs.

    rx --> RawReceive --+--> rx_requests, rx_completions
                        +--> local --> ConfigSpace --> answer --+
    tx <-- RawTransmit <-- tx_posted, tx_nonposted, tx_completions
"""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...stream.fifo import Queue
from ..bus import BAR0_SIZE
from ..config_space import ConfigSpace
from ..contract import AttachmentSignature
from ..tlp import CompletionStatus
from ..wire import CreditLimits, RawBeat
from .raw_receive import LocalRequest, RawReceive
from .raw_transmit import RawTransmit

__all__ = ["RawAttachment"]


class RawAttachment(wiring.Component):
    """Receive checks, BAR decode, configuration space, order and credits.

    ``rx.ready`` may fall for some cycles but depends neither on ``tx`` nor on credits: host requests wait in queues as deep as the non-posted credits
    advertised. One function; configuration requests to others are not supported. ``hot_reset``, or the link going down, resets configuration space
    and forgets TLPs under way.

    Members
    -------
    attachment : ``Out(AttachmentSignature)``
    rx, tx : ``In``/``Out(stream.Signature(RawBeat))``
    credits : ``In(CreditLimits)``
    nonposted_freed : ``Out(1)``
    link_up, hot_reset : ``In(1)``
    stat_unsupported : ``Out(1)``
    """

    def __init__(self, config, image):
        self._config = config
        self._image = image
        width = config.data_width
        super().__init__({
            "attachment": Out(AttachmentSignature(width)),
            "rx": In(stream.Signature(RawBeat(width))),
            "tx": Out(stream.Signature(RawBeat(width))),
            "credits": In(CreditLimits),
            "nonposted_freed": Out(1),
            "link_up": In(1),
            "hot_reset": In(1),
            "stat_unsupported": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        width = self._config.data_width
        out = self.attachment
        m.submodules.receive = receive = RawReceive(data_width=width, bar_size=BAR0_SIZE)
        m.submodules.transmit = transmit = RawTransmit(data_width=width)
        m.submodules.config_space = space = ConfigSpace(self._image)
        m.submodules.local = local = Queue(LocalRequest, self._config.nonposted_depth)
        reset = Signal(init=1)
        m.d.sync += reset.eq(self.hot_reset | ~self.link_up)

        connect(m, flipped(self.rx), receive.rx)
        connect(m, transmit.tx, flipped(self.tx))
        connect(m, receive.requests, flipped(out.rx_requests))
        connect(m, receive.completions, flipped(out.rx_completions))
        connect(m, receive.local, local.i)
        connect(m, flipped(out.tx_posted), transmit.posted)
        connect(m, flipped(out.tx_nonposted), transmit.nonposted)
        connect(m, flipped(out.tx_completions), transmit.completions)
        connect(m, space.user, flipped(out.config))

        state, control = space.state, out.control
        requester_id = Signal(16)
        m.d.comb += [
            receive.memory_enable.eq(state.memory_enable), receive.bar0.eq(state.bar0),
            receive.clear.eq(reset), transmit.clear.eq(reset), space.hot_reset.eq(reset),
            transmit.credits.eq(self.credits),
            transmit.requester_id.eq(requester_id),
            transmit.intx.eq(control.intx & ~state.interrupt_disable & ~state.msix_enable & ~reset),
            out.posted_done.eq(transmit.posted_done),
            state.unsupported.eq(receive.unsupported),
            state.interrupt_pending.eq(control.intx),
            state.transactions_pending.eq(control.transactions_pending),
            state.flr_done.eq(control.flr_done),
            self.stat_unsupported.eq(receive.unsupported),
            control.link_up.eq(self.link_up),
            control.requester_id.eq(requester_id),
            control.bus_master_enable.eq(state.bus_master_enable),
            control.memory_enable.eq(state.memory_enable),
            control.max_payload_size.eq(state.max_payload_size),
            control.max_read_request_size.eq(state.max_read_request_size),
            control.rcb_128.eq(state.rcb_128),
            control.extended_tags.eq(state.extended_tags),
            control.msix_enable.eq(state.msix_enable),
            control.msix_function_mask.eq(state.msix_function_mask),
            control.interrupt_disable.eq(state.interrupt_disable),
            control.flr.eq(state.flr),
            control.hot_reset.eq(reset),
        ]
        m.d.sync += self.nonposted_freed.eq(transmit.nonposted_done)

        # One request of our own at a time.
        request, answer = local.o.payload, transmit.own_completions
        value = Signal(32)
        refused = Signal()
        access = space.access
        m.d.comb += [
            access.request.payload.write.eq(request.write),
            access.request.payload.address.eq(request.register),
            access.request.payload.byte_enables.eq(request.byte_enables),
            access.request.payload.data.eq(request.data),
            refused.eq(request.unsupported | (request.function != 0)),
            answer.payload.first.eq(1), answer.payload.last.eq(1),
            answer.payload.data.eq(value),
        ]
        header = answer.payload.header
        read = ~refused & ~request.write
        order = Signal(8)
        m.d.comb += [
            header.requester_id.eq(request.requester_id), header.tag.eq(request.tag),
            header.tc.eq(request.tc), header.attr.eq(request.attr),
            header.status.eq(Mux(refused, CompletionStatus.UNSUPPORTED_REQUEST.value,
                                 CompletionStatus.SUCCESS.value)),
            header.byte_count.eq(4), header.length.eq(read), header.order.eq(order),
        ]
        with m.FSM(name="raw_local"):
            with m.State("IDLE"):
                with m.If(local.o.valid):
                    m.next = "ACCESS"
                    with m.If(refused):
                        m.next = "ORDER"
            with m.State("ACCESS"):
                m.d.comb += access.request.valid.eq(1)
                with m.If(access.ack):
                    m.d.sync += value.eq(access.data)
                    with m.If(request.write):
                        # The identity of the function is that of its configuration writes [PCIe 2.2.6.2].
                        m.d.sync += requester_id.eq(Cat(C(0, 3), request.bus_device))
                    m.next = "SETTLE"
            with m.State("SETTLE"):
                # What was written has its effect: without bus mastering no further posted write begins.
                m.next = "ORDER"
            with m.State("ORDER"):
                m.d.sync += order.eq(transmit.posted_begun)
                m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += answer.valid.eq(1)
                with m.If(answer.ready):
                    m.d.comb += local.o.ready.eq(1)
                    m.next = "IDLE"
        return m
