"""Whatever a configuration holds: it round-trips, a stranger in it is named, an override sets what it says."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trocar.core.config import fingerprint, load, preset_names, validate
from trocar.data.selection.composition import Amount, Composition, Curation, VideoFilter
from trocar.errors import ConfigError
from trocar.ssl.run.pretrain_config import PretrainConfig

BOUNDED = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
PLACES = ["data.catalog=shards", "run.out=run"]

words = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
lists = st.none() | st.lists(words, min_size=1, max_size=3)
matches = st.builds(VideoFilter, source=lists, hospital=lists, procedure=lists, case=lists, split=lists)
amounts = st.builds(
    Amount,
    cases=st.none() | st.integers(1, 10**6),
    hours=st.none() | st.floats(1e-3, 1e6),
    per=st.lists(st.sampled_from(["source", "hospital", "procedure"]), unique=True),
)
compositions = st.builds(
    Composition,
    include=st.lists(matches, max_size=2),
    exclude=st.lists(matches, max_size=2),
    sample=amounts,
    sample_seed=st.integers(-(2**31), 2**31),
    on_short=st.sampled_from(["error", "skip"]),
    fps=st.none() | st.floats(1e-3, 240),
    curate=st.sampled_from(["default", "none"]) | st.builds(Curation, out_of_body=st.none() | st.floats(0, 1)),
    weights=st.sampled_from(["proportional", "sqrt", "uniform"])
    | st.dictionaries(words, st.floats(0, 1e6), min_size=1, max_size=3),
    max_repeat=st.none() | st.floats(1e-3, 1e6),
)


@BOUNDED
@given(compositions)
def test_a_composition_survives_its_own_yaml(tmp_path: Path, composition: Composition) -> None:
    path = tmp_path / "composition.yaml"
    path.write_text(yaml.safe_dump(composition.model_dump(mode="json"), allow_unicode=True), encoding="utf-8")
    read = load(Composition, path)
    assert read == composition
    assert fingerprint(read) == fingerprint(composition)


@pytest.mark.parametrize("name", [name for name in preset_names() if name.startswith(("pretrain/", "small_"))])
def test_a_preset_survives_its_own_yaml(tmp_path: Path, name: str) -> None:
    config = load(PretrainConfig, name, PLACES)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", by_alias=True)), encoding="utf-8")
    assert load(PretrainConfig, path) == config


def sections(tree: Any, place: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The places of all mappings of a configuration."""
    found = [place]
    for key, value in tree.items():
        if isinstance(value, dict):
            found += sections(value, (*place, key))
    return found


SMALL = load(PretrainConfig, "small_dino", PLACES).model_dump(mode="json", by_alias=True)


@BOUNDED
@given(st.sampled_from(sections(SMALL)), st.text(string.ascii_lowercase + "_", min_size=1, max_size=12))
def test_a_key_that_no_model_has_is_refused_by_its_full_name(place: tuple[str, ...], key: str) -> None:
    stranger = f"zz_{key}"
    override = ".".join([*place, stranger]) + "=1"
    with pytest.raises(ConfigError) as error:
        load(PretrainConfig, "small_dino", [*PLACES, override])
    assert f"unknown key '{'.'.join([*place, stranger])}'" in str(error.value)


@BOUNDED
@given(st.integers(1, 10**9), st.floats(1e-9, 1e3), st.lists(words, min_size=1, max_size=3))
def test_an_override_sets_what_it_says_and_nothing_else(seed: int, repeat: float, hospitals: list[str]) -> None:
    match = yaml.safe_dump([{"hospital": hospitals}], default_flow_style=True, allow_unicode=True, width=10**6)
    changed = load(
        PretrainConfig,
        "small_dino",
        [*PLACES, f"run.seed={seed}", f"data.composition.max_repeat={repeat!r}", f"data.composition.include={match}"],
    )
    tree = changed.model_dump(mode="json", by_alias=True)
    assert tree["run"].pop("seed") == seed
    assert tree["data"]["composition"].pop("max_repeat") == repeat
    assert tree["data"]["composition"].pop("include")[0]["hospital"] == hospitals
    rest = load(PretrainConfig, "small_dino", PLACES).model_dump(mode="json", by_alias=True)
    rest["run"].pop("seed")
    for key in ("max_repeat", "include"):
        rest["data"]["composition"].pop(key)
    assert tree == rest


@BOUNDED
@given(st.binary(max_size=60))
def test_any_file_is_a_configuration_or_a_named_mistake(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"any\.yaml"):
        load(PretrainConfig, path)


def refused(act: Callable[[], object]) -> str | None:
    """The message of the ConfigError, None without one; any other exception fails the test."""
    try:
        act()
    except ConfigError as error:
        return str(error)
    return None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
    max_leaves=4,
)


@BOUNDED
@given(st.sampled_from(sorted(Composition.model_fields)), json_values)
def test_any_value_is_taken_as_it_is_or_refused_with_its_key(key: str, value: Any) -> None:
    refusal = refused(lambda: validate(Composition, {key: value}, "any.yaml"))
    assert refusal is None or f"any.yaml: {key}" in refusal or f"'{key}" in refusal


@BOUNDED
@given(st.lists(words, min_size=1, max_size=5))
def test_any_override_is_applied_or_refused_never_a_crash(overrides: list[str]) -> None:
    refusal = refused(lambda: load(Composition, None, overrides))
    assert refusal is None or refusal.startswith(("override ", "bad configuration\n"))
