import json
import pickle
import resource
import signal
from pathlib import Path

import pytest
import torch

from trocar.core.files import sha256_of
from trocar.errors import ConfigError, TrocarError
from trocar.ssl.engine import checkpoint
from trocar.ssl.methods import default


def write(run, step, value=0.0):
    def backbone(folder):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        return {"config.json": sha256_of(folder / "config.json")}

    state = {"method": {"w": torch.full((64,), value)}, "skipped": 0}
    return checkpoint.save(run, step, state, backbone, {"identity": {"data": "d"}})


def flip_a_bit(path, where=0.5):
    data = bytearray(path.read_bytes())
    data[int(len(data) * where)] ^= 1
    path.write_bytes(bytes(data))


def silent(line):
    raise AssertionError(line)


def test_what_is_saved_comes_back(tmp_path):
    write(tmp_path, 5, 2.5)
    found = checkpoint.load_latest(tmp_path, silent)
    assert found.step == 5
    assert torch.equal(found.state["method"]["w"], torch.full((64,), 2.5))
    assert found.manifest["identity"] == {"data": "d"}
    files = found.manifest["files"]
    assert files == {name: sha256_of(found.path / name) for name in ("state.pt", "backbone/config.json")}


@pytest.mark.parametrize("where", [0.1, 0.5, 0.9])
def test_a_flipped_bit_is_found_and_the_checkpoint_before_is_used(tmp_path, where):
    write(tmp_path, 5, 1.0)
    flip_a_bit(write(tmp_path, 10, 2.0) / "state.pt", where)
    said = []
    found = checkpoint.load_latest(tmp_path, said.append)
    assert found.step == 5
    assert "step-00000010 is damaged (state.pt does not match its sha256)" in said[0]
    assert (tmp_path / "checkpoints" / "damaged-step-00000010").is_dir()


@pytest.mark.parametrize("damage", ["truncate", "remove", "manifest"])
def test_other_damage_is_found_too(tmp_path, damage):
    write(tmp_path, 5)
    folder = write(tmp_path, 10)
    if damage == "truncate":
        (folder / "state.pt").write_bytes((folder / "state.pt").read_bytes()[:100])
    elif damage == "remove":
        (folder / "backbone" / "config.json").unlink()
    else:
        (folder / "manifest.json").write_text('{"step": 10, "fil')
    assert checkpoint.load_latest(tmp_path, lambda line: None).step == 5


def test_no_good_checkpoint_is_said_and_never_a_silent_start_over(tmp_path):
    assert checkpoint.load_latest(tmp_path, silent) is None
    flip_a_bit(write(tmp_path, 5) / "state.pt")
    with pytest.raises(TrocarError, match="none of its 1 checkpoints is whole"):
        checkpoint.load_latest(tmp_path, lambda line: None)


def test_a_folder_under_another_step_s_name_is_damaged(tmp_path):
    write(tmp_path, 5).rename(tmp_path / "checkpoints" / "step-00000010")
    assert checkpoint.verify(tmp_path / "checkpoints" / "step-00000010") == "its manifest says step 5"


def test_a_half_written_checkpoint_is_never_looked_at(tmp_path):
    write(tmp_path, 5)
    half = tmp_path / "checkpoints" / ".step-00000010.tmp"
    half.mkdir()
    (half / "state.pt").write_bytes(b"half")
    assert checkpoint.load_latest(tmp_path, silent).step == 5
    assert not half.exists()


def test_a_manifest_that_says_something_else_than_was_written_is_damaged(tmp_path):
    manifest = write(tmp_path, 5) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"data": "d"', '"data": "e"'))
    assert checkpoint.verify(manifest.parent) == "its manifest does not match its own sha256"


def test_who_may_publish_no_more_publishes_nothing(tmp_path):
    def lost():
        raise TrocarError("the lease is lost")

    with pytest.raises(TrocarError, match="the lease is lost"):
        checkpoint.save(tmp_path, 5, {}, lambda folder: {}, {}, lost)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_failing_write_leaves_nothing_and_names_the_last_good_step(tmp_path):
    write(tmp_path, 5)

    def full_disk(folder):
        raise OSError(28, "No space left on device")

    with pytest.raises(TrocarError, match=r"No space left.*newest complete checkpoint is step 5"):
        checkpoint.save(tmp_path, 10, {}, full_disk, {})
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000005"]


