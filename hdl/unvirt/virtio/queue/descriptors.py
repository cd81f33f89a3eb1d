# SPDX-License-Identifier: BSD-2-Clause
"""From lines of descriptor table bytes to a stream of descriptors."""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..contract import row_width
from .reads import ContextFree, LineAnswer, LinePortSignature

__all__ = ["Descriptor", "DescriptorFlags", "DescriptorItem", "DescriptorReader"]


class DescriptorFlags(data.Struct):
    """Descriptor flags [virtio 2.7.5, 2.8.13]."""

    next:     1
    write:    1
    indirect: 1
    _reserved0: 4
    avail:    1                  # packed ring only, like `used`
    _reserved1: 7
    used:     1


class Descriptor(data.Struct):
    """Descriptor in the order of the split ring [virtio 2.7.5]; ``next`` is the buffer id in one of the packed ring [virtio 2.8.13]."""

    address: 64
    length:  32
    flags:   DescriptorFlags
    next:    16


class DescriptorItem(data.StructLayout):
    """One descriptor of a line, with where it belongs."""

    def __init__(self, rows, contexts):
        super().__init__({
            "descriptor": Descriptor,
            "row": row_width(rows),
            "position": 16,              # of the chain whose head this is
            "walk": 1,                   # the next entry of walk `context` instead
            "context": range(contexts),
            "last": 1,                   # no more in this line
            "error": 1,                  # the read failed; the descriptor means nothing
        })


class DescriptorReader(wiring.Component):
    """Reads lines that have arrived and hands out their descriptors in order.

    One descriptor a cycle where a word of the memory has several and items are taken at once, else one more per word; two more per line. ``skip``,
    given with an accepted item, drops the rest of its line. The context of a descriptor line goes back with its last item; one of a walk stays
    with its walk.

    Members
    -------
    answers : ``In(stream.Signature(LineAnswer))``
    port, free : ``Out``
    items : ``Out(stream.Signature(DescriptorItem))``
    skip : ``In(1)``
    packed : ``In(1)``
        Descriptors are those of the packed ring.
    """

    def __init__(self, *, data_width, rows, contexts):
        self._data_width = data_width
        self._rows = rows
        self._contexts = contexts
        super().__init__({
            "answers": In(stream.Signature(LineAnswer(rows, contexts))),
            "port": Out(LinePortSignature(data_width, contexts)),
            "free": Out(ContextFree(rows, contexts)),
            "items": Out(stream.Signature(DescriptorItem(rows, contexts))),
            "skip": In(1),
            "packed": In(1),
            "idle": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        width = self._data_width
        size = Descriptor.as_shape().size
        parts = max(1, size // width)            # words per descriptor
        per_word = max(1, width // size)         # descriptors per word
        answer = Signal(LineAnswer(self._rows, self._contexts))
        index = Signal(4)                        # descriptor within the line
        part = Signal(range(parts + 1))
        word = Signal(max(width, size))
        item = self.items.payload
        raw = Signal(size)

        m.d.comb += [
            # {address, length, flags, next} or {address, length, id, flags}.
            item.descriptor.as_value().eq(Mux(self.packed, Cat(raw[:96], raw[112:], raw[96:112]), raw)),
            self.port.context.eq(answer.context),
            item.row.eq(answer.row),
            item.position.eq(answer.position + index),
            item.walk.eq(answer.walk),
            item.context.eq(answer.context),
            item.last.eq((index + 1 == answer.count) | answer.error),
            item.error.eq(answer.error),
            self.free.context.eq(answer.context),
            self.free.row.eq(answer.row),
        ]
        following = Signal(4)
        m.d.comb += following.eq(index + 1)
        in_word = per_word - 1                   # bits of an index that count within a word
        fresh = Signal()                         # the next word, asked for ahead, is at the port in this cycle
        m.d.sync += fresh.eq(0)
        if per_word > 1:
            m.d.comb += raw.eq(word.word_select(index[:per_word.bit_length() - 1], size))
        else:
            m.d.comb += raw.eq(word)

        def address(index, part):
            """Ask for the word that holds this part of this descriptor."""
            m.d.comb += [self.port.valid.eq(1),
                         self.port.word.eq(index >> (per_word.bit_length() - 1) if per_word > 1 else index * parts + part)]

        def ask(index, part):
            """Do so, and wait for it."""
            address(index, part)
            m.next = "ASK_WORD"
            with m.If(self.port.ready):
                m.next = "TAKE_WORD"

        with m.FSM(name="descriptor_reader"):
            with m.State("IDLE"):
                m.d.comb += [self.answers.ready.eq(1), self.idle.eq(~self.answers.valid)]
                m.d.comb += self.port.context.eq(self.answers.payload.context)
                m.d.sync += [index.eq(0), part.eq(0)]
                with m.If(self.answers.valid):
                    m.d.sync += answer.eq(self.answers.payload)
                    ask(0, 0)
                    with m.If(self.answers.payload.error):
                        m.next = "GIVE"
            with m.State("ASK_WORD"):
                ask(index, part)
            with m.State("TAKE_WORD"):
                if parts == 1:
                    m.d.sync += word.eq(self.port.data)
                    m.next = "GIVE"
                else:
                    # The first part ends up lowest after all have been shifted in.
                    m.d.sync += [word.eq(Cat(word[width:], self.port.data)), part.eq(part + 1)]
                    with m.If(part == parts - 1):
                        m.next = "GIVE"
                    with m.Else():
                        ask(index, part + 1)
            with m.State("GIVE"):
                m.d.comb += self.items.valid.eq(1)
                # The word that follows is asked for one descriptor ahead where that is in the same word, and whether this one is taken or not, for
                # from those who take it to the memory it is far; but not twice running, for others ask as well.
                ends_word, ahead = (following & in_word) == 0, (following & in_word) == in_word
                with m.If((ends_word | ahead) & ~item.last & ~fresh):
                    address(Mux(ends_word, following, following + 1), 0)
                    m.d.sync += fresh.eq(self.port.ready)
                with m.If(self.items.ready):
                    m.d.sync += [index.eq(following), part.eq(0)]
                    with m.If(ends_word):
                        m.next = "ASK_WORD"
                        with m.If(fresh):
                            if parts == 1:
                                m.d.sync += word.eq(self.port.data)
                                m.next = "GIVE"
                        with m.Elif(self.port.ready):
                            m.next = "TAKE_WORD"
                    with m.If(item.last | self.skip):
                        m.d.comb += self.free.valid.eq(~answer.walk)
                        m.next = "IDLE"
        return m
