# SPDX-License-Identifier: BSD-2-Clause
"""Numbers of the entropy device [virtio 5.4]; it has neither feature bits [5.4.3] nor device configuration [5.4.4]."""

__all__ = ["CLASS_CODE", "DEVICE_ID", "ENTROPY_WIDTH"]

DEVICE_ID = 4
CLASS_CODE = 0x00FF00
"""PCI has no class for it: base class 00, "not listed"."""

ENTROPY_WIDTH = 32
"""Bits that the source of entropy gives at a time, the same for every data width; a choice of this device."""
