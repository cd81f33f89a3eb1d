# SPDX-License-Identifier: BSD-2-Clause
"""Front half of the read engine: from pieces to read request TLPs.

    meta.requests --> front --\
                               three to one --> tag, byte enables --> tx_nonposted
    data.requests --> front --/
"""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream.ring import wrap_sub
from .dma import ReadPiece
from .tags import TagPool
from .tlp import NonPostedHeader, TlpBeat

__all__ = ["TagRecord", "byte_enables", "ReadIssuer"]

_FAVOUR = 3
"""Small reads that go for one of data, if both wait. With one for one data was read on a full link for as long as there were chains, of transmit
queues, and those of 255 receive queues, which take a read of a descriptor and one of flags a packet, came too late."""


class TagRecord(data.StructLayout):
    """What is known of a read when its request goes out."""

    def __init__(self, handle_width, buffer_width):
        super().__init__({
            "client": 1,
            "handle": handle_width,
            "function": 8,
            "position": buffer_width,   # buffer address of the first byte
            "source": 7,                # low part of the first byte's address in host memory
            "remaining": 10,            # bytes
        })


def byte_enables(m, name, offset, end):
    """Return DW count and byte enables for bytes ``offset`` to ``end - 1`` [PCIe 2.2.5].

    ``offset`` is 0..3 and both count from the first DW. The last byte enables of a single DW are
    zero.
    """
    length = Signal(len(end) - 1, name=f"{name}_length")
    first_be = Signal(4, name=f"{name}_first_be")
    last_be = Signal(4, name=f"{name}_last_be")
    from_offset, to_end = Signal(4, name=f"{name}_from"), Signal(4, name=f"{name}_to")
    m.d.comb += [
        length.eq((end + 3) >> 2),
        from_offset.eq((0xF << offset)[:4]),
        to_end.eq(Cat(C(1, 1), end[:2] != 1, end[0] == end[1], end[:2] == 0)),
    ]
    with m.If(length == 1):
        m.d.comb += first_be.eq(from_offset & to_end)
    with m.Else():
        m.d.comb += [first_be.eq(from_offset), last_be.eq(to_end)]
    return length, first_be, last_be


