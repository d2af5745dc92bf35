"""A disk that fills up while checkpoints or metrics are written; with space again, the same command goes on."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fault_record import Injector
from fault_trainer import finish, fresh_seeds, pretrain, results, saved, wait_for_step, write_config

from trocar.ssl.engine import checkpoint

MIB = 1 << 20
NO_SPACE = {"small disk": "No space left on device", "file limit": "File too large"}


@dataclass
class Disk:
    """A place to write to that can be made small: a file system in memory, else a limit on the size of each file."""

    kind: str
    folder: Path
    bytes: int | None = None

    def hold(self, size: int | None) -> None:
        """So much, in bytes; None: plenty."""
        self.bytes = size
        if self.kind == "small disk":
            _mount("-o", f"remount,size={size or 64 * MIB}", str(self.folder))

    @property
    def options(self) -> dict[str, Any]:
        """For a process that writes there."""
        return {"file_limit": self.bytes} if self.kind == "file limit" else {}

    @property
    def workers(self) -> int:
        """A worker's batches in shared memory are files too."""
        return 0 if self.kind == "file limit" else 1

    def fill(self) -> None:
        """Nothing more goes in."""
        with (self.folder / "ballast").open("wb", buffering=0) as file:
            for piece in (MIB, 4096):
                try:
                    while file.write(b"\0" * piece):
                        pass
                except OSError:
                    continue

    def free(self) -> None:
        """As before `fill`."""
        (self.folder / "ballast").unlink()


def _mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@pytest.fixture(params=NO_SPACE)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "file limit":
        yield Disk("file limit", folder)
        return
    if os.geteuid() != 0 or not _mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)):
        pytest.skip("mounting a small disk needs root; the limit on the size of files stands in for it")
    yield Disk("small disk", folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_while_a_checkpoint_is_written_keeps_the_last_good_one(
    shards: Path, undisturbed: Path, disk: Disk, inject: Injector
) -> None:
    out = disk.folder / "run"
    config = write_config(shards, out)
    promise = "says where, keeps the checkpoint before; with space again the same command ends equal to the bit"
    for seed in fresh_seeds(2):
        # A checkpoint is 3.5 MiB: none fits, or the second or third doesn't.
        size = random.Random(seed).randrange(MIB, 10 * MIB if disk.kind == "small disk" else 3 * MIB)
        with inject(f"full ({disk.kind})", "checkpoint", promise, seed=seed, at=f"{size} bytes") as injection:
            disk.hold(size)
            run = pretrain(config, **disk.options)
            assert run.end() == 1, run.said()
            assert f"cannot write a checkpoint to {out / 'checkpoints'}: " in run.said()
            kept = checkpoint.steps(out)
            assert (f"newest complete checkpoint is step {kept[-1]}" if kept else "no earlier checkpoint") in run.said()
            for step in kept:
                injection.compare(saved(undisturbed, step), saved(out, step))
            disk.hold(None)
            finish(config)
            injection.compare(results(undisturbed), results(out))
            subprocess.run(["rm", "-r", str(out)], check=True)


def test_a_full_disk_while_a_row_is_logged_names_the_file(
    shards: Path, undisturbed: Path, disk: Disk, inject: Injector
) -> None:
    out = disk.folder / "run"
    config = write_config(shards, out, run={"workers": disk.workers, "checkpoint_every": 1000})
    promise = "names the file; with space again the same command ends equal to the bit"
    (seed,) = fresh_seeds(1)
    with inject(f"full ({disk.kind})", "metrics", promise, seed=seed) as injection:
        draw = random.Random(seed)
        disk.hold(draw.randrange(5000, 8000) if disk.kind == "file limit" else None)
        run = pretrain(config, **disk.options)
        if disk.kind == "small disk":
            wait_for_step(run, out, draw.randrange(4))
            disk.fill()
        assert run.end() == 1, run.said()
        assert f"{out / 'metrics' / '0001.jsonl'}: " in run.said()
        if disk.kind == "small disk":
            disk.free()
        disk.hold(None)
        finish(config)
        injection.compare(results(undisturbed), results(out))
