# SPDX-License-Identifier: BSD-2-Clause
"""Runs a list of independent jobs on many processes, here or on a Dask cluster, and keeps what is finished.

    jobs --> those without a result --> workers, one job each --> results, one line of JSON each

A result is kept under its job's key, so that a second run does only the rest. A worker that dies takes nothing along but its own job.
"""

import asyncio
import hashlib
import json
import multiprocessing
import os
import sys
import threading
from collections import deque
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .build import BuildError
from .cache import CacheError

__all__ = ["ClusterError", "Job", "Outcome", "check_cluster", "digest", "farm_options", "run", "sentences"]

ATTEMPTS = 2
"""How often a job is tried, the second time in a fresh worker."""

_CONNECT = 5
"""Seconds after which there is no scheduler at an address."""


class ClusterError(Exception):
    """The cluster cannot be used; the message is one sentence."""


@dataclass(frozen=True)
class Job:
    """What to call the function with. Jobs of the same ``key`` have the same result at any time; see :func:`digest`."""

    key: str
    arguments: tuple


@dataclass(frozen=True)
class Outcome:
    """What became of a job: a ``value`` that JSON can hold or, after two attempts, the ``error``; ``died``: because its worker did."""

    value: object = None
    error: str | None = None
    died: bool = False


def digest(*parts, packages=(), folders=()):
    """Return a short name for everything that a result depends on.

    ``parts`` are things whose ``repr`` is the same in every run; the Python and C++ sources of ``packages`` and in ``folders`` count.
    """
    out = hashlib.sha256(repr(parts).encode())
    for root in [*(Path(package.__file__).parent for package in packages), *map(Path, folders)]:
        for path in sorted(path for path in root.rglob("*") if path.suffix in (".py", ".cpp", ".hpp")):
            out.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return out.hexdigest()[:16]


def farm_options(command):
    """Add the options ``--processes`` and ``--cluster`` to a command."""
    command = click.option("--cluster", metavar="ADDRESS", help="Scheduler of a Dask cluster that does the work, such as "
                           "tcp://host:8786; by default it is done here.")(command)
    return click.option("--processes", type=click.IntRange(1), default=os.cpu_count() or 1, show_default=True,
                        help="How many processes do the work.")(command)


@contextmanager
def sentences(console, target, *, refused=(), failed=()):
    """For the time of a ``with`` end the program with a sentence when something stops a list of jobs.

    The exit status is 1 if something could not be made, as for the errors ``failed`` too, else 2, as for ``refused``. ``target`` is what is written.
    """
    try:
        yield
    except (ClusterError, CacheError, BuildError, *refused, *failed) as error:
        console.print(f"{str(error).rstrip('.')}.", soft_wrap=True, markup=False)
        sys.exit(1 if isinstance(error, (BuildError, *failed)) else 2)
    except OSError as error:
        console.print(f"{error.filename or target} cannot be written: {error.strerror}; name another place.", soft_wrap=True, markup=False)
        sys.exit(2)


def _end_with_parent():
    """Make a worker end when its parent is killed; of itself it would wait for the next job for ever."""
    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


class _Worker:
    """One process; the next job after :meth:`discard` or a death has a new one."""

    def __init__(self):
        self._pool = None

    def submit(self, function, arguments):
        for _ in range(2):
            if self._pool is None:
                # Not by fork: the parent has threads.
                self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent)
            try:
                return self._pool.submit(function, *arguments)
            except BrokenExecutor:         # it died while it had nothing to do
                self.discard()
        raise BrokenExecutor("A new worker cannot be started")

    def discard(self):
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


class _Share:
    """A share of a cluster: one job at a time. Who does it, and who replaces a dead worker, is the scheduler's business."""

    def __init__(self, executor):
        self._executor = executor

    def submit(self, function, arguments):
        return self._executor.submit(function, *arguments)

    def discard(self):
        pass


