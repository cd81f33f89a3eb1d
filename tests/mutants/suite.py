# SPDX-License-Identifier: BSD-2-Clause
"""What mutants are tried with: the tests of the whole device (tests/system), on the one device that has mutants.

A *case* is a test function and its arguments. All mutants meet :data:`CASES`, those that survive may meet :data:`LONG` too. The device
is neither of the presets but has what most of them ask for: small pools, so that they run out; a completion timeout that can be waited
for; four queue pairs and a control queue.
"""

import contextlib
import importlib
import inspect
import io
import itertools
import random
import sys
from functools import partial
from pathlib import Path

import pytest
from hypothesis import Phase
from unvirt.config import preset
from unvirt_sim.driver.net import PACKED, WANTED, NetDriver
from unvirt_sim.driver.scenarios import SCENARIOS, SPLIT_ONLY, exchange
from unvirt_sim.harness import Simulation
from unvirt_sim.harness_host import HarnessHost, run_driver
from unvirt_sim.link import LinkConfig

from rates import RATES, WRAPS

SYSTEM = Path(__file__).parents[1] / "system"
if str(SYSTEM) not in sys.path:
    sys.path.append(str(SYSTEM))

from settings import ANY_LENGTH, RINGS, TIMEOUT  # noqa: E402
from test_device_adversary import RINGS as EPISODES  # noqa: E402
from test_device_adversary import episodes  # noqa: E402
from test_traffic import LINKS  # noqa: E402
from traffic import SHORT, Traffic  # noqa: E402

__all__ = ["CASES", "CONFIG", "LONG", "SYSTEM", "UNBOUNDED", "Trial"]

CONFIG = preset("minimal").with_options(completion_timeout=TIMEOUT, queue_pairs=4, rows=16, control_queue=True, msix_vectors=12,
                                        chain_slots=128, meta_contexts=64)

MODULES = ("net", "multiqueue", "order", "faults", "resets", "interrupts", "reads", "races", "rings", "packed_ring", "queue_reset", "coalescing",
           "control", "features", "suspend", "thrift", "shortage", "walks")

OTHER_DEVICE = {"preset": "wide", "width": 512}
"""Arguments of tests that would be the same case again: there is one device here."""

OF_OTHER_DEVICES = ("suspend: no_further_buffers", "thrift: golden_counts (packed, send eight", "thrift: golden_counts (packed, receive eight",
                    "thrift: as_many_as_usual (20", "thrift: more_than_usual", "thrift: a_run_without_end", "queue_reset: registers",
                    "features: every_legal_pair", "features: pairs_of_other_features", "shortage: a_queue_without_answers",
                    "shortage: long_chains_on_all_queues")
"""Cases that count on another window, ring, number of queues or groups, or on a longer timeout, or need no device at all."""

OF_LARGER_DEVICES = ("enumeration", "mergeable")
"""Scenarios of a device with fewer rows (a reset takes a cycle for each) or larger pools."""

ANSWER_CYCLES = 20_000
"""What a register access may take: a mutant that does not answer is not waited for longer."""


UNBOUNDED = 10_000_000
"""Cycles that any case of the original ends in."""


class OutOfCycles(Exception):
    """A case took far longer than with the original."""


class _Bounded(Simulation):
    """A simulation that ends by an exception when the budget of its trial is spent."""

    def __init__(self, trial, **options):
        self._trial = trial
        super().__init__(trial.library, mutant=trial.mutant, answer_cycles=ANSWER_CYCLES, **options)

    def run(self, cycles, until=0):
        before = self.cycle
        seen = super().run(min(cycles, max(self._trial.left, 1)), until)
        self._trial.left -= self.cycle - before
        if self._trial.left <= 0:
            raise OutOfCycles("the cycles are used up")
        return seen


class Trial:
    """One device, original or mutant, that cases are run with.

    Parameters
    ----------
    library : Path
    mutant : int
        0 is the original.
    """

    def __init__(self, library, mutant=0):
        self.library, self.mutant = library, mutant
        self.left = 0
        self._made = []

    def _make(self, name=None, *, link=None, seed=1, random_init=True, settle=3000, **options):
        """Stand in for the fixtures ``device`` and ``small`` of the system tests; which device they want does not matter."""
        self._finish()
        simulation = _Bounded(self, link=link or LinkConfig(), seed=seed, random_init=random_init)
        self._made = [simulation]
        simulation.run(settle)
        return simulation, HarnessHost(simulation)

    def _finish(self):
        """The checkers of what was made last have nothing to say."""
        for simulation in self._made:
            self.infected |= simulation.infected
            assert simulation.violations == [], simulation.violations[0]

    def run(self, case, budget):
        """Run a case within ``budget`` cycles; return (cycles taken, what it complained of or None).

        If it did not complain, ``infected`` has the mutants, as a mask of bits, that it can tell from this one.
        """
        self.left, self._made, self.infected = budget, [], 0
        complaint = None
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                (CASES | LONG)[case](self._make)
                self._finish()
        except (Exception, pytest.fail.Exception) as error:       # whatever it is: the original has none
            complaint = (f"{type(error).__name__}: {error}".splitlines() or [""])[0][:200]
        self._made = []
        return budget - self.left, complaint


