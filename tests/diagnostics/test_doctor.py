import os
import re
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from data_factory import make_catalog

from trocar.cli.main import main
from trocar.core import resources
from trocar.data.loading.reader import BadRow
from trocar.data.views.recipe import ViewPlan
from trocar.diagnostics import checks
from trocar.diagnostics.backend_parity import HEIGHT, RECIPE, WIDTH, Parity, colour_gain, textured

GOOD = Parity(
    frames=8,
    views=48,
    same_rows=True,
    same_parameters=True,
    border=4,
    crop_p999=1.0,
    crop_max=5.0,
    edge_max=14.0,
    view_p999=3.0,
    view_share=0.5,
)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"same_rows": False}, "different frames"),
        ({"same_parameters": False}, "parameters differ"),
        ({"crop_p999": 3.0}, "crops differ by 3.0/255"),
        ({"view_share": 1.2}, "a view differs 1.20 times"),
    ],
)
def test_every_bound_of_the_parity_check_can_fail(change, words):
    assert GOOD.problems() == []
    assert [words in problem for problem in replace(GOOD, **change).problems()] == [True]


def test_the_colour_gain_bounds_what_augmentation_makes_of_a_difference():
    """On flat views at mid grey, where nothing is clamped, against augmentation itself."""
    from trocar.data.views.augment import augment

    params = ViewPlan(RECIPE, 3).params(0, np.arange(16), np.full(16, WIDTH), np.full(16, HEIGHT))
    gain = colour_gain(params).view(16, -1)
    low = {n: torch.full((16, g.count, 3, g.size, g.size), 100, dtype=torch.uint8) for n, g in RECIPE.groups.items()}
    high = {name: crops + 1 for name, crops in low.items()}
    views = [augment(crops, params, RECIPE, (0.0,) * 3, (1.0,) * 3) for crops in (low, high)]
    for name, which in RECIPE.slices().items():
        change = (views[1][name] - views[0][name]).abs().mul(255).flatten(2).amax(-1)
        assert (change <= gain[:, which] + 0.01).all()
        assert (change > 0.1).any()
    assert gain.min() > 0.5
    assert gain.max() < 12


def test_doctor_s_frames_have_detail_and_are_always_the_same():
    first = np.asarray(textured(0), np.float32)
    assert first.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(np.diff(first, axis=1)).mean() > 10
    assert (np.asarray(textured(0)) == first).all()
    assert (np.asarray(textured(1)) != first).mean() > 0.9


def quick(monkeypatch, **states):
    """Replace the checks of the machine by ones that say `states`, and the decoding by nothing."""
    for name in ("python", "pages", "shared_memory", "packages", "cuda", "ffmpeg", "mlflow", "slurm", "dali"):
        state = states.get(name, "ok")
        monkeypatch.setattr(checks, name, lambda name=name, state=state: checks.Check(name, state, "said", "do this"))
    monkeypatch.setattr(checks, "_decoding", lambda root: iter(states.get("decoding", ())))


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ({}, 0),
        ({"cuda": "absent", "dali": "absent", "slurm": "absent", "mlflow": "absent"}, 0),
        ({"packages": "failed"}, 1),
        ({"slurm": "failed"}, 1),
        ({"decoding": [checks.Check("parity cpu", "failed", "differs")]}, 1),
    ],
)
def test_the_exit_code_says_whether_anything_failed(monkeypatch, capsys, states, code):
    quick(monkeypatch, **states)
    assert main(["doctor"]) == code
    printed = capsys.readouterr().out
    assert ("FAILED" in printed.splitlines()[-1]) == bool(code)
    assert "-> do this" in printed


def test_backends_are_not_compared_without_the_packages(monkeypatch):
    quick(monkeypatch, packages="failed", decoding=[checks.Check("parity cpu", "ok", "")])
    assert "parity cpu" not in [check.name for check in checks.all_checks()]