def test_torch_s_complaint_is_replaced_by_the_system_s(tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limit[1]))
    try:
        with pytest.raises(TrocarError, match=r"cannot write a checkpoint to .*: File too large; there is no earlier"):
            checkpoint.save(tmp_path, 5, {"weight": torch.zeros(100_000)}, lambda folder: {}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)


def test_a_writer_that_keeps_the_system_s_words_to_itself_is_helped_with_the_free_space(tmp_path, monkeypatch):
    def full(*args):
        raise RuntimeError("enforce fail at inline_container.cc: unexpected pos 64 vs 0\nframe #0: 0x7f")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        TrocarError, match=r"unexpected pos 64 vs 0 \(\d+ MiB free there\); there is no earlier"
    ) as error:
        write(tmp_path, 5)
    assert "frame #0" not in str(error.value)


def test_the_last_ones_and_the_milestones_are_kept(tmp_path):
    for step in range(1, 8):
        write(tmp_path, step)
    checkpoint.prune(tmp_path, keep_last=2, milestone_every=3)
    assert checkpoint.steps(tmp_path) == [3, 6, 7]


def test_another_recipe_is_refused_with_the_fields_and_can_be_allowed(tmp_path):
    old = {"data": "d", "recipe": {"optim": {"lr": 1e-3}, "train": {"batch": 8}}}
    new = {"data": "d", "recipe": {"optim": {"lr": 2e-3}, "train": {"batch": 8}}}
    assert checkpoint.check_same(old, old, (), tmp_path) == []
    with pytest.raises(ConfigError, match=r"recipe\.optim\.lr: 0\.001 in the checkpoint, 0\.002 now"):
        checkpoint.check_same(old, new, (), tmp_path)
    assert len(checkpoint.check_same(old, new, ("recipe.optim",), tmp_path)) == 1
    with pytest.raises(ConfigError, match="data"):
        checkpoint.check_same(old, {**old, "data": "e"}, ("recipe.optim",), tmp_path)


@pytest.mark.parametrize("method", ["dino", "dinov2", "augmented_distillation", "moco_v2", "moco_v3", "simclr", "swav"])
def test_a_run_from_before_crops_had_an_interpolation_is_not_gone_on_with_in_silence(tmp_path, method):
    recipe = default(method).model_dump(mode="json", by_alias=True)
    new = {"recipe": {"method": recipe}}
    old = json.loads(json.dumps(new), object_pairs_hook=without_what_is_new)
    assert checkpoint.check_same(new, new, (), tmp_path) == []
    with pytest.raises(ConfigError, match=r"interpolation: None in the checkpoint, 'b(icubic|ilinear)' now"):
        checkpoint.check_same(old, new, (), tmp_path)


def without_what_is_new(pairs):
    return {key: value for key, value in pairs if key not in ("interpolation", "teacher_temperature_stairs")}


def test_a_fingerprint_may_differ_by_rounding_but_not_by_weights(tmp_path):
    saved = {"recipe": {"teacher": "f1:-0.0134952:0.991811:1.23456:-0.5:0.25"}}
    rounded = {"recipe": {"teacher": "f1:-0.0134951:0.991812:1.23455:-0.5:0.25"}}
    assert checkpoint.check_same(saved, rounded, (), tmp_path) == []
    for other in ("f1:-0.0134952:0.991811:1.24456:-0.5:0.25", "another", 3):
        with pytest.raises(ConfigError, match=r"recipe\.teacher"):
            checkpoint.check_same(saved, {"recipe": {"teacher": other}}, (), tmp_path)


def test_states_load_without_pickled_code(tmp_path):
    folder = write(tmp_path, 5)
    torch.save({"evil": Path("x")}, folder / "state.pt")
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        checkpoint.load(folder)
