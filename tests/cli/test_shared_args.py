"""`--plugin` imports a package before the command, and the command's configuration keeps it."""

import argparse

import pytest

from trocar.cli.commands import ingest
from trocar.cli.main import build_parser, main, parse
from trocar.cli.shared_args import use_plugins
from trocar.errors import ConfigError
from trocar.slurm.profile import Profile


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A module on the path; returns its name."""
    (tmp_path / "flagged_plugin.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return "flagged_plugin"


def leaves(parser):
    """Every command that can be given, also those below another."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [leaf for action in below for child in action.choices.values() for leaf in leaves(child)] or [parser]


def test_every_command_has_the_option():
    commands = leaves(build_parser())
    assert len(commands) > 20
    assert [parser.prog for parser in commands if "--plugin" not in parser.format_help()] == []


def test_it_is_added_to_the_plugins_that_the_file_lists(tmp_path, package):
    (tmp_path / "run.yaml").write_text("plugins: [json]\n", encoding="utf-8")
    for words in (["pretrain"], ["study", "plan"], ["evaluate"]):
        args = parse([*words, str(tmp_path / "run.yaml"), "a=1", "--plugin", package, "--plugin", "json"])
        use_plugins(args)
        assert args.overrides[-1] == 'plugins=["json", "flagged_plugin"]'
    args = parse(["evaluate", "task=[phase]", "--plugin", package])
    use_plugins(args)
    assert args.overrides == ["task=[phase]", 'plugins=["flagged_plugin"]']


def test_without_it_nothing_changes_and_a_wrong_one_is_named(tmp_path):
    args = parse(["evaluate", "task=[phase]"])
    use_plugins(args)
    assert args.overrides == ["task=[phase]"]
    with pytest.raises(ConfigError, match="plugin 'no_such_plugin': there is no package 'no_such_plugin'"):
        use_plugins(parse(["inspect", str(tmp_path), "--plugin", "no_such_plugin"]))


def test_a_command_that_needs_no_word_behind_it_runs_without_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["jobs"]) == 0
    assert "nothing was submitted" in capsys.readouterr().out


@pytest.mark.parametrize("plugins", [[], ["json", "csv"]])
def test_the_jobs_of_an_ingest_import_the_plugins_of_its_command_and_no_other(plugins):
    flags = [word for name in plugins for word in ("--plugin", name)]
    given = parse(["ingest", "videos", "--out", "shards", "--fps", "2", *flags])
    words = ingest._words(given, Profile())
    assert parse(list(words)).plugin == plugins
    assert parse(list(words)).fps == given.fps
