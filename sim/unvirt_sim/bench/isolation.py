# SPDX-License-Identifier: BSD-2-Clause
"""What one queue that cannot move does to another."""

from .figures import cycles_per_packet
from .load import Load, Run
from .session import BenchFailed, FramesLost, Session, at_highest_rate

__all__ = ["beside_dead_queue", "receive_beside_stalled_mac"]


def _rate(session, load, queues, name, *, spoil=lambda session, rings: None):
    """Return the cycles per packet of ring ``name`` while every ring is offered work, after ``spoil``."""
    rings = session.start(load, queues=queues)
    sim = session.simulation
    spoil(session, rings)
    (ring,) = rings[name]
    goal = load.receive if ring.writable else load.transmit
    for (other,) in rings.values():
        if not other.writable:
            other.publish(other.size)
    sim.record()
    begin = sim.cycle
    if ring.writable:
        sim.pace_frames([ring.watched], load.reach, load.period)
        for _ in range(goal):
            sim.send_frame(bytes(load.frame))
    quiet = 0
    while ring.done < goal:
        sim.run(64)
        quiet = 0 if ring.reap() else quiet + 64
        if sim.counters["rx_dropped"]:
            raise FramesLost("A received frame was dropped")
        if ring.size - ring.backlog >= 128:
            ring.publish(ring.size - ring.backlog)
        if quiet > 20_000 + 8 * session.latency:
            raise BenchFailed(f"The queue under test stands still after {ring.done} packets")
    if "dead" in rings and rings["dead"][0].reap():
        raise BenchFailed("The queue that should be dead has moved")
    if sim.violations:
        raise BenchFailed(f"A checker complained: {sim.violations[0]}")
    run = Run(load, session.width, session.link, session.latency, sim.records(), rings, begin, sim.cycle,
              sim.counters)
    return cycles_per_packet(run, name)


def beside_dead_queue(library, *, width, latency=250, packets=1200, what="data", seed=1):
    """Return (alone, beside): cycles per packet of the second transmit queue alone, and while no read of the first is answered.

    Reads of ``what``: "data" (buffers) or "rings" (available ring and descriptors). The device needs two queue pairs.
    """
    load = Load(transmit=packets)

    def dead(session, rings):
        (ring,) = rings["dead"]
        if what == "data":
            session.simulation.mute(*ring.span)
        else:
            session.simulation.mute(ring.desc, 16 * ring.size)
            session.simulation.mute(ring.avail, 6 + 2 * ring.size)

    alone = _rate(Session(library, width=width, latency=latency, seed=seed), load, {"tx": [3]}, "tx")
    beside = _rate(Session(library, width=width, latency=latency, seed=seed), load, {"dead": [1], "tx": [3]}, "tx",
                   spoil=dead)
    return alone, beside


def receive_beside_stalled_mac(library, *, width, latency=0, packets=1200, seed=1):
    """Return (alone, beside): cycles per received packet with nothing to transmit, and with a full queue before a stalled MAC.

    Each at its highest rate at which no frame is lost.
    """
    def stall(session, rings):
        session.simulation.mac_stalled = True

    def rate(queues, spoil):
        def run(period):
            load = Load(receive=packets, period=period)
            return _rate(Session(library, width=width, latency=latency, seed=seed), load, queues, "rx", spoil=spoil)
        return at_highest_rate(run, Load.frame * 8 / width)[0]

    return rate({"rx": [0]}, lambda session, rings: None), rate({"rx": [0], "tx": [1]}, stall)
