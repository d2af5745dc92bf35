import io
import json

import pytest
from rich.console import Console

from trocar.diagnostics.bench.report import BenchComparison, Trial
from trocar.errors import TrocarError

TRIALS = (
    Trial("trocar", 0, 100, 1.0, {"peak MB": 10.0}),
    Trial("reference", 0, 100, 2.0),
    Trial("trocar", 1, 100, 0.5, {"peak MB": 30.0}),
    Trial("reference", 1, 100, 2.5),
    Trial("trocar", 2, 100, 4.0, {"peak MB": 20.0}),
    Trial("reference", 2, 100, 4.0),
)
COMPARISON = BenchComparison("A title", "images/s", "reference", TRIALS)


def test_ratios_are_taken_pair_by_pair():
    assert COMPARISON.ratios("trocar", "reference") == [2.0, 5.0, 1.0]
    assert COMPARISON.ratios("reference", "reference") == [1.0, 1.0, 1.0]


def test_table_shows_medians_and_ranges():
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(COMPARISON.table())
    line = next(line for line in console.export_text().splitlines() if "trocar" in line)
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells == ["trocar", "100.0", "25.0 - 200.0", "2.00", "1.00 - 5.00", "20"]


def test_json_holds_every_trial_and_the_ratios(tmp_path):
    COMPARISON.save(tmp_path / "out.json")
    tree = json.loads((tmp_path / "out.json").read_text())
    assert len(tree["trials"]) == 6
    assert tree["trials"][2] == {"contender": "trocar", "repeat": 1, "items": 100, "seconds": 0.5, "peak MB": 30.0}
    assert tree["summary"]["trocar"] == {"median_rate": 100.0, "ratios": [2.0, 5.0, 1.0], "median_ratio": 2.0}
    assert tree["machine"]["cores"] >= 1


def test_plot_is_written_and_a_bad_name_is_refused(tmp_path):
    COMPARISON.plot(tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(TrocarError, match=r"--plot a \.png or \.svg"):
        COMPARISON.plot(tmp_path / "out.nonsense")
