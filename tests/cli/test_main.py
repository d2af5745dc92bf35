import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from data_factory import make_catalog

from trocar.cli.main import build_parser, main, parse
from trocar.core.progress import table_console


@pytest.mark.parametrize(
    "command", ["phantom", "ingest", "inspect", "pretrain", "evaluate", "export", "report", "track", "presets", "demo"]
)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert command in capsys.readouterr().out


def test_parsing_imports_nothing_heavy():
    program = (
        "import sys; from trocar.cli.main import build_parser; build_parser(); "
        "print([m for m in ('torch', 'timm', 'mlflow', 'av', 'pandas', 'pyarrow') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


PLACES = ("data.catalog=nowhere", "run.out=run")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (
            ["pretrain", "nothing.yaml"],
            2,
            "no configuration file or preset 'nothing.yaml'; `trocar presets list` names",
        ),
        (["pretrain", "small_dino", *PLACES, "--dry-run"], 2, "no catalog here"),
        (["pretrain", "small_dino"], 2, "'data.catalog' is required"),
        (["pretrain", "small_dino", "train.stepps=3"], 2, "did you mean 'steps'"),
        (["pretrain", "small_dino", *PLACES, "train.epochs=3"], 2, "either steps or epochs"),
        (["pretrain", "small_dino", *PLACES, "run.ranks=5"], 2, "does not divide by ranks x accumulate = 5; 60 would"),
        (["presets", "show", "smal_dino"], 2, "did you mean 'small_dino'"),
        (["demo", "--data", "nowhere"], 2, "is not a folder"),
        (["inspect", "nowhere"], 2, "nowhere"),
    ],
)
def test_what_a_user_gets_wrong_ends_with_a_message_and_its_code(arguments, code, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


def test_a_mistyped_backbone_is_named_with_the_nearest(capsys, tmp_path):
    make_catalog(tmp_path / "shards", 4, 30)
    words = [f"data.catalog={tmp_path / 'shards'}", "data.composition.curate=none", f"run.out={tmp_path / 'run'}"]
    assert main(["pretrain", "small_dino", *words, "backbone.name=resnet10tt", "--dry-run"]) == 2
    assert "resnet10t" in capsys.readouterr().err


def test_dry_run_says_what_would_happen_and_writes_nothing(capsys, tmp_path):
    make_catalog(tmp_path / "shards", 4, 30)
    words = [f"data.catalog={tmp_path / 'shards'}", "data.composition.curate=none", f"run.out={tmp_path / 'run'}"]
    assert main(["pretrain", "small_dino", *words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "120 frames of 4 cases" in said
    assert "peak learning rate 0.001" in said
    assert "prototypes for 120 frames" in said
    assert not (tmp_path / "run").exists()


def test_dry_run_says_where_neighbours_come_from_and_misses_an_index_that_is_not_there(capsys, tmp_path):
    make_catalog(tmp_path / "shards", 4, 30)
    words = [f"data.catalog={tmp_path / 'shards'}", "data.composition.curate=none", f"run.out={tmp_path / 'run'}"]
    # small_dino's method section is DINO's, which this method takes as it is.
    command = ["pretrain", "small_dino", *words, "method.name=augmented_distillation", "--dry-run"]
    assert main(command) == 0
    assert "neighbours -2, -1, +1, +2 s from the anchor" in capsys.readouterr().out
    assert main([*command, "method.neighbours.source=knn", "method.neighbours.index=alike"]) == 2
    said = capsys.readouterr().err
    assert "alike" in said
    assert "trocar neighbours" in said


def test_presets_are_shown_and_copied_without_overwriting(capsys, tmp_path):
    assert main(["presets", "show", "small_dino"]) == 0
    shown = capsys.readouterr().out
    target = tmp_path / "mine.yaml"
    assert main(["presets", "copy", "small_dino", str(target)]) == 0
    assert target.read_text() == shown
    assert main(["presets", "copy", "small_dino", str(target)]) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full disk here")
def test_a_preset_that_finds_no_room_leaves_no_file(capsys, tmp_path, monkeypatch):
    opened = Path.open

    def full(self, mode="r", *args, **options):
        return opened(Path("/dev/full"), "wb", 0) if "x" in mode else opened(self, mode, *args, **options)

    monkeypatch.setattr("pathlib.Path.open", full)
    assert main(["presets", "copy", "small_dino", str(tmp_path / "mine.yaml")]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_videos_is_no_ingest_that_has_begun(capsys, tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").touch()
    words = ["pretrain", "small_dino", f"data.catalog={tmp_path}", f"run.out={tmp_path / 'run'}"]
    assert main(words) == 2
    assert "make one with `trocar ingest SRC" in capsys.readouterr().err
    (tmp_path / "shards").mkdir()
    assert main(words) == 2
    assert "its ingest has not finished" in capsys.readouterr().err


def test_the_parser_names_the_program():
    assert build_parser().prog == "trocar"


def test_overrides_may_stand_behind_options(capsys):
    assert parse(["pretrain", "small_dino", "a=1", "--dry-run", "b=2"]).overrides == ["a=1", "b=2"]
    assert parse(["evaluate", "--task", "phase", "seeds=2"]).overrides == ["seeds=2"]
    for wrong in (["pretrain", "small_dino", "--dry-runn"], ["presets", "list", "a=1"]):
        with pytest.raises(SystemExit) as end:
            parse(wrong)
        assert end.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pretrain", "small_dino"], "continues where it stopped"),
        (["ingest", "videos", "--out", "shards"], "continues where it stopped"),
        (["neighbours", "shards", "--backbone", "x", "--name", "n"], "starts again from the beginning"),
        (["export", "run", "--out", "b"], "starts again from the beginning"),
    ],
)
def test_an_interrupted_command_says_what_the_same_words_will_do(arguments, words, capsys, monkeypatch):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"trocar.cli.commands.{arguments[0]}.run", interrupted)
    assert main(arguments) == 130
    assert f"interrupted; the same command {words}" in capsys.readouterr().err


PRINTS_A_TABLE = (
    "from trocar.cli.commands import presets; from trocar.core.progress import table_console; "
    "presets.run_list = lambda args: table_console(80).print('row\\n' * {rows}) or 0; "
)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("", ["presets", "show", "small_dino"]),  # little, met at the last flush
        ("", ["--help"]),  # printed by argparse, which then exits
        (PRINTS_A_TABLE.format(rows=2), ["presets", "list"]),  # rich's own way out has another code
        (PRINTS_A_TABLE.format(rows=50_000), ["presets", "list"]),  # more than any buffer holds
    ],
)
def test_output_that_nobody_reads_to_the_end_is_no_error(before, words, unbuffered):
    process = started(before, words, subprocess.PIPE, unbuffered)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", [["presets", "show", "small_dino"], ["--help"]])
def test_output_that_finds_no_room_is_an_error_that_says_so(words):
    with Path("/dev/full").open("w") as full:
        process = started("", words, full, "")
    assert process.stderr.read() == b"trocar: standard output: No space left on device\n"
    assert process.wait() == 1


def started(before, words, stdout, unbuffered):
    """The program `trocar` with `words`, after the Python lines `before`."""
    program = (
        f"{before}import sys; from trocar.cli.main import entry; sys.argv = ['trocar', *{words!r}]; sys.exit(entry())"
    )
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    return subprocess.Popen([sys.executable, "-c", program], stdout=stdout, stderr=subprocess.PIPE, env=environment)


def test_a_pipe_to_another_process_that_breaks_is_an_error(capsys, monkeypatch):
    def broken(args):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("trocar.cli.commands.presets.run_list", broken)
    assert main(["presets", "list"]) == 1
    assert "Broken pipe" in capsys.readouterr().err


@pytest.mark.parametrize(("columns", "width"), [("80", 80), ("", 140)])
def test_tables_are_as_wide_as_columns_says_where_there_is_no_terminal(monkeypatch, columns, width):
    monkeypatch.setenv("COLUMNS", columns)
    assert table_console(140).width == width
