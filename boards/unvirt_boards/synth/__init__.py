# SPDX-License-Identifier: BSD-2-Clause
"""Synthesis, place and route of the bare device, and the area and timing read from it."""
