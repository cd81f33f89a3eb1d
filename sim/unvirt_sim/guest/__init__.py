# SPDX-License-Identifier: BSD-2-Clause
"""An unmodified Linux guest in QEMU that drives the simulated RTL through vfio-user.

:mod:`packages` finds or unpacks QEMU, kernels, busybox and passt; :mod:`kernel` makes them bootable; :mod:`vfio_user` is the server
in front of the simulation; :mod:`net` is the far end of the Ethernet port; :mod:`runner` puts it together.
"""
