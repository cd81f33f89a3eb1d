# SPDX-License-Identifier: BSD-2-Clause
"""unvirt: virtio without the virt. A virtio-net PCIe device as synthesizable Amaranth.

Start at :mod:`unvirt.device` (or, for the smallest device type, :mod:`unvirt.entropy_device`); :mod:`unvirt.config` holds every size.
The edition cited throughout is VIRTIO 1.4 CS01 ("[virtio x.y]") and PCI Express Base 5.0 ("[PCIe x.y]").
"""
