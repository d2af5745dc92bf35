"""A catalog of another version or with files cut short: refused with what to do, and doing it gives it back."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from fault_record import Injector
from ingest_process import tree, words

from trocar.cli.main import main
from trocar.data.catalog.catalog import Catalog
from trocar.errors import ConfigError, TrocarError

PROMISE = "refused with what to do; `trocar ingest` again makes it the bytes of an undisturbed one"
FILES = ("catalog.json", "frames.arrow", "quality.parquet", "rejected.parquet", "shards.parquet", "videos.parquet")


@pytest.fixture(scope="module")
def ingested(clips: Path, undisturbed: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ingested")
    for name, content in undisturbed.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(content)
    return out


@pytest.fixture
def root(ingested: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(ingested, tmp_path / "shards"))


@pytest.mark.parametrize("version", [0, 1, None])
def test_a_catalog_of_another_version_is_refused(
    inject: Injector,
    clips: Path,
    undisturbed: dict[str, bytes],
    root: Path,
    version: int | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    header = root / "catalog/catalog.json"
    with inject("another version", "catalog", PROMISE, at=f"version {version}") as injection:
        header.write_text(json.dumps(json.loads(header.read_text()) | {"version": version}))
        with pytest.raises(
            ConfigError, match=f"catalog format {version}, this Trocar reads format 2; run `trocar ingest`"
        ):
            Catalog.open(root)
        assert main(["inspect", str(root)]) == 2
        assert str(root) in capsys.readouterr().err
        assert main(words(clips, root)) == 0
        injection.compare(undisturbed, tree(root))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", FILES)
def test_a_catalog_cut_short_is_refused(
    inject: Injector,
    clips: Path,
    undisturbed: dict[str, bytes],
    root: Path,
    name: str,
    seed: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    length = random.Random(f"{name} {seed}").randrange(len(undisturbed[f"catalog/{name}"]) - 1)
    with inject("cut short", "catalog", PROMISE, seed=seed, at=f"{name}, {length} bytes") as injection:
        with (root / "catalog" / name).open("r+b") as file:
            file.truncate(length)
        with pytest.raises(TrocarError, match=rf"{name}.*run `trocar ingest` again"):
            Catalog.open(root)
        assert main(["inspect", str(root)]) == 1
        assert name in capsys.readouterr().err
        assert main(words(clips, root)) == 0
        injection.compare(undisturbed, tree(root))


@pytest.mark.parametrize("name", FILES)
def test_a_catalog_file_that_is_gone_is_refused(
    inject: Injector, clips: Path, undisturbed: dict[str, bytes], root: Path, name: str
) -> None:
    with inject("a file missing", "catalog", PROMISE, at=name) as injection:
        (root / "catalog" / name).unlink()
        with pytest.raises(TrocarError, match=r"run the same `trocar ingest`|run `trocar ingest` again"):
            Catalog.open(root)
        assert main(words(clips, root)) == 0
        injection.compare(undisturbed, tree(root))


@pytest.mark.parametrize("seed", range(3))
def test_a_record_or_shard_cut_short_is_made_again(
    inject: Injector,
    clips: Path,
    undisturbed: dict[str, bytes],
    root: Path,
    seed: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is not the catalog's own: the next ingest notices, and says what it can't mend by itself."""
    rng = random.Random(seed)
    name = f"{('shards', 'videos', 'videos')[seed]}/v{rng.randrange(8):02d}{('-0000.tar', '.json', '.arrow')[seed]}"
    length = rng.randrange(len(undisturbed[name]))
    promise = "the next ingest makes it again, or says what to delete"
    with inject("cut short", "a finished video's files", promise, seed=seed, at=f"{name}, {length} bytes") as injection:
        with (root / name).open("r+b") as file:
            file.truncate(length)
        code = main(words(clips, root))
        if code:
            errors = capsys.readouterr().err
            assert str(root / name) in errors
            assert "delete" in errors
            (root / name).with_suffix(".json").unlink()
            code = main(words(clips, root))
        assert code == 0
        injection.compare(undisturbed, tree(root))
