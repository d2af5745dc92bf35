"""Two hospitals number their videos alike."""

from ingest_clips import constant, make_clip

from trocar.cli.main import main


def test_a_video_of_another_source_with_the_same_name_is_refused_and_nothing_is_lost(tmp_path, capsys):
    for hospital in ("a", "b"):
        (tmp_path / hospital).mkdir()
        make_clip(tmp_path / hospital / "video01.mp4", constant(25, 30 if hospital == "a" else 60))
    out = tmp_path / "shards"
    assert main(["ingest", str(tmp_path / "a"), "--out", str(out), "--workers", "1"]) == 0
    before = (out / "catalog" / "frames.arrow").read_bytes()
    capsys.readouterr()
    assert main(["ingest", str(tmp_path / "b"), "--out", str(out), "--workers", "1"]) == 2
    assert "--prefix" in capsys.readouterr().err
    assert (out / "catalog" / "frames.arrow").read_bytes() == before
    assert main(["ingest", str(tmp_path / "b"), "--out", str(out), "--workers", "1", "--prefix", "b-"]) == 0
