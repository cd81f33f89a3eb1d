# SPDX-License-Identifier: BSD-2-Clause
"""What can go wrong around a guest, each as one sentence for the person at the terminal."""

__all__ = ["GuestError", "SetupError"]


class GuestError(Exception):
    """The guest did not do what it should; the message is one sentence."""


class SetupError(GuestError):
    """A tool, package or option is missing or unusable; the command line exits with status 2."""