class ReadIssuer(wiring.Component):
    """Turns pieces of two clients into read requests.

    Latency one cycle without a fence, two with one that is satisfied already. One request per
    cycle, in each client's order; if both have one, three of ``meta`` go for one of ``data``, as a
    packet of a queue that has few needs up to three small reads. A piece whose fence waits holds
    back only its own client. A piece needs a tag of its client; it is refused (``refused`` instead of a TLP)
    while ``refuse`` is high, and when each of the client's tags is quarantined, for then none may
    ever come back. A piece that cannot go at once is held, so that
    ``requests[n].ready`` depends on nothing of the same cycle. Reset empties it.

    Parameters
    ----------
    data_width : int
        Bits of a beat.
    tags : pair of TagRange
        Tags of each client.
    handle_widths, buffer_widths : pairs of int
        As in each client's signature.

    Members
    -------
    requests_0, requests_1 : ``In(stream.Signature(ReadPiece))``
        Pieces of each client.
    tx_nonposted : ``Out(stream.Signature(TlpBeat(NonPostedHeader)))``
        Requests.
    writes_accepted, writes_numbered, posted_number, posted_done : ``In(8)``
        State of the posted writes, see :class:`~unvirt.pcie.dma_write.DmaWrite`.
    enable, refuse, extended_tags : ``In(1)``
        Tag tables are swept; answer pieces with an error; tags above 31 may be used.
    issued_valid, issued_tag, issued : ``Out``
        A tag enters use, in the first cycle in which its request shows in ``tx_nonposted``.
    released_valid, released_tag : ``In``
        A tag is free again, of client ``ended_client``.
    ended_valid, ended_client : ``In``
        A read has ended; its tag is released or quarantined.
    refused_0, refused_1 : ``Out(stream.Signature(handle))``
        Pieces that end in an error without a request.
    presented : ``Out(1)``
        The read of ``tx_nonposted`` has not left yet.
    idle : ``Out(1)``
        No piece here, no read waits for completions.
    """

    def __init__(self, *, data_width, tags, handle_widths, buffer_widths):
        self._tags = tags
        self._pieces = [ReadPiece(*widths) for widths in zip(handle_widths, buffer_widths,
                                                             strict=True)]
        self._record = TagRecord(max(handle_widths), max(buffer_widths))
        super().__init__({
            "requests_0": In(stream.Signature(self._pieces[0])),
            "requests_1": In(stream.Signature(self._pieces[1])),
            "tx_nonposted": Out(stream.Signature(TlpBeat(NonPostedHeader, data_width))),
            "writes_accepted": In(8),
            "writes_numbered": In(8),
            "posted_number": In(8),
            "posted_done": In(8),
            "enable": In(1),
            "refuse": In(1),
            "extended_tags": In(1),
            "issued_valid": Out(1),
            "issued_tag": Out(8),
            "issued": Out(self._record),
            "released_valid": In(1),
            "released_tag": In(8),
            "ended_valid": In(1),
            "ended_client": In(1),
            "refused_0": Out(stream.Signature(handle_widths[0])),
            "refused_1": Out(stream.Signature(handle_widths[1])),
            "presented": Out(1),
            "idle": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        clients = []
        for index in range(2):
            m.submodules[f"tags_{index}"] = pool = TagPool(self._tags[index])
            clients.append(self._elaborate_front(m, index, pool))

        # Output register, loaded by the clients, three of the first for one of the second.
        header = Signal(NonPostedHeader, reset_less=True)
        valid = Signal()
        room, load, pick = Signal(), Signal(), Signal()
        favour = Signal(range(_FAVOUR + 1))        # small reads since the last one of data
        can = [client["can_issue"] for client in clients]
        m.d.comb += [
            self.tx_nonposted.valid.eq(valid),
            self.tx_nonposted.payload.header.eq(header),
            self.tx_nonposted.payload.first.eq(1),
            self.tx_nonposted.payload.last.eq(1),
            room.eq(~valid | self.tx_nonposted.ready),
            pick.eq(Mux(favour == _FAVOUR, can[1], ~can[0])),
            load.eq(room & (can[0] | can[1])),
        ]
        with m.If(room):
            m.d.sync += valid.eq(load)
        with m.If(load):
            m.d.sync += favour.eq(Mux(pick, 0, favour + (favour != _FAVOUR)))

        # What a request says is worked out for both clients: which of them goes is known last. What is kept of it is told a cycle later, and what the
        # header has of that is taken from there.
        told = Signal()
        kept = Signal(self._record, reset_less=True)
        m.d.sync += told.eq(load)
        with m.Switch(pick):
            for index, client in enumerate(clients):
                piece = client["piece"]
                length, first_be, last_be = client["enables"]
                with m.Case(index):
                    m.d.comb += client["issue"].eq(load)
                    with m.If(room):
                        m.d.sync += [
                            header.order.eq(client["order"]),
                            header.function.eq(piece.function),
                            header.address.eq(Cat(C(0, 2), piece.address[2:])),
                            header.length.eq(length),
                            header.first_be.eq(first_be),
                            header.last_be.eq(last_be),
                            header.tag.eq(client["tag"]),
                            header.pasid.as_value().eq(0),
                            kept.client.eq(index),
                            kept.handle.eq(piece.handle),
                            kept.position.eq(piece.buffer),
                            kept.source.eq(piece.address[:2]),
                            kept.remaining.eq(piece.length),
                        ]
        m.d.comb += [
            self.issued_valid.eq(told),
            self.issued_tag.eq(header.tag),
            self.issued.eq(kept),
            self.issued.function.eq(header.function),
            self.issued.source.eq(Cat(kept.source[:2], header.address[2:])),
            self.presented.eq(valid),
        ]
        m.d.comb += self.idle.eq(~valid & ~(clients[0]["busy"] | clients[1]["busy"]))
        return m

    def _elaborate_front(self, m, index, pool):
        """Take pieces of one client; hold one that does not go in the cycle in which it comes, as none with a fence does."""
        requests = getattr(self, f"requests_{index}")
        refused = getattr(self, f"refused_{index}")
        shape = self._pieces[index]

        held = Signal(shape, name=f"held_{index}", reset_less=True)
        held_valid = Signal(name=f"held_valid_{index}")
        mark = Signal(8, name=f"mark_{index}", reset_less=True)
        open_before = Signal(name=f"open_before_{index}", reset_less=True)
        piece = Signal(shape, name=f"piece_{index}")
        refuse = Signal(name=f"refuse_{index}")
        can_issue = Signal(name=f"can_issue_{index}")
        issue = Signal(name=f"issue_{index}")
        taken = Signal(name=f"taken_{index}")
        passed = Signal(name=f"passed_{index}")
        waiting = Signal(range(self._tags[index].count + 1), name=f"waiting_{index}")

        ended = Signal(name=f"ended_{index}")
        m.d.comb += [
            ended.eq(self.ended_valid & (self.ended_client == index)),
            pool.extended_tags.eq(self.extended_tags),
            pool.free_valid.eq(self.released_valid & (self.ended_client == index)),
            pool.free_tag.eq(self.released_tag),
            pool.alloc.ready.eq(issue),
            # Nothing in the pool and nothing under way: every tag is quarantined.
            refuse.eq(self.refuse | (pool.exhausted & (waiting == 0))),

            piece.eq(Mux(held_valid, held, requests.payload)),
            # Fewer than 128 commands lie between acceptance and numbering, but any number may come while it waits for a tag.
            passed.eq(Mux(held_valid, open_before | ~wrap_sub(self.writes_numbered, mark)[7],
                          requests.valid & ~requests.payload.fence)),
            can_issue.eq(passed & pool.alloc.valid & ~refuse & self.enable),
            refused.payload.eq(piece.handle),
            refused.valid.eq(refuse & (held_valid | requests.valid)),
            taken.eq(issue | (refused.valid & refused.ready)),
            requests.ready.eq(~held_valid),
        ]
        m.d.sync += [waiting.eq(waiting + issue - ended), held_valid.eq((held_valid | requests.valid) & ~taken)]
        with m.If(~held_valid):
            m.d.sync += [held.eq(requests.payload), mark.eq(self.writes_accepted), open_before.eq(~requests.payload.fence)]
        with m.Elif(passed):
            m.d.sync += open_before.eq(1)

        end = Signal(10, name=f"end_{index}")
        m.d.comb += end.eq(piece.address[:2] + piece.length)
        return {
            "piece": piece, "enables": byte_enables(m, f"request_{index}", piece.address[:2], end),
            "can_issue": can_issue, "issue": issue, "tag": pool.alloc.payload,
            # Posted writes that are done already never hold a request back.
            "order": Mux(held_valid & held.fence, self.posted_number, self.posted_done),
            "busy": held_valid | (waiting != 0),
        }
