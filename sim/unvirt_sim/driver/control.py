# SPDX-License-Identifier: BSD-2-Clause
"""The control queue of the network device: commands and their acknowledgements [5.1.9.5]."""

from .buffers import ScatterBuffer
from .checks import DriverTimeout, check
from .spec import COALESCE, COALESCE_QUEUE, CTRL_HEADER, Ctrl, CtrlAck

__all__ = ["ControlDriver"]


class ControlDriver:
    """Sends commands, one at a time, and waits for each.

    Parameters
    ----------
    host : Host
    queue : VirtQueue
    rng : random.Random
    """

    def __init__(self, host, queue, rng):
        self.host, self.queue, self.rng = host, queue, rng

    async def command(self, kind, data=b"", *, cut=None, ack=1, cycles=100_000):
        """Send a command and return what the device answered; see :meth:`exchange`."""
        answer, _ = await self.exchange(kind, data, cut=cut, writable=[ack] if ack else [], cycles=cycles)
        return answer

    async def exchange(self, kind, data=b"", *, cut=None, writable=(1,), result=0, cycles=100_000):
        """Send a command; return what the device answered and the ``result`` bytes before it.

        ``kind`` is (class, command); ``cut`` are the lengths of readable elements, by default that of the header and that of the data; ``writable``
        are those of the writable ones. Without any the answer is None.
        """
        request = CTRL_HEADER.pack(*kind) + data
        lengths = list(cut) if cut is not None else [CTRL_HEADER.size, *([len(data)] if data else [])]
        check(sum(lengths) == len(request), f"The elements hold {sum(lengths)} bytes, the command has {len(request)}")
        readable = ScatterBuffer(self.host, lengths, writable=False, rng=self.rng)
        await readable.store(request)
        parts, elements = [readable], readable.elements()
        room = sum(writable)
        if room:
            answers = ScatterBuffer(self.host, list(writable), writable=True, rng=self.rng)
            await answers.store()
            parts.append(answers)
            elements += answers.elements()
        await self.queue.add(elements)
        await self.queue.publish()
        for _ in range(0, cycles, 200):
            used = await self.queue.harvest()
            if used:
                break
            await self.host.sleep(200)
        else:
            raise DriverTimeout(f"The command {kind} is not answered")
        expected = min(room, result + 1)
        check(len(used) == 1 and used[0].length == expected, f"A command came back with a length of {used[0].length}, not {expected}")
        content = await answers.load(expected) if room else b""
        await readable.check_unchanged()
        for part in parts:
            part.free()
        return CtrlAck(content[result]) if room > result else None, content[:result]

    async def set_pairs(self, count):
        """Use ``count`` queue pairs [5.1.9.5.5]; returns the answer."""
        return await self.command(Ctrl.MQ_VQ_PAIRS_SET, count.to_bytes(2, "little"))

    async def coalesce(self, kind, packets, microseconds):
        """Coalesce the notifications of all queues: ``kind`` is NOTF_COAL_TX_SET or NOTF_COAL_RX_SET [5.1.9.5.9]; returns the answer."""
        return await self.command(kind, COALESCE.pack(packets, microseconds))

    async def coalesce_queue(self, queue, packets, microseconds, *, reserved=0):
        """Coalesce the notifications of one queue; returns the answer."""
        return await self.command(Ctrl.NOTF_COAL_VQ_SET, COALESCE_QUEUE.pack(queue, reserved) + COALESCE.pack(packets, microseconds))

    async def coalescing(self, queue, *, writable=(8, 1)):
        """Return the answer and what is set for a queue: packets and microseconds."""
        ack, value = await self.exchange(Ctrl.NOTF_COAL_VQ_GET, COALESCE_QUEUE.pack(queue, 0), writable=writable, result=COALESCE.size)
        return ack, COALESCE.unpack(value)
