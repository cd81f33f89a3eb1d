# SPDX-License-Identifier: BSD-2-Clause
"""Keeps how every test ended in build/test-results.json, for ``unvirt conformance``; a partial run replaces only its own."""

import json
from pathlib import Path

_FILE = Path(__file__).parent / "build" / "test-results.json"
_outcomes = {}


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        if _outcomes.get(report.nodeid) != "failed":
            _outcomes[report.nodeid] = report.outcome


def pytest_sessionfinish(session):
    if hasattr(session.config, "workerinput") or not _outcomes:
        return                    # a worker of xdist reports to the session that started it
    kept = {}
    if _FILE.exists():
        kept = {name: outcome for name, outcome in json.loads(_FILE.read_text())["tests"].items()
                if (_FILE.parents[1] / name.partition("::")[0]).exists()}
    _FILE.parent.mkdir(exist_ok=True)
    _FILE.write_text(json.dumps({"tests": kept | _outcomes}, indent=1, sort_keys=True) + "\n")
