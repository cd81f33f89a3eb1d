# SPDX-License-Identifier: BSD-2-Clause
"""Requests of the wicked driver: whole chains, each with one thing wrong at most, handed over in a good order or a bad one."""

from driver_rules import MOST_PIECES
from unvirt_sim.driver.spec import EventMode, Status

__all__ = ["ORDERS", "SHAPES", "Requests"]

NEXT, WRITE, INDIRECT, AVAIL, USED = 1, 2, 4, 1 << 7, 1 << 15
HUGE = (1 << 32) - 1

SHAPES = ("good", "good indirect", "backwards", "loop", "nested", "indirect and next", "huge", "out of sequence", "flags in a table", "tiny",
          "long table", "wrong direction", "empty", "backwards in a table", "no end", "out of sequence", "out of sequence")
"""One breaks a rule with IN_ORDER only: it comes more often."""

ORDERS = ("good", "index first", "changed after", "stale event", "not told")


class Requests:
    """Part of :class:`~adversary.Episode`."""

    def send(self, number, shape, order, header, length):
        """Make a request of one of :data:`SHAPES` in one of :data:`ORDERS`; ``header`` are bits of what a transmitted packet begins with."""
        queue, order = self.queues[number % 2], ORDERS[order % len(ORDERS)]
        live = self.live(queue)
        self.breaks("CORE-STATUS-08", self.look() & Status.DEVICE_NEEDS_RESET)
        if self.peek(queue.areas[0], 16) is None:
            return                                   # enabled with rings that are nowhere
        place = self.buffers + 8192
        self.write(place, bytes((header & 1, header >> 1 & 1, 0, 0, 0, 0, 0, 0, 0, 0, header >> 2 & 1, 0)))
        # Shapes of the packed ring are lists of pieces, too; the slots are written as the ring has it.
        pieces = self._pieces(queue, SHAPES[shape % len(SHAPES)], place, length)
        (self._send_packed if self.packed else self._send_split)(queue, pieces, order, live)

    def _pieces(self, queue, shape, place, length):
        """Return the descriptors of a chain as (address, length, flags, what is added to the number of the next slot)."""
        flag = WRITE if queue.number == 0 else 0
        whole = 1600 if queue.number == 0 and length & 1 else 12 + 60 + length % 1400
        table = self.buffers + 12288
        split = [(place, whole, flag | NEXT, 0), (place + 2048, 64, flag, 0)]
        listed = {
            "good": split,
            "backwards": [(place + 2048, 64, WRITE | NEXT, 0), (place, whole, 0, 0)],
            "loop": [(place, whole, flag | NEXT, 0), (place, 64, flag | NEXT, -2)],
            "indirect and next": [(table, 32, INDIRECT | NEXT, 0), (place, whole, flag, 0)],
            "huge": [(place, HUGE, flag | NEXT, 0), (place, HUGE, flag, 0)],
            "out of sequence": [(place, whole, flag | NEXT, 1), (place + 2048, 64, flag, 0)],
            "tiny": [(place, length % 12, flag, 0)],
            "wrong direction": [(place, whole, flag ^ WRITE, 0)],
            "empty": [(place, 0, flag, 0)],
            "no end": [(place, 64, flag | NEXT, 0)] * self.size,
        }.get(shape)
        inside = {
            "nested": [(table, 32, INDIRECT, 1)],
            "flags in a table": [(place, whole, flag | NEXT, 2), (place + 1024, 64, flag | NEXT, 1), (place + 2048, 64, flag, 1)],
            "long table": [(place + 16 * number, 16, flag | NEXT, number + 1) for number in range(MOST_PIECES + 7)] + [(place, 64, flag, 0)],
            "backwards in a table": [(place + 2048, 64, WRITE | (0 if self.packed else NEXT), 1), (place, whole, 0, 0)],
        }.get(shape, [(place, whole, flag | (0 if self.packed else NEXT), 1), (place + 2048, 64, flag, 0)])
        self.write(table, b"".join(self.descriptor(*piece) for piece in inside))
        self.note(table, 16 * len(inside))
        return listed or [(table, 16 * len(inside), INDIRECT, 0)]

    def _send_split(self, queue, pieces, order, live):
        head = queue.slot
        slots = [(head + number) % self.size for number in range(len(pieces))]
        if pieces[0][3] == 1:
            slots[1] = (slots[1] + 1) % self.size
        writes = []
        for number, (address, length, flags, more) in enumerate(pieces):
            following = slots[(number + 1) % len(pieces)] if more >= 0 else slots[0]
            writes.append((queue.areas[0] + 16 * slots[number], self.descriptor(address, length, flags, following)))
        writes.append((queue.areas[1] + 4 + 2 * (queue.index % self.size), head.to_bytes(2, "little")))
        old, queue.index = queue.index, (queue.index + 1) % (1 << 16)
        index = (queue.areas[1] + 2, queue.index.to_bytes(2, "little"))
        self._hand_over(queue, writes, index, order, live)
        if live:
            self.breaks("SPLIT-AVAIL-06", order == "index first")
            self.judge_chain(queue, head)
            self._judge_notification(queue, old, rung=order != "not told")
        queue.slot = (slots[-1] + 1) % self.size
        if order == "changed after":
            used = self.peek(queue.areas[2] + 2, 2)
            self._change(queue, head, live and used is not None and queue.index - int.from_bytes(used, "little") & 0xFFFF in range(1, self.size + 1))

    def _send_packed(self, queue, pieces, order, live):
        event = self.peek(queue.areas[2], 4)
        if order == "stale event":
            self.simulation.run(8)
        head, slot, wrap = queue.slot, queue.slot, queue.wrap
        writes = []
        for address, length, flags, _ in pieces:
            data = self.descriptor(address, length, flags | (AVAIL if wrap else USED), head)
            writes.append((queue.areas[0] + 16 * slot, data))
            slot, wrap = (slot + 1, wrap) if slot + 1 < self.size else (0, wrap ^ 1)
        live = live and queue.clean                  # else the device may look elsewhere
        last = writes.pop(0)
        queue.slot, queue.wrap = slot, wrap
        # With an event read too early a notification is given when it is not needed, and missed when it is.
        told = order != "stale event" or event is None or event[2] != EventMode.DISABLE
        self._hand_over(queue, writes, last, order if told else "not told", live)
        if live:
            self.breaks("PACK-DRV-01", order == "index first" and writes)
            self.breaks("PACK-DRV-05", order == "stale event")
            self.judge_chain(queue, head)
        if order == "changed after":
            found = self.peek(last[0], 16)
            self._change(queue, head, live and found == last[1])

    def _hand_over(self, queue, writes, last, order, live):
        """Write to memory, what makes it all available last unless in bad order, and ring."""
        if order == "index first":
            self.write(*last)
            self.notify(queue)
            self.simulation.run(40)
        for one in writes:
            self.write(*one)
        if order != "index first":
            self.write(*last)
            if order != "not told":
                self.notify(queue)

    def _change(self, queue, head, exposed):
        """Change a descriptor that the device has."""
        self.breaks("CORE-VQ-04", exposed)
        self.write(queue.areas[0] + 16 * head + 8, (77).to_bytes(4, "little"))
