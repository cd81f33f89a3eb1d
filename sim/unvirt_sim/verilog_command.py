# SPDX-License-Identifier: BSD-2-Clause
"""The command ``verilog`` of the ``unvirt`` program."""

import sys
from dataclasses import fields

import click
from rich.console import Console
from unvirt.config import PRESETS, DeviceConfig
from unvirt.config import preset as find_preset
from unvirt.verilog import write_files

__all__ = ["parse_settings", "verilog"]

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def parse_settings(settings):
    """Turn ``name=value`` texts into device options.

    A value is a number (0x... too), for ``mac`` also six octets with colons, for ``personality`` a word.

    Raises
    ------
    ValueError
        If a setting has no equals sign or its value is no number.
    """
    options = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise ValueError(f"A setting must be name=value, such as rows=512, not {setting!r}")
        if name == "personality":
            options[name] = value.strip()
            continue
        if name == "mac" and ":" in value:
            octets = value.split(":")
            if len(octets) != 6 or not all(len(octet) == 2 for octet in octets):
                raise ValueError(f"MAC must be six octets such as 02:00:00:00:00:01, not {value!r}")
            value = "0x" + "".join(octets)
        try:
            options[name] = int(value, 0)
        except ValueError as error:
            raise ValueError(f"The value of {name} must be a number, not {value!r}") from error
    return options


@click.command(epilog="Parameters for --set and their defaults: "
                      + ", ".join(f"{field.name}={field.default}" for field in fields(DeviceConfig)) + ".")
@click.option("--preset", default="default", show_default=True, metavar="NAME", help=f"Parameters to start from: {', '.join(PRESETS)}.")
@click.option("--attachment", default="raw", show_default=True, metavar="NAME", help="PCIe side: raw, a stream of TLPs each way.")
@click.option("--mac", default="axis", show_default=True, metavar="NAME", help="Ethernet side: axis, AXI4-Stream each way.")
@click.option("-o", "--output", metavar="FILE", help="Verilog file to write; build/unvirt-PRESET.v by default.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Change one parameter; may be given several times.")
def verilog(preset, attachment, mac, output, settings):
    """Write the device as Verilog, for projects that need no Python.

    Three files: the Verilog (one file, top module unvirt), the ports as JSON (FILE.ports.json) and an instance to copy
    (FILE.instance.vh). The same parameters give the same text. docs/integration.md says how to connect it.
    """
    try:
        config = find_preset(preset).with_options(**parse_settings(settings))
        with errors.status(f"Generating the device ({config.data_width} bits); a minute the first time"):
            paths = write_files(config, output or f"build/unvirt-{preset}.v", attachment, mac)
    except (ValueError, TypeError) as error:
        errors.print(f"{str(error).rstrip('.')}.", soft_wrap=True, markup=False)
        sys.exit(2)
    except OSError as error:
        errors.print(f"{error.filename or output} cannot be written: {error.strerror}.", soft_wrap=True, markup=False)
        sys.exit(2)
    for path in paths:
        console.print(path, soft_wrap=True)
