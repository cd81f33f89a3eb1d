# SPDX-License-Identifier: BSD-2-Clause
"""TLPs put together by hand, for those that no driver sends [PCIe 2.2]."""

TAG = 0x80
"""Tag of every injected request; one is out at a time."""

MEMORY, IO, CONFIG0, CONFIG1, FETCH_ADD = 0x00, 0x02, 0x04, 0x05, 0x0C


def swapped(word):
    """Return a header word with the byte that is first on the wire lowest."""
    return int.from_bytes(word.to_bytes(4, "big"), "little")


def request(kind, address, *, length=1, first=0xF, last=None, data=(), poisoned=False, function=0):
    """Return the DWs of a request; ``data`` makes it a write (or an atomic)."""
    if last is None:
        last = 0xF if length > 1 else 0
    wide = kind in (MEMORY, FETCH_ADD) and address >> 32
    form = (1 if wide else 0) | (2 if data else 0)
    words = [form << 29 | kind << 24 | poisoned << 14 | length & 0x3FF, TAG << 8 | last << 4 | first]
    if wide:
        words.append(address >> 32)
    words.append(address & 0xFFFF_FFFC if kind not in (CONFIG0, CONFIG1) else 1 << 24 | function << 16 | address)
    return [swapped(word) for word in words] + list(data)


def completion(tag, *, requester=0x0100, data=(), status=0, poisoned=False, count=None):
    """Return the DWs of a completion to the device."""
    length = len(data)
    words = [(2 if data else 0) << 29 | 0x0A << 24 | poisoned << 14 | length,
             status << 13 | (4 * length if count is None else count), requester << 16 | tag << 8]
    return [swapped(word) for word in words] + list(data)


def parse_completion(dws):
    """Return (status, byte count, lower address, data DWs) of a completion."""
    second, third = swapped(dws[1]), swapped(dws[2])
    assert third >> 8 & 0xFF == TAG and third >> 16 == 0, "the completion is for another request"
    return second >> 13 & 7, second & 0xFFF, third & 0x7F, list(dws[3:])


def ask(simulation, dws):
    """Send a non-posted request and return its completions, parsed."""
    simulation.inject(dws, nonposted=True)
    simulation.run(3000)
    return [parse_completion(completion) for completion in simulation.take_completions()]
