"""`trocar fetch` of an archive keeps the one weight file in it; names of weights that are not loaded say why."""

from __future__ import annotations

import functools
import http.server
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from published_files import CASES

from trocar.backbones import load_backbone, weight_store
from trocar.backbones.published.family import BACKBONES
from trocar.backbones.published.unloadable import UNLOADABLE
from trocar.cli import main
from trocar.core.files import sha256_of
from trocar.errors import ConfigError, TrocarError

NAME = "peskavlp_resnet50"
CASE = next(case for case in CASES if case.name == NAME)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TROCAR_WEIGHTS", str(tmp_path / "store"))
    (tmp_path / "site").mkdir()
    torch.save(CASE.build()[1], tmp_path / "site" / "PeskaVLP.pth")
    handler = functools.partial(_Quiet, directory=str(tmp_path / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_the_weight_file_of_a_downloaded_archive_is_kept_and_loads(site: str, tmp_path: Path) -> None:
    weights = tmp_path / "site" / "PeskaVLP.pth"
    with zipfile.ZipFile(tmp_path / "site" / "share", "w") as archive:
        archive.writestr("README.txt", "weights")
        archive.write(weights, "PeskaVLP/PeskaVLP.pth")
    record = weight_store.fetch(BACKBONES.get(NAME), f"{site}/share?dl=1")
    assert (record.file, record.bytes, record.sha256) == (f"{NAME}.pth", weights.stat().st_size, sha256_of(weights))
    assert sorted(file.name for file in (weight_store.root() / NAME).iterdir()) == [
        ".lock",
        f"{NAME}.pth",
        "record.json",
    ]
    key = "layer1.0.conv1.weight"
    assert torch.equal(load_backbone(NAME).state_dict()[key], CASE.build()[1][f"backbone_img.model.{key}"])


def test_a_torch_file_without_an_ending_in_its_address_is_kept_as_it_is(site: str, tmp_path: Path) -> None:
    weights = tmp_path / "site" / "PeskaVLP.pth"
    weights.rename(weights.with_name("share"))
    record = weight_store.fetch(BACKBONES.get(NAME), f"{site}/share?dl=1")
    assert (record.file, record.sha256) == (f"{NAME}.pth", sha256_of(weights.with_name("share")))


def test_an_archive_of_several_weight_files_is_refused_and_nothing_kept(site: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "site" / "share", "w") as archive:
        archive.writestr("one.pth", b"1")
        archive.writestr("two.pth", b"2")
    with pytest.raises(TrocarError, match=r"several weight files \(one\.pth, two\.pth\)"):
        weight_store.fetch(BACKBONES.get(NAME), f"{site}/share")
    assert [file.name for file in (weight_store.root() / NAME).iterdir()] == [".lock"]


@pytest.mark.parametrize("name", UNLOADABLE)
def test_weights_that_are_not_loaded_say_what_they_are_under_which_licence_and_why(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for refused in (lambda: load_backbone(name), lambda: weight_store.entry(name)):
        with pytest.raises(ConfigError, match=rf"{name}: ViT-.*licence (unknown|CC-BY-NC-4\.0); .*takes clips"):
            refused()
    assert main.main(["fetch", "--list"]) == 0
    assert f"{name} " in capsys.readouterr().out
    assert name not in BACKBONES


def test_the_list_shows_a_licence_for_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["fetch", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for entry in BACKBONES.values():
        assert entry.family.licence
        (line,) = (line for line in lines if line.split()[0] == entry.name)
        assert line.split()[:3] == [entry.name, entry.architecture, entry.family.licence]
