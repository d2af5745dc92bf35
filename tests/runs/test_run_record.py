import json
import math
import os
import signal
import subprocess
import sys
from contextlib import nullcontext

import pytest
import yaml

from trocar import __version__
from trocar.errors import TrocarError
from trocar.runs.run_folder import Run, attempts, judged_loss, read_config, read_metrics, read_record, read_rows


def rows_of(run, *steps, value=None):
    for step in steps:
        run.log(step, {"loss": float(run.attempt if value is None else value)})


def test_run_id_is_made_once_and_attempts_count_up(tmp_path):
    first = Run.open(tmp_path / "r", {"a": 1})
    first.finish("killed")
    second = Run.open(tmp_path / "r", {"a": 1})
    assert (first.attempt, second.attempt) == (1, 2)
    assert first.run_id == second.run_id
    assert len(first.run_id) == 32
    record = read_record(tmp_path / "r")
    assert record["run_id"] == first.run_id
    assert record["trocar_version"] == __version__
    assert (record["status"], record["attempt"], record["process"]["pid"]) == ("running", 2, os.getpid())
    second.finish("finished")
    assert read_record(tmp_path / "r")["status"] == "finished"
    assert list(attempts(tmp_path / "r")) == [1, 2]


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "finished"), (ValueError, "failed"), (SystemExit, "killed"), (KeyboardInterrupt, "killed")],
)
def test_leaving_the_block_says_how_the_attempt_ended(tmp_path, error, status):
    with pytest.raises(error) if error else nullcontext(), Run.open(tmp_path, {}):
        if error:
            raise error
    assert read_record(tmp_path)["status"] == status


def test_configuration_is_kept_without_credentials_and_old_versions_stay(tmp_path):
    Run.open(tmp_path, {"lr": 0.1, "uri": "https://ann:geheim@host/x?token=abc&a=1", "nested": [{"p": tmp_path}]})
    text = (tmp_path / "config.yaml").read_text()
    assert "geheim" not in text
    assert "abc" not in text
    assert read_config(tmp_path)["uri"] == "https://***@host/x?token=***&a=1"
    assert read_config(tmp_path)["nested"] == [{"p": str(tmp_path)}]
    Run.open(tmp_path, {"lr": 0.2})
    assert read_config(tmp_path) == {"lr": 0.2}
    assert yaml.safe_load((tmp_path / "config.until-0001.yaml").read_text())["lr"] == 0.1
    Run.open(tmp_path, {"lr": 0.2})
    assert not (tmp_path / "config.until-0002.yaml").exists()


def test_floats_round_trip_bit_for_bit(tmp_path):
    values = [0.1 + 0.2, 1e-320, 1.7976931348623157e308, -0.0, math.pi, 2.0**-1074]
    run = Run.open(tmp_path, {})
    for step, value in enumerate(values):
        run.log(step, {"x": value})
    got = [row["x"] for row in read_metrics(tmp_path)]
    assert [v.hex() for v in got] == [v.hex() for v in values]


def test_nan_and_infinities_are_valid_json_and_come_back(tmp_path):
    run = Run.open(tmp_path, {})
    run.log(1, {"a": math.nan, "b": math.inf, "c": -math.inf})
    line = (tmp_path / "metrics" / "0001.jsonl").read_text()
    record = json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert (record["a"], record["b"], record["c"]) == ("NaN", "Infinity", "-Infinity")
    (row,) = read_metrics(tmp_path)
    assert math.isnan(row["a"])
    assert (row["b"], row["c"]) == (math.inf, -math.inf)


def test_text_is_not_a_metric(tmp_path):
    run = Run.open(tmp_path, {})
    with pytest.raises(TypeError, match="numbers"):
        run.log(1, {"a": "1.0"})
    assert read_metrics(tmp_path) == []


