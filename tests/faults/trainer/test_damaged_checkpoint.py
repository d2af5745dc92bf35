"""A checkpoint that is not what was written: the one before is used, that is said, and the end is the same."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from fault_record import Injector
from fault_trainer import finish, fresh_seeds, results, write_config

from trocar.ssl.engine import checkpoint

KEPT = (16, 18, 20)
FILES = ("state.pt", "manifest.json", "backbone/model.safetensors", "backbone/config.json")


def left_by_a_kill(undisturbed: Path, out: Path) -> None:
    """The folder of a run killed after step 20, with three checkpoints."""
    for step in KEPT:
        shutil.copytree(checkpoint.path_of(undisturbed, step), checkpoint.path_of(out, step))
    (out / "metrics").mkdir()
    lines = (undisturbed / "metrics" / "0001.jsonl").read_bytes().splitlines(keepends=True)
    (out / "metrics" / "0001.jsonl").write_bytes(b"".join(line for line in lines if json.loads(line)["step"] < 20))
    shutil.copy(undisturbed / "run.json", out / "run.json")


def cut_short(folder: Path, draw: random.Random) -> str:
    path = folder / draw.choice(FILES)
    content = path.read_bytes()
    length = draw.randrange(len(content))
    path.write_bytes(content[:length])
    return f"{path.name} at byte {length}"


def flip_bits(folder: Path, draw: random.Random) -> str:
    path = folder / draw.choice(FILES)
    content = bytearray(path.read_bytes())
    places = draw.sample(range(8 * len(content)), draw.choice([1, 1, 8]))
    for place in places:
        content[place // 8] ^= 1 << place % 8
    path.write_bytes(bytes(content))
    return f"{path.name}, bits {places}"


def empty(folder: Path, draw: random.Random) -> str:
    path = folder / draw.choice(FILES)
    path.write_bytes(b"")
    return path.name


def lose_a_file(folder: Path, draw: random.Random) -> str:
    path = folder / draw.choice(FILES)
    path.unlink()
    return path.name


DAMAGES = {"cut short": cut_short, "flipped bits": flip_bits, "empty file": empty, "missing file": lose_a_file}


@pytest.mark.parametrize("fault", DAMAGES)
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(
    shards: Path, undisturbed: Path, tmp_path: Path, inject: Injector, fault: str
) -> None:
    for seed in fresh_seeds(2):
        out = tmp_path / str(seed) / "run"
        left_by_a_kill(undisturbed, out)
        draw = random.Random(seed)
        damaged = KEPT[-draw.choice([1, 1, 2]) :]  # the newest, sometimes the one before as well
        at = "; ".join(DAMAGES[fault](checkpoint.path_of(out, step), draw) for step in damaged)
        promise = "the one before is used, it is said, the end is equal to the bit"
        with inject(fault, "checkpoint", promise, seed=seed, at=at) as injection:
            said = finish(write_config(shards, out))
            for step in damaged:
                assert f"checkpoint step-{step:08d} is damaged" in said
            assert f"resuming {out} after step {damaged[0] - 2} of" in said
            injection.compare(results(undisturbed), results(out))


def test_a_checkpoint_that_is_gone_is_as_if_it_had_never_been(
    shards: Path, undisturbed: Path, tmp_path: Path, inject: Injector
) -> None:
    out = tmp_path / "run"
    left_by_a_kill(undisturbed, out)
    shutil.rmtree(checkpoint.path_of(out, 20))
    with inject("missing", "checkpoint", "the one before is used, the end is equal to the bit") as injection:
        assert f"resuming {out} after step 18 of" in finish(write_config(shards, out))
        injection.compare(results(undisturbed), results(out))
