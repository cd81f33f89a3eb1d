# SPDX-License-Identifier: BSD-2-Clause
"""Configuration space of a function: registers, what they control, and who owns the rest."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .contract import ConfigSignature

__all__ = ["ConfigSpace", "FunctionState"]

# DWs of the header with bits of their own.
_COMMAND, _BAR0_LOW, _BAR0_HIGH = 1, 4, 5


def FunctionState():
    """What configuration space says to the rest of the attachment."""
    return wiring.Signature({
        "memory_enable": Out(1),
        "bus_master_enable": Out(1),
        "interrupt_disable": Out(1),
        "bar0": Out(64),
        "max_payload_size": Out(3),
        "max_read_request_size": Out(3),
        "extended_tags": Out(1),
        "rcb_128": Out(1),
        "msix_enable": Out(1),
        "msix_function_mask": Out(1),
        "flr": Out(1),
        "flr_done": In(1),
        "unsupported": In(1),       # pulse: an unsupported request was seen
        "interrupt_pending": In(1),
        "transactions_pending": In(1),
    })


class ConfigSpace(wiring.Component):
    """Executes configuration accesses.

    ``access`` has the signature of the contract's user part; each request is answered by ``ack`` after one cycle, or when user logic has answered
    if the DW lies in the window of the PCI configuration access capability. Writable bits are flip-flops, the rest is an image. Setting Initiate
    Function Level Reset raises ``state.flr`` until ``flr_done``; every register but the link control returns to its value after reset.
    ``hot_reset`` does the same at once.

    Parameters
    ----------
    image : ConfigImage
    """

    def __init__(self, image):
        self._image = image
        super().__init__({
            "access": In(ConfigSignature()),
            "user": Out(ConfigSignature()),
            "hot_reset": In(1),
            "state": Out(FunctionState()),
        })

    def elaborate(self, platform):
        m = Module()
        image = self._image
        express = image.offsets["pci_express"] // 4
        msix = image.offsets["msix"] // 4
        window = image.offsets["virtio_pci_cfg"] // 4
        device_control, link_control = express + 2, express + 4
        request, state = self.access.request.payload, self.state
        unsupported_seen = Signal()
        answer = Signal(32)

        registers = {}
        for number in image.writable:
            registers[number] = Signal(32, init=image.values.get(number, 0), name=f"dw{number}")
        command, control = registers[_COMMAND], registers[device_control]
        m.d.comb += [
            state.memory_enable.eq(command[1]),
            state.bus_master_enable.eq(command[2]),
            state.interrupt_disable.eq(command[10]),
            state.bar0.eq(Cat(C(0, 4), registers[_BAR0_LOW][4:], registers[_BAR0_HIGH])),
            state.max_payload_size.eq(control[5:8]),
            state.max_read_request_size.eq(control[12:15]),
            state.extended_tags.eq(control[8]),
            state.rcb_128.eq(registers[link_control][3]),
            state.msix_function_mask.eq(registers[msix][30]),
            state.msix_enable.eq(registers[msix][31]),
        ]

        is_user = (request.address > window) & (request.address < window + 5)
        connected = Signal()
        m.d.comb += [
            self.user.request.payload.eq(request),
            self.user.request.valid.eq(connected & ~self.user.ack),
            self.access.data.eq(Mux(connected, self.user.data, answer)),
        ]
        with m.FSM(name="config_space"):
            with m.State("IDLE"):
                with m.If(self.access.request.valid):
                    m.next = "ANSWER"
                    with m.If(is_user):
                        m.next = "USER"
                    with m.Elif(request.write):
                        self._elaborate_write(m, registers, device_control, unsupported_seen)
                m.d.sync += answer.eq(0)
                with m.Switch(request.address):
                    for number in sorted(set(image.values) | set(registers)):
                        with m.Case(number):
                            m.d.sync += answer.eq(registers.get(number, C(image.values.get(number,
                                                                                          0), 32)))
                # Status bits that follow the hardware.
                with m.If(request.address == _COMMAND):
                    m.d.sync += answer[19].eq(state.interrupt_pending)
                with m.If(request.address == device_control):
                    m.d.sync += [answer[15].eq(0), answer[19].eq(unsupported_seen),
                                 answer[21].eq(state.transactions_pending)]
            with m.State("USER"):
                m.d.comb += connected.eq(1)
                with m.If(self.user.ack):
                    m.d.comb += [self.access.ack.eq(1), self.access.request.ready.eq(1)]
                    m.next = "IDLE"
            with m.State("ANSWER"):
                m.d.comb += [self.access.ack.eq(1), self.access.request.ready.eq(1)]
                m.next = "IDLE"

        with m.If(state.unsupported):
            m.d.sync += unsupported_seen.eq(1)
        with m.If(state.flr & state.flr_done):
            m.d.sync += state.flr.eq(0)
        reset = self.hot_reset | (state.flr & state.flr_done)
        for number, register in registers.items():
            survives_flr = number == link_control
            with m.If(self.hot_reset if survives_flr else reset):
                m.d.sync += register.eq(register.init)
        with m.If(self.hot_reset):
            m.d.sync += [unsupported_seen.eq(0), state.flr.eq(0)]
        # While the function resets it must not start anything.
        with m.If(state.flr):
            m.d.comb += [state.memory_enable.eq(0)]
        return m

    def _elaborate_write(self, m, registers, device_control, unsupported_seen):
        """Write the writable bits of the enabled bytes."""
        request = self.access.request.payload
        with m.Switch(request.address):
            for number, register in registers.items():
                mask = self._image.writable[number]
                with m.Case(number):
                    for byte in range(4):
                        bits = mask >> 8 * byte & 0xFF
                        with m.If(request.byte_enables[byte]):
                            old = register.word_select(byte, 8)
                            new = request.data.word_select(byte, 8)
                            m.d.sync += old.eq((old & ~C(bits, 8)) | (new & bits))
        with m.If(request.address == device_control):
            with m.If(request.byte_enables[1] & request.data[15]):
                m.d.sync += self.state.flr.eq(1)
            # Unsupported Request Detected: write 1 to clear.
            with m.If(request.byte_enables[2] & request.data[19]):
                m.d.sync += unsupported_seen.eq(0)
