# SPDX-License-Identifier: BSD-2-Clause
"""The common configuration structure [virtio 4.1.4.3] and the life of the device: features, status, reset."""

from functools import reduce
from operator import or_

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..pcie.bus import RegisterBusSignature, RegisterRequest
from .contract import row_width
from .spec import FEATURE_BITS, NO_VECTOR, Common, Feature, Status

__all__ = ["CommonConfig"]

_DRIVER_BITS = ((1 << Status.ACKNOWLEDGE) | (1 << Status.DRIVER) | (1 << Status.DRIVER_OK)
                | (1 << Status.FEATURES_OK) | (1 << Status.FAILED))

_IN_RESET = 2
"""What the bank of ``queue_enable`` holds of a queue that is being reset."""


class CommonConfig(wiring.Component):
    """Registers of the common configuration structure.

    Accesses of 1, 2 and 4 bytes by byte enables; a 64-bit field is two independent halves. A 16-bit field is written only
    as a whole. An access takes five cycles, a read answers in the fifth. Queue fields are kept in :class:`QueueConfigs`, written while the
    queue is not enabled. A queue beyond ``queues`` reads size 0.

    **Queue reset** [virtio 2.6.1]: writing 1 to ``queue_reset`` of an enabled queue disables it at once and asks the engine for its reset; the
    register reads 1 until that is done and the queue's fields have their defaults again.

    **Status**: bits the driver set stay until a reset; a write that clears some of them is ignored [DER-INIT-03]. FEATURES_OK is taken only for a
    legal set of features, and freezes it. Writing 0 (or ``function_reset``) asks the engine to come to rest; the status keeps its value until all
    is quiet, then everything here returns to defaults and the status reads 0. If it is 0 already nothing is under way: accesses then wait for the
    rows to be swept, nine cycles for each and some forty.

    **Suspend** [virtio, Device Suspend]: writing SUSPEND while DRIVER_OK is set asks the engine to come to rest with what it holds, and keeps
    the device configuration as it is. Once the engine is at rest, no queue is in reset and no interrupt waits, SUSPEND is set and DRIVER_OK cleared
    in one cycle. From then on writes of anything but the status are ignored, until DRIVER_OK is written: it is set and SUSPEND cleared in one cycle.
    A violation or a reset ends a suspension that is under way.

    Members
    -------
    bus : ``In(RegisterBusSignature)``
        Addresses 0 to 63.
    offered, features : ``In``/``Out(FEATURE_BITS)``
    function_reset : ``In(1)``, function_reset_done : ``Out(1)``
        Level and pulse: FLR or hot reset.
    violation : ``In(1)``
        Sets DEVICE_NEEDS_RESET, a cycle later, if DRIVER_OK is set.
    config_changed : ``In(1)``
        The device configuration changed in this cycle.
    notify_config : ``Out(1)``
        Pulse: tell the driver of a change.
    engine_reset, engine_reset_done, active, suspend, engine_suspended : engine side
        As ``reset``, ``reset_done``, ``driver_ok``, ``suspend``, ``suspended`` of :func:`~unvirt.virtio.contract.EngineControlSignature`.
    driver_ok : ``Out(1)``
        Level: the device takes notifications.
    row, bank, write_enable, write_data, read_data :
        To the queue rows.
    rows_reset : ``In(stream)``
        Queues whose reset is done.
    started_row, started : ``Out``
        Pulse: a queue was enabled, and its row says so in the next cycle.
    config_vector : ``Out(16)``
    forget : ``Out(1)``
        Level: a reset is ending; interrupts that wait are void.
    """

    def __init__(self, *, rows, queues, max_queue_size, vectors, rules):
        self._rows = rows
        self._queues = queues
        self._max_queue_size = max_queue_size
        self._vectors = vectors
        self._rules = rules
        super().__init__({
            "bus": In(RegisterBusSignature()),
            "offered": In(FEATURE_BITS),
            "features": Out(FEATURE_BITS),
            "function_reset": In(1),
            "function_reset_done": Out(1),
            "violation": In(1),
            "config_changed": In(1),
            "notify_config": Out(1),
            "engine_reset": Out(1),
            "engine_reset_done": In(1),
            "interrupts_idle": In(1),
            "active": Out(1),
            "suspend": Out(1),
            "engine_suspended": In(1),
            "driver_ok": Out(1),
            "row": Out(row_width(rows)),
            "bank": Out(3),
            "write_enable": Out(4),
            "write_data": Out(32),
            "read_data": In(32),
            "rows_reset": In(stream.Signature(row_width(rows))),
            "started": Out(1),
            "started_row": Out(row_width(rows)),
            "config_vector": Out(16, init=NO_VECTOR),
            "forget": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        # As it was on show in the cycle before: a request stays until it is taken.
        access = Signal(RegisterRequest)
        m.d.sync += access.eq(self.bus.request.payload)
        enables, value = access.byte_enables, access.data
        offset = access.address[:6]
        low_half, high_half = enables[:2].all(), enables[2:].all()

        device_select = Signal(32)
        driver_select = Signal(32)
        queue_select = Signal(16)
        accepted = Signal(FEATURE_BITS)
        status = Signal(8)
        generation = Signal(8)
        resetting = Signal()
        needs_reset = status[Status.NEEDS_RESET]
        frozen = status[Status.FEATURES_OK]
        answer = Signal(32)
        # What is known of registers that are written now and then is kept: an access takes longer.
        valid_queue = Signal()
        m.d.sync += valid_queue.eq(queue_select < self._queues)
        device_windows = Signal(FEATURE_BITS // 32)
        driver_windows = Signal(FEATURE_BITS // 32)
        for windows, select in ((device_windows, device_select), (driver_windows, driver_select)):
            m.d.sync += windows.eq(Cat(select == number for number in range(FEATURE_BITS // 32)))
        swept = Signal(range(8 * self._rows))
        one_row = Signal()                 # the sweep is of one queue
        suspending = Signal()              # SUSPEND was written and is not set yet
        suspended = status[Status.SUSPEND]
        in_resets = Signal(range(self._rows + 1))   # queues that are being reset

        legal = Signal()
        conditions = [(accepted & ~self.offered) == 0, accepted[32]]
        for rule in self._rules:
            conditions.append(~accepted[rule.feature]
                              | Cat(accepted[bit] for bit in rule.needs).any())
        m.d.sync += legal.eq(Cat(conditions).all())
        m.d.comb += [
            self.features.eq(accepted),
            self.active.eq((status[Status.DRIVER_OK] | suspended) & ~needs_reset & ~resetting),
            self.suspend.eq(suspending | suspended),
            # Queues are notified of when it rises: what comes while a suspension is under way need not be remembered.
            self.driver_ok.eq(status[Status.DRIVER_OK] & ~needs_reset & ~resetting & ~suspending),
            self.row.eq(queue_select),
            self.write_data.eq(value),
            self.bus.response_data.eq(answer),
            self.engine_reset.eq(resetting),
        ]

        def window(bits, windows):
            """Return the 32 bits of ``bits`` that one of ``windows`` says; 0 without."""
            return reduce(or_, (bits.word_select(number, 32) & here.replicate(32) for number, here in enumerate(windows)))

        def merge(register):
            """Return ``register`` with the enabled bytes of the value written."""
            return Cat(Mux(enables[byte], value.word_select(byte, 8),
                           register.word_select(byte, 8)) for byte in range(4))

        # Queue fields: bank of the rows that holds the DW at this offset.
        bank = Signal(3)
        banked = Signal()
        with m.Switch(offset[2:]):
            for number, place in enumerate((Common.QUEUE_DESC, Common.QUEUE_DESC + 4,
                                            Common.QUEUE_DRIVER, Common.QUEUE_DRIVER + 4,
                                            Common.QUEUE_DEVICE, Common.QUEUE_DEVICE + 4,
                                            Common.QUEUE_SIZE, Common.QUEUE_ENABLE)):
                with m.Case(place >> 2):
                    m.d.comb += [bank.eq(number), banked.eq(1)]
        m.d.comb += self.bank.eq(bank)

        was_enabled = Signal()
        in_reset = Signal()
        starting = Signal()
        forgets = Signal()
        m.d.sync += self.forget.eq(forgets)
        # What is written in the last cycle of an access, by DW; decided before.
        writing = Signal()
        field = Signal(16)
        m.d.sync += [writing.eq(0), field.eq(1 << offset[2:])]
        m.d.sync += [self.started.eq(starting), self.started_row.eq(queue_select)]
        # Whether size and vector that are written may be: up to the largest size, of a split ring a power of two [virtio 2.7, 2.8]; only
        # vectors that exist.
        size = value[:16]
        good_size = Signal()
        good_vector = Signal()
        m.d.sync += [
            good_size.eq((size != 0) & (((size & (size - 1)) == 0) | accepted[Feature.RING_PACKED]) & (size <= self._max_queue_size)),
            good_vector.eq(value[16:] < self._vectors),
        ]
        # That engine and interrupts are at rest is said of one cycle: what is told of by one has reached the other.
        quiet = Signal()
        engine_reset_done = Signal()
        engine_suspended = Signal()
        violation = Signal()
        m.d.sync += [
            quiet.eq(self.interrupts_idle), violation.eq(self.violation),
            engine_reset_done.eq(self.engine_reset_done & resetting), engine_suspended.eq(self.engine_suspended & suspending),
        ]
        generation_step = Signal()
        m.d.comb += generation_step.eq(self.config_changed)
        with m.If(generation_step):
            m.d.sync += generation.eq(generation + 1)

        with m.FSM(name="common_config"):
            with m.State("SWEEP"):
                # Rows return to their defaults: largest size, no vector, not enabled.
                number = swept >> 3
                m.d.comb += [
                    self.row.eq(number), self.bank.eq(swept[:3]), self.write_enable.eq(0xF),
                    self.write_data.eq(0), forgets.eq(~one_row),
                ]
                with m.If(swept[:3] == 6):
                    m.d.comb += self.write_data.eq(
                        Cat(Mux(number < self._queues, C(self._max_queue_size, 16), C(0, 16)),
                            C(NO_VECTOR, 16)))
                m.d.sync += swept.eq(swept + 1)
                with m.If(one_row):
                    with m.If(swept[:3] == 7):
                        m.next = "ROW_CLEARED"
                with m.Elif(swept == 8 * self._rows - 1):
                    m.next = "CLEARED"
            with m.State("ROW_CLEARED"):
                # The last bank is written in this cycle.
                m.d.comb += self.rows_reset.ready.eq(1)
                m.d.sync += [one_row.eq(0), swept.eq(0), in_resets.eq(in_resets - 1)]
                m.next = "IDLE"
            with m.State("CLEARED"):
                m.d.comb += forgets.eq(1)
                m.d.sync += [
                    device_select.eq(0), driver_select.eq(0), queue_select.eq(0), accepted.eq(0),
                    self.config_vector.eq(NO_VECTOR), swept.eq(0), suspending.eq(0), in_resets.eq(0),
                ]
                with m.If(~self.function_reset):
                    m.d.comb += self.function_reset_done.eq(resetting)
                    m.d.sync += [status.eq(0), resetting.eq(0)]
                    m.next = "IDLE"
                with m.Elif(self.interrupts_idle):
                    # The attachment ends an FLR when it is told that all is quiet.
                    m.d.comb += self.function_reset_done.eq(1)
            with m.State("IDLE"):
                with m.If(resetting & engine_reset_done & quiet):
                    m.next = "SWEEP"
                with m.Elif(self.function_reset & ~resetting):
                    m.d.sync += resetting.eq(1)
                with m.Elif(self.rows_reset.valid & ~resetting & quiet):
                    m.d.sync += [swept.eq(self.rows_reset.payload << 3), one_row.eq(1)]
                    m.next = "SWEEP"
                with m.Elif(suspending & engine_suspended & ~resetting & (in_resets == 0) & quiet):
                    m.d.sync += [suspending.eq(0), status[Status.SUSPEND].eq(1), status[Status.DRIVER_OK].eq(0)]
                with m.Elif(self.bus.request.valid & ~(resetting & (status == 0))):
                    # With a status of 0 the driver would take a reset for done: it waits here, for rows to be swept and no more.
                    m.next = "READ"
            with m.State("READ"):
                # The bank of the selected row is read in this cycle, whether it is enabled in the next.
                m.next = "LOOK"
            with m.State("LOOK"):
                m.d.comb += self.bank.eq(7)
                m.d.sync += answer.eq(self.read_data)
                m.next = "DECIDE"
            with m.State("DECIDE"):
                m.d.sync += [
                    was_enabled.eq(self.read_data[0]), in_reset.eq(self.read_data[1]),
                    # While suspended nothing is written but the status.
                    writing.eq(access.write & (~suspended | field[Common.DEVICE_STATUS >> 2])),
                ]
                m.next = "ACCESS"
            with m.State("ACCESS"):
                m.d.comb += self.bus.request.ready.eq(1)
                m.next = "IDLE"
                with m.If(~access.write):
                    m.next = "RESPOND"
                    with m.Switch(offset[2:]):
                        for place, register in (
                                (Common.DEVICE_FEATURE_SELECT, device_select),
                                (Common.DEVICE_FEATURE, window(self.offered, device_windows)),
                                (Common.DRIVER_FEATURE_SELECT, driver_select),
                                (Common.DRIVER_FEATURE, window(accepted, driver_windows)),
                                (Common.CONFIG_MSIX_VECTOR,
                                 Cat(self.config_vector, C(self._queues, 16))),
                                (Common.DEVICE_STATUS, Cat(status, generation, queue_select))):
                            with m.Case(place >> 2):
                                m.d.sync += answer.eq(register)
                        with m.Case(Common.QUEUE_NOTIF_CONFIG_DATA >> 2):
                            # What names a queue in a doorbell is its number, with NOTIF_CONFIG_DATA or without.
                            m.d.sync += answer.eq(Cat(Mux(valid_queue & accepted[Feature.NOTIF_CONFIG_DATA], queue_select, 0),
                                                      valid_queue & in_reset))
                        with m.Case(Common.QUEUE_ENABLE >> 2):
                            m.d.sync += answer.eq(Mux(valid_queue,
                                                      Cat(answer[0], C(0, 15), queue_select), 0))
                        with m.Default():
                            with m.If(~banked | ~valid_queue):
                                m.d.sync += answer.eq(0)
                            with m.If((offset[2:] == Common.QUEUE_SIZE >> 2) & ~valid_queue):
                                m.d.sync += answer.eq(NO_VECTOR << 16)
            with m.State("RESPOND"):
                m.d.comb += self.bus.response_valid.eq(1)
                m.next = "IDLE"

        with m.If(writing):
            self._elaborate_write(m, field, enables, value, merge, low_half, high_half,
                                  device_select, driver_select, driver_windows, queue_select, accepted,
                                  status, frozen, legal, resetting, bank, banked, starting,
                                  was_enabled, in_reset, valid_queue, suspending, in_resets, good_size, good_vector)

        # A violation stops the function; without DRIVER_OK there is nothing to stop.
        stops = Signal()
        m.d.comb += stops.eq(violation & status[Status.DRIVER_OK] & ~needs_reset & ~resetting)
        with m.If(stops):
            m.d.sync += [status[Status.NEEDS_RESET].eq(1), suspending.eq(0)]
        m.d.comb += self.notify_config.eq(stops | (self.config_changed & self.active))
        return m

    def _elaborate_write(self, m, field, enables, value, merge, low_half, high_half,
                         device_select, driver_select, driver_windows, queue_select, accepted,
                         status, frozen, legal, resetting, bank, banked, starting,
                         was_enabled, in_reset, valid_queue, suspending, in_resets, good_size, good_vector):
        """What a write does, by DW."""
        suspended = status[Status.SUSPEND]
        with m.If(field[Common.DEVICE_FEATURE_SELECT >> 2]):
            m.d.sync += device_select.eq(merge(device_select))
        with m.If(field[Common.DRIVER_FEATURE_SELECT >> 2]):
            m.d.sync += driver_select.eq(merge(driver_select))
        with m.If(field[Common.DRIVER_FEATURE >> 2]):
            with m.If(~frozen):
                for number in range(FEATURE_BITS // 32):
                    with m.If(driver_windows[number]):
                        word = accepted.word_select(number, 32)
                        m.d.sync += word.eq(merge(word))
        with m.If(field[Common.CONFIG_MSIX_VECTOR >> 2]):
            with m.If(low_half):
                m.d.sync += self.config_vector.eq(
                    Mux(value[:16] < self._vectors, value[:16], NO_VECTOR))
        with m.If(field[Common.DEVICE_STATUS >> 2]):
            with m.If(enables[0]):
                written = value[:8]
                with m.If(written == 0):
                    m.d.sync += resetting.eq(1)
                with m.Elif(((status & _DRIVER_BITS & ~written) == 0) & ~resetting):
                    # A signal of its own: the complement must be as wide as the status.
                    refused = Signal(8)
                    m.d.comb += [refused[Status.FEATURES_OK].eq(~legal & ~frozen),
                                 refused[Status.DRIVER_OK].eq(~frozen)]
                    m.d.sync += status.eq(status | (written & _DRIVER_BITS & ~refused))
                    with m.If(written[Status.DRIVER_OK]):
                        m.d.sync += status[Status.SUSPEND].eq(0)
                # Whatever the other bits are: a driver may think that it has to clear DRIVER_OK with it.
                with m.If(written[Status.SUSPEND] & accepted[Feature.SUSPEND] & status[Status.DRIVER_OK] & self.active):
                    m.d.sync += suspending.eq(1)
            with m.If(high_half & ~suspended):
                m.d.sync += queue_select.eq(value[16:])
        with m.If(field[Common.QUEUE_RESET >> 2]):
            m.d.comb += [self.bank.eq(7), self.write_data.eq(_IN_RESET)]
            with m.If(high_half & (value[16:] == 1) & accepted[Feature.RING_RESET] & frozen & was_enabled & valid_queue & ~resetting):
                m.d.comb += self.write_enable.eq(0b0001)
                m.d.sync += in_resets.eq(in_resets + 1)
        with m.If(banked):
            size = value[:16]
            with m.If((bank == 6) & ~good_vector):
                m.d.comb += self.write_data[16:].eq(NO_VECTOR)
            with m.If(valid_queue & ~was_enabled & ~in_reset & ~resetting):
                m.d.comb += self.write_enable.eq(enables)
                with m.If(bank == 6):
                    m.d.comb += self.write_enable.eq(Cat((low_half & good_size).replicate(2), high_half.replicate(2)))
                with m.Elif(bank == 7):
                    # queue_enable takes 1 only; the notify offset beside it is read-only.
                    m.d.comb += [self.write_enable.eq(Mux(low_half & (size == 1), 0b0011, 0)),
                                 starting.eq(low_half & (size == 1))]
