# SPDX-License-Identifier: BSD-2-Clause
"""The command ``conformance``: what counts as covered, and what it says of input it cannot use."""

import json

import pytest
from click.testing import CliRunner

from unvirt_sim.conformance.catalogue import load, offered_features
from unvirt_sim.conformance.collect import ConformanceError, covers, passed
from unvirt_sim.conformance.commands import conformance
from unvirt_sim.conformance.matrix import NOT_OFFERED_ID, document, judge


def write(folder, docstring, name="test_a"):
    folder.mkdir(exist_ok=True)
    (folder / "test_it.py").write_text(f'def {name}():\n    """{docstring}"""\n', encoding="utf-8")


def test_the_catalogue_is_whole():
    """725 rows, as its own documentation counts them, and every feature name in it is spelt like the device's."""
    catalogue = load()
    assert len(catalogue) == 725
    names = {name.removesuffix("=0") for row in catalogue.values() for name in row.feature.replace("|", ";").split(";")}
    assert offered_features() <= names


def test_ids_of_a_docstring(tmp_path):
    """Ids may go over several lines, to the end of their paragraph; other text may follow."""
    write(tmp_path / "tests", "Title.\n\n    Covers: CORE-CFG-01, CORE-CFG-02,\n    CORE-CFG-03.\n\n    And more, not an id.\n    ")
    assert sorted(covers(tmp_path / "tests", load())) == ["CORE-CFG-01", "CORE-CFG-02", "CORE-CFG-03"]


def test_only_passing_tests_count(tmp_path):
    """Met needs a passing result; a variant that failed undoes it; features not offered are those of one test."""
    catalogue = load()
    covered = {"CORE-CFG-01": ["tests/a.py::test_a"], NOT_OFFERED_ID: ["tests/a.py::test_b"]}
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"tests": {"tests/a.py::test_a[1]": "passed", "tests/a.py::test_a[2]": "failed",
                                             "tests/a.py::test_b": "passed", "tests/a.py::test_c": "skipped"}}))
    assert passed(results) == {"tests/a.py::test_b"}
    rows = {row.requirement.id: row for row in judge(catalogue, covered, offered_features(), passed(results))}
    assert rows["CORE-CFG-01"].status == "named"
    assert rows[NOT_OFFERED_ID].status == "met"
    assert rows["NET-FEAT-15"].status == "not offered"
    assert rows["CORE-CFG-02"].status == "open"
    without = {row.requirement.id: row.status for row in judge(catalogue, covered, offered_features(), None)}
    assert set(without.values()) == {"named", "open"}
    assert "| total |" in document(list(rows.values()))


@pytest.mark.parametrize("docstring, sentence", [
    ("Covers: CORE-CFG-99", "'CORE-CFG-99', which is not in the catalogue"),
    ("Covers: CORE-CFG-01 and more", "'and', which is not in the catalogue"),
])
def test_unknown_ids(tmp_path, monkeypatch, docstring, sentence):
    """One sentence, exit status 2, nothing written."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "tests", docstring)
    result = CliRunner().invoke(conformance, ["--json", "out.json"])
    assert result.exit_code == 2 and sentence in result.output
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("arguments, sentence", [
    (["--tests", "nowhere"], "There is no folder of tests nowhere"),
    (["--json", "nowhere/out.json"], "There is no folder nowhere"),
    (["--results", "broken.json"], "broken.json is not a file of test results"),
])
def test_what_cannot_be_used(tmp_path, monkeypatch, arguments, sentence):
    """One sentence and exit status 2."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "tests", "Covers: CORE-CFG-01")
    (tmp_path / "broken.json").write_text("{}")
    result = CliRunner().invoke(conformance, arguments)
    assert result.exit_code == 2 and sentence in result.output and "Traceback" not in result.output


def test_json(tmp_path, monkeypatch):
    """Every row with id, status and tests."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "tests", "Covers: CORE-CFG-01")
    (tmp_path / "results.json").write_text(json.dumps({"tests": {"tests/test_it.py::test_a": "passed"}}))
    assert CliRunner().invoke(conformance, ["--results", "results.json", "--json", "out.json"]).exit_code == 0
    rows = json.loads((tmp_path / "out.json").read_text())
    assert len(rows) == 725 and all(set(row) == {"id", "status", "tests"} for row in rows)
    assert [row["id"] for row in rows if row["status"] == "met"] == ["CORE-CFG-01"]


def test_no_half_syntax(tmp_path):
    """A file that is not Python is named."""
    write(tmp_path / "tests", "x", name="test_(")
    with pytest.raises(ConformanceError, match="cannot be read as Python"):
        covers(tmp_path / "tests", load())
