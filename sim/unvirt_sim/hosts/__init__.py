# SPDX-License-Identifier: BSD-2-Clause
"""Hosts for the reference driver beside the C++ harness (:mod:`unvirt_sim.harness_host`).

* :mod:`.pins` -- the harness's host model around the device in any simulator that cocotb drives.
* :mod:`.root_complex` -- cocotbext-pcie's root complex, a PCI Express that no one here wrote.
* :mod:`.qtest` -- QEMU's own virtio-net-pci, a device that no one here wrote.
* :mod:`.runner` -- builds and runs cocotb benches on Verilator and Icarus.
"""
