"""`trocar fetch`: whole and checked or not at all, recorded, and compared at every later load."""

from __future__ import annotations

import dataclasses
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from published_files import CASES
from registry_factory import changeable

from trocar.backbones import load_backbone, weight_store
from trocar.backbones.published.family import BACKBONES
from trocar.backbones.source import origin_of
from trocar.backbones.weight_store import fetch
from trocar.cli import main
from trocar.core.files import sha256_of
from trocar.errors import ConfigError, TrocarError
from trocar.leakage.exposure import by_identity, exposure_of
from trocar.leakage.verdict import Verdict

NAME = "surgenetxl_caformer_s18"
CASE = next(case for case in CASES if case.name == NAME)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TROCAR_WEIGHTS", str(tmp_path / "store"))
    (tmp_path / "site").mkdir()
    torch.save(CASE.build()[1], tmp_path / "site" / "teacher.pth")
    return tmp_path / "site" / "teacher.pth"


@pytest.fixture
def site(weights: Path) -> Iterator[str]:
    """A web server of the folder; `/cut/...` ends the connection in the middle of the file."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(weights.parent))  # type: ignore[arg-type]

        def do_GET(self) -> None:
            if not self.path.startswith("/cut/"):
                return super().do_GET()
            data = weights.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])

        def log_message(self, *args: object) -> None:
            """Nobody reads it."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_download_is_recorded_and_loads_by_name(site: str, weights: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    record = fetch(BACKBONES.get(NAME), f"{site}/teacher.pth?download=true", lambda *step: seen.append(step))
    assert (record.file, record.bytes, record.sha256) == ("teacher.pth", weights.stat().st_size, sha256_of(weights))
    assert seen[-1] == (record.bytes, record.bytes)
    origin = origin_of(load_backbone(NAME))
    assert origin is not None
    assert origin.sha256 == record.sha256
    assert fetch(BACKBONES.get(NAME), "http://127.0.0.1:9/gone") == record  # there already: nothing is downloaded


def test_nothing_is_kept_of_a_download_that_fails(site: str, weights: Path) -> None:
    for path, message in (
        ("cut/teacher.pth", "the connection ended|IncompleteRead"),
        ("gone.pth", "File not found|404"),
    ):
        with pytest.raises(TrocarError, match=message):
            fetch(BACKBONES.get(NAME), f"{site}/{path}")
    with pytest.raises(TrocarError, match="Nothing was kept"):
        fetch(BACKBONES.get(NAME), "http://127.0.0.1:9/teacher.pth")
    assert sorted(p.name for p in (weight_store.root() / NAME).iterdir()) == [".lock"]


def test_a_file_of_another_model_is_not_kept_under_the_name(weights: Path) -> None:
    with pytest.raises(TrocarError, match="no weights where files of SelfSupSurg have them"):
        fetch(BACKBONES.get("selfsupsurg_dino_resnet50"), str(weights))
    assert weight_store.read_record("selfsupsurg_dino_resnet50") is None


def test_a_fetched_file_that_changed_is_refused(weights: Path) -> None:
    fetch(BACKBONES.get(NAME), str(weights))
    file = weight_store.root() / NAME / "teacher.pth"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(TrocarError, match="has changed or was damaged"):
        load_backbone(NAME)
    file.unlink()
    with pytest.raises(TrocarError, match=f"is gone; run trocar fetch {NAME}"):
        load_backbone(NAME)


