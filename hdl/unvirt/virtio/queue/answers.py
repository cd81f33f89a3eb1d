# SPDX-License-Identifier: BSD-2-Clause
"""What comes back of reads in flight: who asked is remembered by context, and answers wait in the order in which they came."""

from amaranth import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ...stream.fifo import Queue
from ..contract import row_width
from .reads import LineAnswer, LineRecord, SmallAnswer

__all__ = ["LineAnswers", "SmallAnswers"]


def _remember(m, name, shape, depth, *, number, value, valid, asked):
    """Make a memory of what is known by number; return what it has of the number ``asked``."""
    m.submodules[name] = cells = memory.Memory(shape=shape, depth=max(2, depth), init=[], attrs={"ram_style": "distributed"})
    write, read = cells.write_port(), cells.read_port(domain="comb")
    m.d.comb += [write.addr.eq(number), Value.cast(write.data).eq(value), write.en.eq(valid), read.addr.eq(asked)]
    return read.data


class LineAnswers(wiring.Component):
    """Answers of the contexts ``first`` to ``first + count - 1``, which bring a line each. An answer is there one cycle after ``done``.

    Parameters
    ----------
    rows, contexts, first, count : int
    walks : int
        So many of these contexts, the first ones, are of walks.

    Members
    -------
    begin, context, record : ``In``
        A read begins in that context.
    done, error : ``In``
        It has come back.
    done_context : ``In``
    answers : ``Out(stream.Signature(LineAnswer))``
    """

    def __init__(self, *, rows, contexts, first, count, walks=0):
        self._rows, self._contexts, self._first, self._count, self._walks = rows, contexts, first, count, walks
        super().__init__({
            "begin": In(1),
            "context": In(range(contexts)),
            "record": In(LineRecord(rows)),
            "done": In(1),
            "done_context": In(range(contexts)),
            "error": In(1),
            "answers": Out(stream.Signature(LineAnswer(rows, contexts))),
        })

    def elaborate(self, platform):
        m = Module()
        number = range(max(2, self._count))
        m.submodules.queue = queue = Queue(data.StructLayout({"number": number, "error": 1}), self._count)
        came, answer = queue.o.payload, self.answers.payload
        record = _remember(m, "records", LineRecord(self._rows), self._count, number=self.context - self._first, value=self.record,
                           valid=self.begin, asked=came.number)
        m.d.comb += [
            queue.i.valid.eq(self.done),
            queue.i.payload.number.eq(self.done_context - self._first),
            queue.i.payload.error.eq(self.error),
            self.answers.valid.eq(queue.o.valid),
            queue.o.ready.eq(self.answers.ready),
            answer.context.eq(came.number + self._first),
            answer.row.eq(record.row),
            answer.position.eq(record.position),
            answer.count.eq(record.count),
            answer.walk.eq(came.number < self._walks),
            answer.error.eq(came.error),
        ]
        return m


class SmallAnswers(wiring.Component):
    """Answers of the contexts ``first`` to ``first + count - 1``, which bring one value each; the context is free when its answer was taken.
    An answer is there one cycle after ``done``.

    Parameters
    ----------
    rows, contexts, first, count : int

    Members
    -------
    begin, context, row : ``In``
        A read begins in that context.
    value_valid, value_context, value : ``In``
        Its value has come.
    done, done_context, error : ``In``
        It has come back, not before its value.
    answers : ``Out(stream.Signature(SmallAnswer))``
    free, free_number : ``Out``
        A context is free again, counted from ``first``.
    """

    def __init__(self, *, rows, contexts, first, count):
        self._rows, self._first, self._count = rows, first, count
        context = range(contexts)
        super().__init__({
            "begin": In(1),
            "context": In(context),
            "row": In(row_width(rows)),
            "value_valid": In(1),
            "value_context": In(context),
            "value": In(32),
            "done": In(1),
            "done_context": In(context),
            "error": In(1),
            "answers": Out(stream.Signature(SmallAnswer(rows))),
            "free": Out(1),
            "free_number": Out(range(max(2, count))),
        })

    def elaborate(self, platform):
        m = Module()
        first, count = self._first, self._count
        m.submodules.queue = queue = Queue(data.StructLayout({"number": range(max(2, count)), "error": 1}), count)
        came = queue.o.payload
        mine = self.value_valid & (self.value_context >= first) & (self.value_context < first + count)
        row = _remember(m, "rows", row_width(self._rows), count, number=self.context - first, value=self.row, valid=self.begin, asked=came.number)
        value = _remember(m, "values", 32, count, number=self.value_context - first, value=self.value, valid=mine, asked=came.number)
        m.d.comb += [
            queue.i.valid.eq(self.done),
            queue.i.payload.number.eq(self.done_context - first),
            queue.i.payload.error.eq(self.error),
            self.answers.valid.eq(queue.o.valid),
            queue.o.ready.eq(self.answers.ready),
            self.answers.payload.row.eq(row),
            self.answers.payload.value.eq(value),
            self.answers.payload.error.eq(came.error),
            self.free.eq(self.answers.valid & self.answers.ready),
            self.free_number.eq(came.number),
        ]
        return m
