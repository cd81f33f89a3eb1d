# SPDX-License-Identifier: BSD-2-Clause
"""The commands ``boot`` and ``serve`` of the ``unvirt`` program."""

import shlex
import sys

import click
from rich.console import Console

from ..build import BuildError
from ..cache import CacheError
from ..driver.spec import Feature
from .errors import GuestError, SetupError
from .packages import KERNELS

__all__ = ["boot", "serve"]

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

NETWORK_CHOICES = "echo|passt|tap:NAME|pcap:FILE|loopback"
NETWORK_HELP = """What the Ethernet port is connected to: echo (a built-in peer that answers ARP, ping and DHCP), passt (the network of
this computer, without root), tap:NAME (a TAP interface), pcap:FILE (frames of a capture are played), loopback (itself)."""


def _run(action):
    """Carry out ``action``; what goes wrong is one sentence and an exit status: 2 for what is missing, 1 for what failed."""
    try:
        return action()
    except (SetupError, BuildError, CacheError) as error:
        errors.print(str(error), soft_wrap=True, markup=False)
        sys.exit(2)
    except GuestError as error:
        errors.print(str(error), soft_wrap=True, markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("Stopped.")
        sys.exit(130)


def _features(context, parameter, names):
    """Return the word of the features named."""
    known = {feature.name: feature for feature in Feature}
    word = 0
    for name in names:
        if name.upper() not in known:
            raise click.BadParameter(f"{name} is no feature of a network device; known are {', '.join(known)}.")
        word |= 1 << known[name.upper()]
    return word


def _device_options(command):
    """Give a command the options that say what the simulated device is."""
    for option in (
            click.option("--queue-pairs", type=int, metavar="N", help="Queue pairs, 1 to 255; the guest of boot gets as many processors, at most 4."),
            click.option("--queue-size", type=int, metavar="N", help="Largest size of a virtqueue, a power of two up to 32768."),
            click.option("--without", multiple=True, callback=_features, metavar="FEATURE",
                         help="Do not offer a feature, as RING_PACKED or EVENT_IDX; may be repeated."),
            click.option("--preset", default="default", show_default=True, metavar="NAME", help="Preset of the device; entropy is a virtio-rng.")):
        command = option(command)
    return command


def _say(text):
    errors.print(text, soft_wrap=True, markup=False)


@click.command()
@click.option("--kernel", default="6.12", show_default=True, metavar="6.1|6.12|7|PATH",
              help=f"Guest kernel: {', '.join(KERNELS)} (Debian's, fetched once) or an image of your own.")
@click.option("--net", default="passt", show_default=True, metavar=NETWORK_CHOICES, help=NETWORK_HELP)
@click.option("--pcap", metavar="FILE", help="Write the frames of both directions as pcapng.")
@click.option("--shell", is_flag=True, help="Give a shell in the guest instead of running the test.")
@click.option("--script", metavar="FILE", help="Run a shell script in the guest instead of the test.")
@click.option("--package", multiple=True, metavar="NAME", help="Have the programs of a Debian package in the guest, as ethtool; may be repeated.")
@click.option("--json", metavar="FILE", help="Write the summary as JSON.")
@_device_options
def boot(shell, script, **options):
    """Boot an unmodified Linux in QEMU against the simulated RTL.

    The guest gets an address, pings its peer, and with --net passt downloads 1 MiB from the host. With --preset entropy it reads
    /dev/hwrng instead, and what it read is compared with what the device was fed. Exit status 1 if the guest fails.
    """
    from . import runner

    if shell and script:
        raise click.UsageError("--shell and --script exclude each other; choose one.")
    options = runner.BootOptions(shell=shell, script=script, **options)
    show = (lambda line: console.print(line, soft_wrap=True, markup=False)) if script else None
    summary = _run(lambda: runner.boot(options, say=_say, show=show))
    console.print(summary.table())
    sys.exit(0 if summary.ok else 1)


@click.command()
@click.option("--socket", required=True, metavar="PATH", help="UNIX socket to listen on.")
@click.option("--net", default="echo", show_default=True, metavar=NETWORK_CHOICES, help=NETWORK_HELP)
@click.option("--pcap", metavar="FILE", help="Write the frames of both directions as pcapng.")
@_device_options
def serve(socket, **options):
    """Serve the simulated device to a QEMU (10.1 or newer) that you start."""
    from . import runner

    def ready(options):
        _say(f"Listening on {socket}. Add to the command line of QEMU 10.1 or newer:")
        console.print(shlex.join(options), soft_wrap=True, markup=False)

    options = runner.ServeOptions(socket=socket, **options)
    result = _run(lambda: runner.serve(options, say=_say, ready=ready))
    console.print(f"The guest is gone after {result['cycles']:,} cycles: {result['config_reads']} configuration reads, "
                  f"{result['config_writes']} writes, {result['bar_reads']} BAR reads, {result['bar_writes']} writes, "
                  f"{result['interrupts']} interrupts, {result['frames']['sent']} frames out, {result['frames']['received']} in. "
                  f"Accesses are in {result['logs']}.", soft_wrap=True)
