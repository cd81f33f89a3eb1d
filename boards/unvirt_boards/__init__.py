# SPDX-License-Identifier: BSD-2-Clause
"""Boards and synthesis: what turns the device into a bitstream and measures it."""
