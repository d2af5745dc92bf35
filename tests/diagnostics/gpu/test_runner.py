"""Checks one after the other: what each finds is on disk, and nothing that one does keeps the next from running."""

import json
import threading

import pytest
import torch

from trocar.diagnostics.gpu import runner
from trocar.diagnostics.gpu.runner import CheckFindings, GpuCheck, SkippedError, Subject, read_report, run_checks


@pytest.fixture
def subject(tmp_path):
    return Subject(torch.device("cpu"), tmp_path / "catalog")


def found(passed):
    return lambda subject: CheckFindings(passed, "words", {"number": 1.5})


def raising(error):
    def run(subject):
        raise error

    return run


def never():
    raise AssertionError("nothing hung")


def test_each_check_has_its_state_and_none_keeps_the_next_from_running(subject, tmp_path):
    said = []
    checks = [
        GpuCheck("good", 9, found(True)),
        GpuCheck("bad", 9, found(False)),
        GpuCheck("number", 9, found(None)),
        GpuCheck("raises", 9, raising(RuntimeError("CUDA error\nmore"))),
        GpuCheck("not here", 9, raising(SkippedError("no card"))),
    ]
    outcomes = run_checks(checks, subject, said.append, never, tmp_path / "report.json")
    states = {outcome.name: (outcome.state, outcome.words) for outcome in outcomes}
    assert states == {
        "good": ("passed", "words"),
        "bad": ("failed", "words"),
        "number": ("measured", "words"),
        "raises": ("error", "RuntimeError: CUDA error"),
        "not here": ("skipped", "no card"),
    }
    assert [line.split()[0] for line in said] == ["ok", "FAILED", "measured", "ERROR", "skipped"]
    assert read_report(tmp_path / "report.json") == outcomes
    assert "raise error" in outcomes[3].values["traceback"]


def test_the_report_is_written_before_the_next_check_begins(subject, tmp_path):
    seen = []

    def look(subject):
        seen.append([item["name"] for item in json.loads((tmp_path / "r.json").read_text())["checks"]])
        return CheckFindings(True, "")

    run_checks(
        [GpuCheck("first", 9, found(True)), GpuCheck("second", 9, look)], subject, print, never, tmp_path / "r.json"
    )
    assert seen == [["first"]]


def test_a_report_is_continued(subject, tmp_path):
    report = tmp_path / "r.json"
    run_checks([GpuCheck("first", 9, found(False))], subject, print, never, report)
    both = [GpuCheck("first", 9, raising(AssertionError("again"))), GpuCheck("second", 9, found(True))]
    assert [outcome.state for outcome in run_checks(both, subject, print, never, report)] == ["failed", "passed"]


def test_a_check_that_hangs_is_written_down_before_the_process_is_given_up(subject, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "TINY_SLOWER", 1)
    gave_up = threading.Event()

    def hang(subject):
        assert gave_up.wait(30)
        return CheckFindings(True, "")

    checks = [GpuCheck("good", 9, found(True)), GpuCheck("hangs", 0.2, hang)]

    def hung():
        states = {outcome.name: outcome.state for outcome in read_report(tmp_path / "r.json")}
        assert states == {"good": "passed", "hangs": "hung"}
        gave_up.set()

    run_checks(checks, subject, print, hung, tmp_path / "r.json")
    assert gave_up.is_set()


def test_what_does_not_fit_into_the_budget_is_skipped_and_cheaper_checks_are_not(subject, tmp_path):
    checks = [GpuCheck("long", 100, found(True)), GpuCheck("short", 5, found(True))]
    outcomes = run_checks(checks, subject, print, never, None, budget_s=10)
    assert [(outcome.name, outcome.state) for outcome in outcomes] == [("long", "skipped"), ("short", "passed")]


def test_numbers_that_json_cannot_hold_are_words(subject, tmp_path):
    odd = lambda subject: CheckFindings(None, "", {"nan": float("nan"), "deep": [{"inf": float("inf")}]})  # noqa: E731
    run_checks([GpuCheck("odd", 9, odd)], subject, print, never, tmp_path / "r.json")
    (outcome,) = read_report(tmp_path / "r.json")
    assert outcome.values == {"nan": "nan", "deep": [{"inf": "inf"}]}
