# SPDX-License-Identifier: BSD-2-Clause
"""The reference driver: how an operating system drives a virtio PCI device, in readable Python.

Read the modules in this order; each needs only those before it:

* :mod:`.spec` -- the numbers: feature bits, register offsets, structure layouts. An independent statement of the
  specification: nothing here is imported from the hardware description.
* :mod:`.checks` -- what a driver can see of a device that misbehaves.
* :mod:`.pci` -- finding the device: configuration space, BARs, capabilities, MSI-X, function-level reset.
* :mod:`.device` -- the virtio registers: status handshake, features, queue set-up, notification, interrupt status.
* :mod:`.virtqueue` -- what both kinds of virtqueue have in common; :mod:`.split` and :mod:`.packed` -- the two.
* :mod:`.buffers` -- scattered buffers with guard patterns.
* :mod:`.interrupts` -- what drivers of every device type do alike.
* :mod:`.net` -- the network driver: packet header, transmit, receive, merged buffers, link status. :mod:`.entropy` -- the entropy driver.

The driver programs against :class:`unvirt_sim.host.Host` and awaits nothing but host methods, so it runs under any event
loop, or under none (:func:`run`) when the host blocks.
"""

from .buffers import ScatterBuffer
from .checks import CheckFailed, DriverTimeout
from .device import VirtioDevice
from .entropy import EntropyDriver
from .net import NetDriver
from .packed import PackedQueue
from .pci import PciFunction
from .split import SplitQueue
from .virtqueue import Element

__all__ = ["PciFunction", "VirtioDevice", "SplitQueue", "PackedQueue", "Element", "NetDriver", "EntropyDriver", "ScatterBuffer",
           "CheckFailed", "DriverTimeout", "run"]


def run(coroutine):
    """Run a coroutine whose host never suspends (every await returns at once) and return its result.

    Raises
    ------
    RuntimeError
        If the coroutine suspends: its host needs a real event loop.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise RuntimeError("The host suspended; run the driver in that host's event loop")
