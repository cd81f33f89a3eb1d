# SPDX-License-Identifier: BSD-2-Clause
"""The host side of unvirt in simulation: host model, reference driver, guest runner."""
