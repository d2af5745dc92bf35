"""`trocar track show` prints every digit, in a pipe and on a terminal that is too narrow for its table."""

from __future__ import annotations

from pathlib import Path

import pytest

from trocar.cli.main import main
from trocar.runs.run_folder import Run

NAMES = [f"a_metric_with_a_long_name_{n}" for n in range(12)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with Run.open(tmp_path / "run", {}) as record:
        for step in range(12):
            record.log(step, {**dict.fromkeys(NAMES, 0.12345 + step), "frames": 1234567 + step})
    return tmp_path / "run"


def test_a_pipe_gets_whole_numbers_in_lines_as_long_as_they_are(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["track", "show", str(run), "--last", "2"]) == 0
    said = capsys.readouterr().out
    assert "…" not in said
    (line,) = [line for line in said.splitlines() if "1234578" in line]
    assert line.count("11.123") == len(NAMES)
    assert all(name in said for name in NAMES)


def test_a_narrow_terminal_gets_a_line_for_every_number(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["track", "show", str(run)]) == 0
    said = capsys.readouterr().out
    assert "…" not in said
    assert max(map(len, said.splitlines()[1:])) <= 100
    (line,) = [line for line in said.splitlines() if "frames" in line]
    assert [word for word in line.split() if word.isdigit()] == [str(1234567 + step) for step in range(7, 12)]
