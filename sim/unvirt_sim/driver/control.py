# SPDX-License-Identifier: BSD-2-Clause
"""The control queue of the network device: commands and their acknowledgements [5.1.9.5]."""

from .buffers import ScatterBuffer
from .checks import DriverTimeout, check
from .spec import CTRL_HEADER, Ctrl, CtrlAck

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
        """Send a command and return what the device answered.

        ``kind`` is (class, command); ``cut`` are the lengths of readable elements, by default that of the header and that of the data; ``ack`` is
        the length of the writable part, of which a device uses the first byte.
        """
        request = CTRL_HEADER.pack(*kind) + data
        lengths = list(cut) if cut is not None else [CTRL_HEADER.size, *([len(data)] if data else [])]
        check(sum(lengths) == len(request), f"The elements hold {sum(lengths)} bytes, the command has {len(request)}")
        readable = ScatterBuffer(self.host, lengths, writable=False, rng=self.rng)
        await readable.store(request)
        parts, elements = [readable], readable.elements()
        if ack:
            writable = ScatterBuffer(self.host, [ack], writable=True, rng=self.rng)
            await writable.store()
            parts.append(writable)
            elements += writable.elements()
        await self.queue.add(elements)
        await self.queue.publish()
        for _ in range(0, cycles, 200):
            used = await self.queue.harvest()
            if used:
                break
            await self.host.sleep(200)
        else:
            raise DriverTimeout(f"The command {kind} is not answered")
        check(len(used) == 1 and used[0].length == bool(ack), f"A command came back with a length of {used[0].length}")
        answer = CtrlAck((await writable.load(1))[0]) if ack else None
        await readable.check_unchanged()
        for part in parts:
            part.free()
        return answer

    async def set_pairs(self, count):
        """Use ``count`` queue pairs [5.1.9.5.5]; returns the answer."""
        return await self.command(Ctrl.MQ_VQ_PAIRS_SET, count.to_bytes(2, "little"))