def test_a_published_sha256_is_demanded(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = dataclasses.replace(BACKBONES.get(NAME), sha256="0" * 64)
    with pytest.raises(TrocarError, match="has sha256"):
        fetch(entry, str(weights))
    assert weight_store.read_record(NAME) is None


def test_the_command_fetches_lists_and_refuses(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["fetch", NAME, "--from", str(weights)]) == 0
    out = capsys.readouterr().out
    assert sha256_of(weights) in out
    assert "CC-BY-NC-SA-4.0" in out
    assert main.main(["fetch", "--list"]) == 0
    listed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [NAME, "caformer_s18_relu", "CC-BY-NC-SA-4.0", "fetched"] in listed
    assert main.main(["fetch", "surgenetxl_caformer_s81"]) == 2
    assert f"did you mean '{NAME}'" in capsys.readouterr().err
    assert main.main(["fetch", "dinov3_vits16"]) == 2
    error = capsys.readouterr().err
    assert "dinov3_vits16_pretrain_lvd1689m-08c60483.pth after a form" in error
    assert "--from FILE" in error


def test_without_a_fetched_file_the_error_says_both_ways(weights: Path) -> None:
    with pytest.raises(ConfigError, match=rf"trocar fetch {NAME} .* {NAME}@/path/to/file"):
        load_backbone(NAME)


def test_another_file_for_a_name_that_is_there_is_refused_and_the_same_one_is_fine(weights: Path) -> None:
    record = fetch(BACKBONES.get(NAME), str(weights))
    assert fetch(BACKBONES.get(NAME), str(weights)) == record
    other = weights.with_name("other.pth")
    torch.save(CASE.build(seed=8)[1], other)
    with pytest.raises(ConfigError, match=r"has another file already, teacher\.pth; delete"):
        fetch(BACKBONES.get(NAME), str(other))
    assert weight_store.read_record(NAME) == record


def test_weights_that_are_not_finite_are_named_and_not_kept(weights: Path) -> None:
    content = CASE.build()[1]
    content["norm.weight"][3] = float("nan")
    torch.save(content, weights)
    for load in (lambda: fetch(BACKBONES.get(NAME), str(weights)), lambda: load_backbone(f"{NAME}@{weights}")):
        with pytest.raises(TrocarError, match=r"norm\.weight: NaN or infinity"):
            load()
    assert weight_store.read_record(NAME) is None


def test_a_weights_folder_that_is_a_file_is_named(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TROCAR_WEIGHTS", str(weights))
    with pytest.raises(ConfigError, match=r"TROCAR_WEIGHTS=.* is not a folder"):
        load_backbone(NAME)


def verdict(name: str) -> Verdict:
    """On a test video of Cholec80, by names alone."""
    return Verdict.worst(f.verdict for part in exposure_of(name).parts for f in by_identity(part, [("cholec80", "41")]))


def known(entry: str, monkeypatch: pytest.MonkeyPatch, **facts: str | None) -> None:
    """The entry with another address or sha256 than it ships with."""
    changed = dataclasses.replace(BACKBONES.get(entry), **facts)
    registry = changeable(BACKBONES, monkeypatch)
    registry.unregister(entry)
    registry.register(changed)


def test_a_file_counts_as_published_only_if_it_was_fetched_from_there_or_has_its_sha256(
    site: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = "selfsupsurg_mocov2_resnet50"  # saw Cholec80's training videos alone
    case = next(case for case in CASES if case.name == clean)
    file = weights.with_name("ssl.torch")
    torch.save(case.build()[1], file)
    assert verdict(clean) is Verdict.CLEAN  # what is published, as long as nothing else can be loaded under the name
    assert verdict(f"{clean}@{file}") is Verdict.UNKNOWN
    fetch(BACKBONES.get(clean), str(file))
    assert verdict(clean) is Verdict.UNKNOWN
    shutil.rmtree(weight_store.root() / clean)
    fetch(BACKBONES.get(clean), f"{site}/{file.name}")
    assert verdict(clean) is Verdict.UNKNOWN  # another address than the entry's
    known(clean, monkeypatch, url=f"{site}/{file.name}")
    assert verdict(clean) is Verdict.CLEAN
    assert verdict(f"{clean}@{file}") is Verdict.CLEAN  # the same bytes
    other = weights.with_name("other.torch")
    torch.save(case.build(seed=8)[1], other)
    assert verdict(f"{clean}@{other}") is Verdict.UNKNOWN
    known(clean, monkeypatch, url=None, sha256=sha256_of(other))
    assert verdict(f"{clean}@{other}") is Verdict.CLEAN
    assert verdict(clean) is Verdict.UNKNOWN


def test_what_a_claimed_name_is_known_to_have_seen_still_counts(weights: Path) -> None:
    assert verdict(f"{NAME}@{weights}") is Verdict.SUSPECT  # SurgeNet saw 76 of Cholec80's 80


def test_the_command_says_when_a_file_is_not_known_to_be_the_published_one(
    site: str, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["fetch", NAME, "--from", str(weights)]) == 0
    assert "verdicts on test data count it as unknown" in capsys.readouterr().out
    shutil.rmtree(weight_store.root() / NAME)
    known(NAME, monkeypatch, url=f"{site}/teacher.pth")
    assert main.main(["fetch", NAME]) == 0
    assert "unknown" not in capsys.readouterr().out
