"""What is made to be shared has no folder of the machine it was made on."""

from __future__ import annotations

from pathlib import Path

import pytest

from trocar.privacy.redaction import html_without_folders, tree_without_folders, without_folders


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("/home/jane/work/runs/a", ".../runs/a"),
        ("/home/jane", "..."),
        ("/home/jane/shards", ".../shards"),
        ("/Users/jane doe/My Videos/shards", ".../My Videos/shards"),
        ("/data/chole/op 1.mp4", ".../chole/op 1.mp4"),
        ("no catalog in /scratch/jane/x/shards: run ingest", "no catalog in .../x/shards: run ingest"),
        ("'/scratch/x/a.yaml', \"/scratch/x/b.yaml\"", "'.../x/a.yaml', \".../x/b.yaml\""),
        ("sqlite:////scratch/jane/mlflow.db", "sqlite:.../jane/mlflow.db"),
        ("file:///scratch/jane/mlartifacts", "file:.../jane/mlartifacts"),
        ("runs/a, ../shards and ./x/y", "runs/a, ../shards and ./x/y"),
        ("https://mlflow.example.org/api/2.0/runs", "https://mlflow.example.org/api/2.0/runs"),
        ("frames/s, test/train/val, 12/24 steps", "frames/s, test/train/val, 12/24 steps"),
        ("$SLURM_TMPDIR/a/b", "$SLURM_TMPDIR/a/b"),
    ],
)
def test_absolute_paths_keep_their_last_two_parts_and_nothing_of_a_home(given: str, shown: str) -> None:
    assert without_folders(given) == shown


def test_the_home_of_this_user_is_left_out_wherever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/net/people/jane doe"))
    assert without_folders("in /net/people/jane doe/runs/a: gone") == "in ~/runs/a: gone"


def test_trees_and_pages_lose_them_in_text_and_descriptions_only() -> None:
    tree = {"data": {"catalog": "/home/jane/shards"}, "seeds": [1, "/data/x/y"]}
    assert tree_without_folders(tree) == {"data": {"catalog": ".../shards"}, "seeds": [1, ".../x/y"]}
    page = '<p>in /home/jane/a &amp; b</p><img alt="/home/jane/c/d" src="data:image/jpeg;base64,/9j/4AAQ/x">'
    shown = '<p>in .../a &amp; b</p><img alt=".../c/d" src="data:image/jpeg;base64,/9j/4AAQ/x">'
    assert html_without_folders(page) == shown
