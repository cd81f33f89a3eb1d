# SPDX-License-Identifier: BSD-2-Clause
"""The farm: every job gets done, what is done is kept, and who fails, fails alone."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner
from distributed import LocalCluster
from work import ends_itself, ends_itself_once, raises, square

from unvirt_sim.farm import ClusterError, Job, Outcome, digest, farm_options, run


def jobs(folder, numbers):
    return [Job(f"job {number}", (str(folder), number)) for number in numbers]


def attempts(folder, number):
    """Return the processes that tried a job."""
    path = folder / str(number)
    return path.read_text().split() if path.exists() else []


@pytest.fixture(scope="module")
def cluster():
    """The address of a Dask cluster of two workers on this machine."""
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as made:
        yield made.scheduler_address


@pytest.fixture
def place(request):
    """Where the jobs run: two processes here, or the cluster."""
    return {"processes": 2} if request.param == "here" else {"cluster": request.getfixturevalue("cluster")}


everywhere = pytest.mark.parametrize("place", ["here", "cluster"], indirect=True)


@everywhere
def test_results_in_order(place, tmp_path):
    out = run(jobs(tmp_path, range(7)), square, **place)
    assert list(out) == [f"job {number}" for number in range(7)]
    assert [outcome.value for outcome in out.values()] == [{"square": number * number} for number in range(7)]
    assert all(len(attempts(tmp_path, number)) == 1 for number in range(7))


@everywhere
def test_a_second_run_does_the_rest(place, tmp_path):
    """Results are read from the file, not made anew; a line that was cut off is no result and spoils none."""
    results = tmp_path / "build" / "results.jsonl"
    run(jobs(tmp_path, range(3)), square, results_file=results, **place)
    assert sorted(json.loads(line)["value"]["square"] for line in results.read_text().splitlines()) == [0, 1, 4]
    results.write_text(results.read_text() + '{"key": "job 3", "val')
    out = run(jobs(tmp_path, range(5)), square, results_file=results, **place)
    assert [outcome.value["square"] for outcome in out.values()] == [0, 1, 4, 9, 16]
    assert [len(attempts(tmp_path, number)) for number in range(5)] == [1] * 5
    again = run(jobs(tmp_path, range(5)), square, results_file=results, **place)
    assert again == out and [len(attempts(tmp_path, number)) for number in range(5)] == [1] * 5


@everywhere
def test_a_job_that_raises(place, tmp_path):
    """It is tried twice, its reason told, and it is not among the results that are kept."""
    results = tmp_path / "results.jsonl"
    out = run(jobs(tmp_path, range(2)), raises, results_file=results, **place)
    assert out["job 1"] == Outcome(error="ValueError: 1 is not to my taste")
    assert [len(attempts(tmp_path, number)) for number in range(2)] == [2, 2]
    assert not results.read_text()


def test_each_attempt_has_a_fresh_worker(tmp_path):
    run(jobs(tmp_path, [1]), raises, processes=1)
    first, second = attempts(tmp_path, 1)
    assert first != second


@everywhere
def test_a_worker_that_dies_takes_only_its_job_along(place, tmp_path):
    """The job that kills its worker fails; those beside it are done, and done once where workers are ours."""
    out = run(jobs(tmp_path, range(8)), ends_itself, **place)
    assert out.pop("job 3") == Outcome(error="its worker died", died=True)
    assert [outcome.value for outcome in out.values()] == [0, 1, 2, 4, 5, 6, 7]
    if "processes" in place:
        assert len(attempts(tmp_path, 3)) == 2
        assert all(len(attempts(tmp_path, number)) == 1 for number in (0, 1, 2, 4, 5, 6, 7))


@everywhere
def test_a_death_by_accident_costs_nothing(place, tmp_path):
    """What is tried again in a fresh worker succeeds if that lives."""
    out = run(jobs(tmp_path, range(4)), ends_itself_once, **place)
    assert [outcome.value for outcome in out.values()] == [0, 1, 2, 3]
    if "processes" in place:              # a cluster also makes anew what a dead worker had not handed over
        assert [len(attempts(tmp_path, number)) for number in range(4)] == [1, 2, 1, 2]


def test_a_killed_run_leaves_no_workers(tmp_path):
    """Workers end with the process that started them, in the middle of a job too."""
    script = tmp_path / "script.py"
    script.write_text("from unvirt_sim.farm import Job, run\nfrom work import takes_long\n"
                      f"if __name__ == '__main__':\n    run([Job('one', ({str(tmp_path)!r}, 1))], takes_long)\n")
    with subprocess.Popen([sys.executable, script], env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)}) as process:
        until(lambda: attempts(tmp_path, 1))
        process.kill()
    worker, = attempts(tmp_path, 1)
    until(lambda: not Path(f"/proc/{worker}").exists())


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_digest_follows_the_sources(tmp_path):
    """Parameters and every source file count, nothing else does."""
    (tmp_path / "__init__.py").write_text("")
    package = SimpleNamespace(__file__=str(tmp_path / "__init__.py"))
    seen = {digest(1, packages=[package]), digest(2, packages=[package])}
    (tmp_path / "model.cpp").write_text("int x;")
    seen.add(digest(1, packages=[package]))
    (tmp_path / "model.cpp").write_text("int y;")
    seen.add(digest(1, packages=[package]))
    (tmp_path / "notes.txt").write_text("nothing")
    assert len(seen) == 4 and digest(1, packages=[package]) in seen


def unused_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("address", ["nonsense://somewhere", "tcp://127.0.0.1:{port}", "tcp://127.0.0.1:port", "tcp://no-such-host.invalid:8786", ""])
def test_wrong_address(tmp_path, address):
    address, before = address.format(port=unused_port()), threading.enumerate()
    with pytest.raises(ClusterError, match="^No Dask scheduler answers at"):
        run(jobs(tmp_path, range(2)), square, cluster=address)
    assert not [thread for thread in threading.enumerate() if thread.name == "IO loop" and thread not in before]


def test_cluster_without_workers(tmp_path):
    with LocalCluster(n_workers=0, dashboard_address=":0") as empty, pytest.raises(ClusterError, match="has no workers"):
        run(jobs(tmp_path, range(2)), square, cluster=empty.scheduler_address)


@pytest.mark.parametrize("arguments, sentence", [(["--processes", "0"], "0 is not in the range x>=1"),
                                                 (["--processes", "many"], "'many' is not a valid integer")])
def test_bad_options(arguments, sentence):
    @click.command()
    @farm_options
    def command(processes, cluster):
        """Do nothing."""

    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2 and sentence in result.output