def test_lines_of_one_step_are_one_row(tmp_path):
    run = Run.open(tmp_path, {})
    run.log(5, {"loss": 1.0, "lr": 0.1})
    run.log(5, {"knn": 0.5, "loss": 2.0})
    assert read_metrics(tmp_path) == [{"step": 5, "loss": 2.0, "lr": 0.1, "knn": 0.5}]


def test_a_newer_attempt_replaces_everything_from_its_first_step_on(tmp_path):
    rows_of(Run.open(tmp_path, {}), 10, 20, 30, 40, 50)
    rows_of(Run.open(tmp_path, {}), 30, 40)
    assert [(r.step, r.attempt) for r in read_rows(tmp_path)] == [(10, 1), (20, 1), (30, 2), (40, 2)]


def test_an_attempt_without_rows_hides_nothing(tmp_path):
    rows_of(Run.open(tmp_path, {}), 10, 20)
    Run.open(tmp_path, {})
    assert [row["step"] for row in read_metrics(tmp_path)] == [10, 20]


def test_other_logging_steps_after_a_resume_do_not_interleave_with_old_rows(tmp_path):
    rows_of(Run.open(tmp_path, {}), 10, 20, 30, 40)
    rows_of(Run.open(tmp_path, {}), 25, 50)
    assert [(r.step, r.attempt) for r in read_rows(tmp_path)] == [(10, 1), (20, 1), (25, 2), (50, 2)]


def test_an_attempt_that_fell_back_further_hides_the_middle_one_too(tmp_path):
    rows_of(Run.open(tmp_path, {}), 10, 20, 30)
    rows_of(Run.open(tmp_path, {}), 25, 30, 35)
    rows_of(Run.open(tmp_path, {}), 20, 25)
    assert [(r.step, r.attempt) for r in read_rows(tmp_path)] == [(10, 1), (20, 3), (25, 3)]


def test_a_torn_last_line_is_ignored_even_when_it_looks_whole(tmp_path):
    run = Run.open(tmp_path, {})
    rows_of(run, 1, 2)
    with (tmp_path / "metrics" / "0001.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 1')
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]
    with (tmp_path / "metrics" / "0001.jsonl").open("a") as file:
        file.write("2.5}")  # a number cut short would read as another number
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    run = Run.open(tmp_path, {})
    rows_of(run, 1)
    with (tmp_path / "metrics" / "0001.jsonl").open("a") as file:
        file.write("garbage\n")
    rows_of(run, 2)
    with pytest.raises(TrocarError, match=r"0001\.jsonl: line 2 is damaged"):
        read_metrics(tmp_path)


LOG_FOREVER = """
import sys
from trocar.runs.run_folder import Run
run = Run.open(sys.argv[1], {})
step = 0
while True:
    step += 1
    run.log(step, {"loss": step / 3, "pad": 1.0})
    if step == 500:
        print("going", flush=True)
"""


@pytest.mark.faults
def test_a_killed_writer_leaves_a_readable_record(tmp_path):
    writer = subprocess.Popen([sys.executable, "-c", LOG_FOREVER, str(tmp_path)], stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"going\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    rows = read_metrics(tmp_path)
    assert len(rows) >= 500
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert rows[-1]["loss"] == rows[-1]["step"] / 3


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(TrocarError, match="is not a run folder"):
        read_record(tmp_path)


def test_importing_the_local_record_is_cheap():
    script = (
        "import sys, pydantic, yaml; before = set(sys.modules)\n"
        "import trocar.runs.run_folder, trocar.runs.lease, trocar.runs.run_folder\n"
        "heavy = {'torch', 'mlflow', 'numpy', 'pandas', 'matplotlib', 'psutil', 'timm'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_ln_k_is_the_measure_of_the_dino_loss_where_it_is_logged_and_else_of_the_loss():
    assert judged_loss({"loss": 12.0, "dino_loss": 9.0, "ibot_loss": 3.0}) == "dino_loss"
    assert judged_loss({"loss": 9.0, "lr": 0.1}) == "loss"