@contextmanager
def _workers(processes, cluster):
    """Give a list of workers for the time of a ``with``."""
    if cluster is None:
        workers = [_Worker() for _ in range(processes)]
        with ExitStack() as stack:
            for worker in workers:
                stack.callback(worker.discard)
            yield workers
        return
    try:
        from distributed import Client
        from distributed.comm import connect
    except ModuleNotFoundError as error:
        raise ClusterError(f"A cluster needs the package {error.name}; install unvirt with its extra: pip install 'unvirt[cluster]'") from error

    async def knock():
        await (await connect(cluster, timeout=_CONNECT)).close()

    try:
        # A client that found nobody is no use for finding out: it keeps its thread, and waits ten seconds more in the thread
        # that happens to collect it.
        asyncio.run(knock())
        client = Client(cluster, timeout=_CONNECT, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise ClusterError(f"No Dask scheduler answers at {cluster}; give the address that dask-scheduler printed") from error
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise ClusterError(f"The Dask cluster at {cluster} has no workers; start dask-worker {cluster}")
        # Not pure: the same call may be made a second time.
        yield [_Share(client.get_executor(pure=False)) for _ in range(threads)]


def check_cluster(address):
    """Raise :class:`ClusterError` unless the cluster can be used (None can): for those who do long work before :func:`run`."""
    with _workers(0, address):
        pass


def _kept(path):
    """Return {key: value} of the results in a file; a line that was cut off is none."""
    out = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
            out[entry["key"]] = entry["value"]
        except (ValueError, KeyError, TypeError):
            continue
    return out


def run(jobs, function, *, processes=1, cluster=None, results_file=None, progress=None, title=""):
    """Run ``function(*job.arguments)`` for every job and return ``{key: Outcome}``, in the order of the jobs.

    Parameters
    ----------
    jobs : iterable of Job
    function : callable
        Of a module that the workers can import; returns what JSON can hold.
    processes : int
        How many jobs run at once here.
    cluster : str, optional
        Address of a Dask scheduler that gets the jobs instead.
    results_file : Path, optional
        Where results are appended as they come. Jobs that have one there are not run; those that failed are.
    progress : rich.console.Console, optional
        Where a bar is shown.
    title : str
        Of the bar.

    Raises
    ------
    ClusterError
    OSError
        If results cannot be written.
    """
    jobs = {job.key: job for job in jobs}
    kept = _kept(Path(results_file)) if results_file else {}
    outcomes = {key: Outcome(kept[key]) for key in jobs if key in kept}
    waiting = deque((job, 1) for key, job in jobs.items() if key not in outcomes)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with _file(results_file) as keep, Progress(*columns, console=progress, transient=True, disable=progress is None) as bar:
        task = bar.add_task(title, total=len(jobs), completed=len(outcomes))
        if waiting:
            with _workers(min(processes, len(waiting)), cluster) as workers:
                for key, outcome in _work(waiting, function, workers):
                    if outcome.error is None:
                        keep(key, outcome.value)
                    outcomes[key] = outcome
                    failed = sum(one.error is not None for one in outcomes.values())
                    bar.update(task, advance=1, description=f"{title}, {failed} failed" if failed else title)
    return {key: outcomes[key] for key in jobs}


@contextmanager
def _file(path):
    """Give a function that appends a result to a file, whole and at once."""
    if path is None:
        yield lambda key, value: None
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":          # a run was cut off while it wrote
                file.write(b"\n")

        def keep(key, value):
            file.write(json.dumps({"key": key, "value": value}).encode() + b"\n")
            file.flush()
        yield keep


def _work(waiting, function, workers):
    """Yield (key, outcome) as jobs end."""
    idle, running = list(workers), {}
    while waiting or running:
        while waiting and idle:
            job, attempt = waiting.popleft()
            worker = idle.pop()
            running[worker.submit(function, job.arguments)] = worker, job, attempt
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            worker, job, attempt = running.pop(future)
            idle.append(worker)
            error = future.exception()
            if error is None:
                # As it will be read from the file.
                yield job.key, Outcome(json.loads(json.dumps(future.result())))
                continue
            worker.discard()
            # A scheduler gives up a job that it has tried in several workers (its allowed-failures).
            killed = type(error).__name__ == "KilledWorker"
            if attempt < ATTEMPTS and not killed:
                waiting.appendleft((job, attempt + 1))
            else:
                died = killed or isinstance(error, BrokenExecutor)
                yield job.key, Outcome(error="its worker died" if died else f"{type(error).__name__}: {error}", died=died)
