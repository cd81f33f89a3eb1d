# SPDX-License-Identifier: BSD-2-Clause
"""The program ``unvirt``: finds its commands by name and loads only the one that runs."""

import importlib

import click

__all__ = ["main"]

COMMANDS = {
    "verilog": "unvirt_sim.verilog_command:verilog",
    "boot": "unvirt_sim.guest.commands:boot",
    "serve": "unvirt_sim.guest.commands:serve",
    "synth": "unvirt_boards.synth.commands:synth",
    "bench": "unvirt_sim.bench.commands:bench",
    "conformance": "unvirt_sim.conformance.commands:conformance",
}
"""Where each command lives, in the order in which they are shown."""


class _Lazy(click.Group):
    """Commands imported when they are needed, so that one works where the packages of another are missing."""

    def list_commands(self, context):
        return list(COMMANDS)

    def get_command(self, context, name):
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name].split(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise click.UsageError(
                f"The command {name} needs the package {error.name}, which is not installed; "
                f"install unvirt with its extras: pip install 'unvirt[sim,boards]'.") from error


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
def main():
    """unvirt: virtio without the virt, a virtio-net PCIe device as real hardware.

    Generate its Verilog, boot an unmodified Linux on the simulated RTL, synthesise and measure it.
    """
