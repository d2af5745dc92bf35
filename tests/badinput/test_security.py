"""Hostile catalogs, files and addresses: refused with words, never followed, never run."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from data_factory import make_catalog
from hypothesis import given, settings
from hypothesis import strategies as st

import trocar
from trocar.cli.main import main
from trocar.core import config
from trocar.data.catalog.catalog import FRAME_SCHEMA, Catalog, inside
from trocar.data.ingest.sources.metadata import read_masks
from trocar.data.loading.reader import BadContentError, Reader
from trocar.downstream.datasets.readers import masks
from trocar.errors import ConfigError, TrocarError
from trocar.privacy.redaction import redact, redact_tree, secrets_in

BOUNDED = settings(max_examples=150, deadline=None, derandomize=True, database=None)
SOURCES = sorted(Path(trocar.__file__).parent.rglob("*.py"))


@cache
def calls() -> tuple[tuple[str, str, ast.Call], ...]:
    """(file, dotted name, call) of every call in the package."""
    return tuple(_calls())


def _calls() -> Iterator[tuple[str, str, ast.Call]]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield path.name, ast.unparse(node.func), node


def keyword(call: ast.Call, name: str) -> str | None:
    return next((ast.unparse(k.value) for k in call.keywords if k.arg == name), None)


def test_weights_are_loaded_without_running_what_a_pickle_asks_for() -> None:
    loads = [(file, call) for file, name, call in calls() if name == "torch.load"]
    assert len(loads) >= 2
    assert {file for file, call in loads if keyword(call, "weights_only") != "True"} == set()


def test_no_pickle_is_opened_but_by_an_unpickler_that_knows_what_it_lets_through() -> None:
    unsafe = {
        "pickle.load",
        "pickle.loads",
        "pickle.Unpickler",
        "joblib.load",
        "dill.load",
        "shelve.open",
        "marshal.loads",
    }
    assert [(file, name) for file, name, _ in calls() if name in unsafe] == []
    arrays = [(file, call) for file, name, call in calls() if name in ("np.load", "numpy.load")]
    assert arrays
    assert [file for file, call in arrays if keyword(call, "allow_pickle") not in (None, "False")] == []


def test_yaml_is_read_by_safe_loaders_only() -> None:
    unsafe = {"yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "yaml.full_load_all"}
    assert [(file, name) for file, name, _ in calls() if name in unsafe] == []
    loaders = {(file, keyword(call, "Loader")) for file, name, call in calls() if name == "yaml.load"}
    text = ("config.py", "yaml.BaseLoader")  # which makes nothing but text, lists and mappings
    assert loaders == {("masks.py", "_UniqueKeys"), ("config.py", "_Loader"), text}
    assert issubclass(masks._UniqueKeys, yaml.BaseLoader)
    assert issubclass(config._Loader, yaml.SafeLoader)


def test_no_text_is_run_as_code_or_by_a_shell() -> None:
    names = {"eval", "exec", "os.system", "os.popen", "subprocess.getoutput"}
    assert [(file, name) for file, name, _ in calls() if name in names] == []
    assert [(file, name) for file, name, call in calls() if keyword(call, "shell") not in (None, "False")] == []


def test_archives_are_never_unpacked_so_links_devices_and_ways_out_of_the_folder_lead_nowhere() -> None:
    # `x.extract` of a column of text or of features is no archive's.
    unpacking = ("extractall", "unpack_archive")
    assert [(file, name) for file, name, _ in calls() if name.rpartition(".")[2] in unpacking] == []
    assert [
        (file, name) for file, name, _ in calls() if name in ("tar.extract", "archive.extract", "book.extract")
    ] == []
    # Shards are read at the catalog's offsets. A tar is opened to be written, by a stream that can't seek, and for the
    # headers of tars that others wrote, which are neither compressed nor unpacked.
    opened = {
        (file, keyword(call, "mode") or ast.unparse(call.args[1]))
        for file, name, call in calls()
        if name == "tarfile.open"
    }
    assert opened == {("shard_writer.py", "'w|'"), ("tar_samples.py", "'r:'")}


@pytest.mark.parametrize(
    "path", ["../a.tar", "/etc/passwd", "a/../../b.tar", "", "a\\..\\b", "a\0b", "..", "shards/..", "//host/share"]
)
def test_paths_that_leave_the_catalog_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(TrocarError, match="outside of it"):
        inside(tmp_path, path)


@BOUNDED
@given(st.lists(st.sampled_from(["..", ".", "a", "b c", "", "~", "C:"]), min_size=1, max_size=6))
def test_a_path_of_the_catalog_is_inside_or_refused(parts: list[str]) -> None:
    root = Path("/srv/shards")
    try:
        found = inside(root, "/".join(parts))
    except TrocarError:
        return
    assert os.path.normpath(found).startswith(str(root))


def rewritten(catalog: Catalog, **columns: object) -> Catalog:
    """The same catalog with other frame columns, as an attacker would write it."""
    table = pa.ipc.open_file(str(catalog.root / "catalog" / "frames.arrow")).read_all()
    for name, values in columns.items():
        field = FRAME_SCHEMA.field(name)
        table = table.set_column(FRAME_SCHEMA.get_field_index(name), field, pa.array(values, field.type))
    path = catalog.root / "catalog" / "frames.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, FRAME_SCHEMA) as writer:
        writer.write_batch(table.combine_chunks().to_batches()[0])
    header = json.loads((catalog.root / "catalog" / "catalog.json").read_text())
    header["files"]["frames.arrow"] = path.stat().st_size
    (catalog.root / "catalog" / "catalog.json").write_text(json.dumps(header))
    return Catalog.open(catalog.root)


@pytest.mark.parametrize(
    ("column", "value"),
    [("shard", -1), ("shard", 99), ("offset", -5), ("size", -1), ("size", 2**31 - 1), ("offset", 2**60)],
)
def test_a_frame_that_is_nowhere_is_bad_content_and_not_a_crash(tmp_path: Path, column: str, value: int) -> None:
    catalog = rewritten(make_catalog(tmp_path, 1, 3), **{column: [value] * 3})
    with pytest.raises((BadContentError, TrocarError)):
        Reader(catalog).read(1)


def test_a_frame_that_claims_too_many_pixels_is_not_decoded(tmp_path: Path) -> None:
    catalog = rewritten(make_catalog(tmp_path, 1, 1), width=[65_000], height=[65_000])
    with pytest.raises(BadContentError, match="more than 64000000 pixels"):
        Reader(catalog).read(0)


def test_videos_that_are_not_the_frames_are_refused(tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path, 2, 3)
    table = catalog.videos.set_column(13, "rows", pa.array([3, 10**9], pa.int64()))
    assert catalog.videos.schema.names[13] == "rows"
    path = tmp_path / "catalog" / "videos.parquet"
    pq.write_table(table, path)
    header = json.loads((tmp_path / "catalog" / "catalog.json").read_text())
    header["files"]["videos.parquet"] = path.stat().st_size
    (tmp_path / "catalog" / "catalog.json").write_text(json.dumps(header))
    with pytest.raises(TrocarError, match="don't cover the 6 frames"):
        Catalog.open(tmp_path)


def test_masks_with_a_tag_that_builds_an_object_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "masks.yaml"
    path.write_text("ours: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ConfigError, match=r"masks\.yaml"):
        read_masks(path, ["ours"])


secrets = st.text("abcXYZ019!$&()*+,;=-._~/@:#%[]", min_size=4, max_size=16)


@BOUNDED
@given(st.sampled_from(["http", "postgresql+psycopg2", "mysql"]), secrets, secrets, st.integers(1, 65_535))
def test_credentials_in_an_address_are_redacted_however_they_are_written(scheme, user, password, port: int) -> None:
    encoded = f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@db.example:{port}/mlflow?x=1"
    assert redact(encoded) == f"{scheme}://***@db.example:{port}/mlflow?x=1"
    assert {user, password} <= set(secrets_in(encoded))
    assert redact_tree({"tracking": [{"uri": f"see {encoded}"}]}) == {
        "tracking": [{"uri": f"see {scheme}://***@db.example:{port}/mlflow?x=1"}]
    }


@pytest.mark.parametrize(
    "uri", ["mysql://ann:ge@heim@db/x", "mysql://ann:ge/heim@db/x", "mysql://ann:/heim@db/x", "http://heim@db/x"]
)
def test_passwords_that_nobody_encoded_are_redacted_too(uri: str) -> None:
    assert redact(uri) in ("mysql://***@db/x", "http://***@db/x")
    assert not any("heim" in redact(f"cannot connect to {uri}: {secret}") for secret in ("", "no route"))


@pytest.mark.parametrize(
    "text", ["http://host:5000/a@b/c", "sqlite:////data/mlflow.db", "see http://host/x, user@mail"]
)
def test_addresses_without_credentials_stay(text: str) -> None:
    assert redact(text) == text


def test_a_refused_override_does_not_print_the_password_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["pretrain", "small_dino", "tracking.urii=postgresql://ann:geheim@db/x", "data.catalog=a", "run.out=b"])
    error = capsys.readouterr().err
    assert code == 2
    assert "tracking.urii" in error
    assert "geheim" not in error