def _tests(module):
    """Yield (name, case) of the tests of a module, each with all its arguments."""
    for name, function in vars(importlib.import_module(f"test_device_{module}")).items():
        marks = getattr(function, "pytestmark", [])
        if not name.startswith("test_") or any(mark.name == "slow" for mark in marks):
            continue
        choices = []
        for mark in marks:
            names = [one.strip() for one in mark.args[0].split(",")]
            ids = list(mark.kwargs.get("ids") or [str(value) for value in mark.args[1]])
            choices.append([(label, dict(zip(names, value if len(names) > 1 else [value]))) for label, value in zip(ids, mark.args[1])])
        for chosen in itertools.product(*choices):
            arguments = {key: value for _, values in chosen for key, value in values.items()}
            fixtures = set(inspect.signature(function).parameters) - set(arguments)
            if fixtures <= {"device", "small"} and not any(arguments.get(key) == value for key, value in OTHER_DEVICE.items()):
                label = ", ".join(label for label, _ in chosen)
                case = f"{module}: {name.removeprefix('test_')}" + (f" ({label})" if label else "")
                if not case.startswith(OF_OTHER_DEVICES):
                    yield case, partial(_call, function, fixtures, arguments)


def _call(function, fixtures, arguments, make):
    function(**dict.fromkeys(fixtures, make), **arguments)


def _traffic(wanted, link, make):
    simulation, host = make(link=link)
    driver = run_driver(NetDriver.find(host))
    run_driver(driver.start(queue_size=64, interrupts="poll", order="random", wanted=wanted))
    run_driver(Traffic(simulation, host, driver, rng=random.Random(1), count=60, sizes=SHORT, outstanding=24, window=12).run())


def _wraps(wanted, queue_size, make):
    """Indices beyond 8192, in a ring that wraps all the time."""
    simulation, host = make(link=LINKS["quick"])
    driver = run_driver(NetDriver.find(host))
    run_driver(driver.start(queue_size=queue_size, interrupts="poll", wanted=wanted))
    run_driver(Traffic(simulation, host, driver, rng=random.Random(1), count=8300, sizes=(14, 64), outstanding=min(queue_size, 24), window=12,
                       pause=200).run())


def _jumbo(wanted, make):
    _, host = make()
    rng = random.Random(1)
    driver = run_driver(NetDriver.find(host))
    run_driver(driver.start(queue_size=32, interrupts="poll", wanted=wanted & ANY_LENGTH))
    for size, lengths in ((2100, [9100]), (4200, [100, 4200]), (8180, [4096, 5000]), (9018, [64, 9000])):
        run_driver(exchange(host, driver, out=[rng.randbytes(size)], incoming=[rng.randbytes(size)], post=[lengths]))


def _scenario(name, wanted, make):
    run_driver(SCENARIOS[name](make()[1], 1, wanted))


def _episodes(packed, events, make):
    # Neither shrunk nor kept: what matters is whether it fails.
    episodes(make, 40, packed, events, derandomize=True, phases=[Phase.generate])


def _cases():
    """Yield every (name, case)."""
    for (link, config), (ring, wanted) in itertools.product(LINKS.items(), RINGS.items()):
        yield f"traffic: {link}, {ring}", partial(_traffic, wanted, config)
    for ring, wanted in RINGS.items():
        yield f"jumbo frames: {ring}", partial(_jumbo, wanted)
        for queue_size in (4, 64):
            yield f"wraps: ring of {queue_size}, {ring}", partial(_wraps, wanted, queue_size)
    for name in SCENARIOS:
        for ring, wanted in (("split", WANTED), ("packed", PACKED)):
            if name not in OF_LARGER_DEVICES and (ring == "split" or name not in SPLIT_ONLY):
                yield f"scenario: {name}, {ring}", partial(_scenario, name, wanted)
    for module in MODULES:
        yield from _tests(module)
    yield from (RATES | WRAPS).items()
    for name, (packed, events) in EPISODES.items():
        yield f"adversary: {name}", partial(_episodes, packed, events)


def _is_long(name):
    """Tell what takes longest for what it finds: the same again with another link or reset, hundreds of rounds."""
    return name.startswith(LENGTHY) and not name.startswith(SHORT_EXAMPLES)


LENGTHY = ("traffic: ", "wraps: ", "scenario: masks", "resets: ", "races: ", "adversary: ", "order: ", "reads: ", "interrupts: ",
           "multiqueue: answers", "multiqueue: nothing_is_used", "multiqueue: all_queues", "multiqueue: some_receive", "faults: failing_reads (2",
           "suspend: with_traffic", "suspend: at_every_moment", "rings: what_is_not", "rings: no_interrupt", "control: commands_on")
SHORT_EXAMPLES = ("traffic: quick", "traffic: stalls, packed in order", "order: few_credits (many", "resets: reset_under_traffic (virtio",
                  "reads: suppression", "reads: buffers", "suspend: with_traffic (default, packed events",
                  "rings: what_is_not_available_is_not_believed (events", "interrupts: used_event", "interrupts: suppressed",
                  "interrupts: each_event")
CASES = {name: case for name, case in _cases() if not _is_long(name)}
"""Cases by name: functions of what makes a device."""

LONG = {name: case for name, case in _cases() if _is_long(name)}
"""Further cases."""
