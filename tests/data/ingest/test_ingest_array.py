"""An ingest in parts gives the catalog of one in one piece."""

import pytest
from ingest_clips import constant, make_clip

from trocar.data.catalog.catalog import Catalog
from trocar.data.ingest.options import IngestOptions
from trocar.data.ingest.output_folder import only_one
from trocar.data.ingest.run import merge, read_part, run_ingest, run_part, split, write_parts
from trocar.errors import ConfigError, TrocarError
from trocar.runs.lease import Lease


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for name, seconds in (("a", 1), ("b", 4), ("c", 2)):
        make_clip(folder / f"{name}.mp4", constant(25, 25 * seconds))
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def quiet(*_):
    pass


def options(clips, out):
    return IngestOptions(sources=(clips,), out=out)


def parts_of(clips, out, most):
    parts = split(options(clips, out), quiet, most)
    return [f"{write_parts(out / 'slurm', parts)}:{i}" for i in range(len(parts))]


def test_parts_hold_each_video_once_and_the_longest_alone(clips, tmp_path):
    parts = split(options(clips, tmp_path), quiet, 2)
    assert sorted(name for part in parts for name in part) == ["a", "b", "broken", "c"]
    assert ["b"] in parts
    assert len(split(options(clips, tmp_path), quiet, 100)) == 4
    assert list(tmp_path.iterdir()) == []


def test_parts_and_a_merge_make_the_catalog_of_one_ingest(clips, tmp_path):
    whole = run_ingest(options(clips, tmp_path / "whole"), quiet, quiet)
    for part in parts_of(clips, tmp_path / "parts", 3):
        run_part(options(clips, tmp_path / "parts"), part, quiet, quiet)
        assert not (tmp_path / "parts/catalog/catalog.json").exists()
    merged = merge(options(clips, tmp_path / "parts"), quiet)
    assert merged.fingerprint == whole.fingerprint
    assert merged.videos == 3
    assert [item.reason for item in merged.rejected] == [item.reason for item in whole.rejected]
    # nothing is missing, but what was rejected is tried again
    assert split(options(clips, tmp_path / "parts"), quiet, 9) == [["broken"]]


def test_a_part_that_runs_again_decodes_only_what_is_missing(clips, tmp_path):
    (part,) = parts_of(clips, tmp_path, 1)
    assert run_part(options(clips, tmp_path), part, quiet, quiet).ingested == 3
    (tmp_path / "videos/c.json").unlink()
    again = run_part(options(clips, tmp_path), part, quiet, quiet)
    assert (again.ingested, again.finished_before) == (1, 2)


def test_a_merge_names_what_failed_parts_left_out_and_keeps_the_rest(clips, tmp_path):
    parts = parts_of(clips, tmp_path, 4)
    missing = next(part for part in parts if read_part(part) == ["b"])
    for part in parts:
        if part != missing:
            run_part(options(clips, tmp_path), part, quiet, quiet)
    with pytest.raises(TrocarError, match=r"1 of 4 videos are missing.*such as b"):
        merge(options(clips, tmp_path), quiet)
    assert Catalog.open(tmp_path).videos["name"].to_pylist() == ["a", "c"]


def test_parts_work_side_by_side_and_not_beside_a_whole_ingest(clips, tmp_path):
    first, second = parts_of(clips, tmp_path, 2)
    with only_one(tmp_path, shared=True):
        run_part(options(clips, tmp_path), first, quiet, quiet)
        with pytest.raises(TrocarError, match="is writing here"):
            run_ingest(options(clips, tmp_path), quiet, quiet)
    with only_one(tmp_path), pytest.raises(TrocarError, match="is writing here"):
        run_part(options(clips, tmp_path), second, quiet, quiet)


def test_two_copies_of_one_part_do_not_work_at_once(clips, tmp_path):
    (part,) = parts_of(clips, tmp_path, 1)
    with (
        Lease.acquire(part.replace(":", "-") + ".lease", beat_s=0.1),
        pytest.raises(TrocarError, match="is being written by"),
    ):
        run_part(options(clips, tmp_path), part, quiet, quiet)


@pytest.mark.parametrize("text", ["nothing.json:0", "x", "{file}:7"])
def test_a_part_that_is_none_is_refused(clips, tmp_path, text):
    file = write_parts(tmp_path, [["a"]])
    with pytest.raises(ConfigError, match="--part"):
        read_part(text.format(file=file))