def test_parity_on_a_gpu_is_for_the_default_decoder_and_for_the_engine(monkeypatch):
    asked = []

    def parity(catalog, device, hw_decoder_load=0.0):
        asked.append((device.type, hw_decoder_load))
        return checks.Check(f"parity {device.type}", "failed" if hw_decoder_load else "ok", "crops p99.9")

    monkeypatch.setattr(checks, "_parity", parity)
    monkeypatch.setattr("trocar.data.loading.dali_pipeline.is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = list(checks._parities(None))
    assert asked == [("cpu", 0.0), ("cuda", 0.0), ("cuda", 1.0)]
    assert [check.state for check in found] == ["ok", "ok", "absent"]
    assert found[2].found == "hw_decoder_load 1: crops p99.9"
    assert "leave data.hw_decoder_load at 0" in found[2].remedy


def test_a_package_that_does_not_load_is_named(monkeypatch):
    monkeypatch.setattr(checks, "IMPORTED", ("torch", "no_such_module"))
    monkeypatch.setattr(checks, "INSTALLED", ("pydantic", "no-such-distribution"))
    found = checks.packages()
    assert found.state == "failed"
    assert "no-such-distribution (not installed)" in found.found
    assert "no_such_module (ModuleNotFoundError" in found.found


@pytest.mark.parametrize(
    ("setting", "state", "remedy"),
    [
        ("always [madvise] never", "ok", ""),
        ("always madvise [never]", "absent", "echo madvise | sudo tee"),
        (None, "absent", "only a matter of speed"),
    ],
)
def test_huge_pages_that_nobody_gets_are_named_with_the_remedy(monkeypatch, tmp_path, setting, state, remedy):
    monkeypatch.setattr(resources, "SETTING", tmp_path / "enabled")
    if setting is not None:
        (tmp_path / "enabled").write_text(setting + "\n")
    found = checks.pages()
    assert found.state == state
    assert remedy in found.remedy


@pytest.mark.parametrize(("mib", "state"), [(64, "absent"), (16384, "ok")])
def test_a_shared_memory_of_a_container_is_named_with_its_remedy(monkeypatch, mib, state):
    size = os.statvfs_result((4096, 4096, mib * 256, *[0] * 7))
    monkeypatch.setattr(os, "statvfs", lambda path: size)
    found = checks.shared_memory()
    assert found.state == state
    assert f"{mib / 1024:,.2f} GiB" in found.found
    assert ("--shm-size=16g" in found.remedy) == (state == "absent")


def test_a_gpu_that_torch_does_not_see_is_a_failure(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert checks.cuda().state == "failed"
    assert "CUDA_VISIBLE_DEVICES=0" in checks.cuda().found
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert checks.cuda().state == "absent"


def test_slurm_is_absent_half_there_or_asked(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert checks.slurm().state == "absent"
    for name, code in (("sbatch", 0), ("sinfo", 1)):
        (tmp_path / name).write_text(f"#!/bin/sh\necho 'slurm 24.05'\nexit {code}\n")
        (tmp_path / name).chmod(0o755)
    assert checks.slurm().found == "sacct not on the PATH"
    (tmp_path / "sacct").symlink_to(tmp_path / "sbatch")
    assert checks.slurm().found == "sinfo --version exits 1: slurm 24.05"
    (tmp_path / "sinfo").write_text("#!/bin/sh\necho 'slurm 24.05'\n")
    assert (checks.slurm().state, checks.slurm().found) == ("ok", "slurm 24.05")


def test_a_command_that_hangs_is_a_failure(monkeypatch):
    def hang(command, **kwargs):
        raise subprocess.TimeoutExpired(command, kwargs["timeout"])

    monkeypatch.setattr(subprocess, "run", hang)
    assert "timed out" in checks._run("slurm", ["sinfo"], "").found


def test_the_user_s_own_frames_are_compared(tmp_path, monkeypatch, capsys):
    pytest.importorskip("nvidia.dali")
    make_catalog(tmp_path, 1, 6, size=(160, 120))
    own = checks._decoding
    quick(monkeypatch)
    monkeypatch.setattr(checks, "_decoding", own)
    assert main(["doctor", "--catalog", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "6 frames read" in printed
    assert re.search(r"torch and DALI on 6 frames, 48 views: crops p99.9 \d/255 \(bound 2\)", printed)
    assert main(["doctor", "--catalog", str(tmp_path / "nowhere")]) == 2


def test_a_bad_frame_of_the_user_is_named(tmp_path, monkeypatch):
    from trocar.data.loading.batch import Batch
    from trocar.data.loading.loader import Loader

    catalog = make_catalog(tmp_path, 1, 4)
    bad = Batch(0, np.arange(4), {}, None, [BadRow(2, "checksum differs from the catalog")])
    monkeypatch.setattr(Loader, "batch", lambda self, step: bad)
    assert checks._loading(catalog).found == "1 bad frame(s); first: checksum differs from the catalog"
