from pathlib import Path
from typing import Literal

import pytest
from pydantic import model_validator

from trocar.core.config import Config, find_preset, fingerprint, load, preset_names, tree_of, validate
from trocar.errors import ConfigError


class Inner(Config):
    rate: float = 0.5
    mode: Literal["fast", "exact"] = "fast"


class Outer(Config):
    steps: int
    inner: Inner = Inner()
    tags: list[str] = []


class Paired(Config):
    low: int
    high: int

    @model_validator(mode="after")
    def _ordered(self) -> "Paired":
        if self.low > self.high:
            raise ValueError("low must not be above high")
        return self


def write(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_overrides_reach_into_sections_and_are_read_as_yaml(tmp_path):
    path = write(tmp_path, "a.yaml", "steps: 3\ninner: {rate: 0.1}\n")
    config = load(Outer, path, ["inner.mode=exact", "steps=7", "tags=[a, b]"])
    assert config == Outer(steps=7, inner=Inner(rate=0.1, mode="exact"), tags=["a", "b"])


class Placed(Config):
    out: Path
    log: Path | None = None
    address: str = ""


def test_an_address_is_no_folder_of_this_machine():
    assert validate(Placed, {"out": "runs/a", "address": "s3://bucket/a"}, "x").address == "s3://bucket/a"
    for key in ("out", "log"):
        with pytest.raises(ConfigError, match=f"{key} = 's3://bucket/a': is an address"):
            validate(Placed, {"out": "runs/a", key: "s3://bucket/a"}, "x")


def test_extends_merges_sections_and_keeps_what_is_not_said(tmp_path):
    write(tmp_path, "base.yaml", "steps: 3\ninner: {rate: 0.1, mode: exact}\n")
    path = write(tmp_path, "child.yaml", "extends: base.yaml\ninner: {rate: 0.2}\n")
    assert load(Outer, path) == Outer(steps=3, inner=Inner(rate=0.2, mode="exact"))


def test_extends_in_a_circle_is_refused(tmp_path):
    write(tmp_path, "a.yaml", "extends: b.yaml\n")
    path = write(tmp_path, "b.yaml", "extends: a.yaml\n")
    with pytest.raises(ConfigError, match="circle"):
        load(Outer, path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stesp: 3\n", r"unknown key 'stesp' \(did you mean 'steps'\?\); allowed here: inner, steps, tags"),
        ("steps: 3\ninner: {rte: 1}\n", r"unknown key 'inner.rte' \(did you mean 'rate'\?\)"),
        ("steps: many\n", r"steps = 'many': .*integer"),
        ("steps: 3\ninner: {mode: fats}\n", r"inner.mode = 'fats': .*\(did you mean 'fast'\?\)"),
        ("inner: {}\n", "'steps' is required"),
        ("- a\n- b\n", "expected `key: value` lines, found a list"),
        ("steps: [1\n", "not valid YAML"),
    ],
)
def test_a_bad_file_is_refused_with_file_key_and_nearest_match(tmp_path, text, words):
    path = write(tmp_path, "bad.yaml", text)
    with pytest.raises(ConfigError, match=words) as error:
        load(Outer, path)
    assert "bad.yaml" in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("override", ["steps", "=3", "steps.deeper=1"])
def test_a_bad_override_is_refused(tmp_path, override):
    with pytest.raises(ConfigError, match="override"):
        load(Outer, write(tmp_path, "a.yaml", "steps: 3\n"), [override])


def test_a_wrong_value_is_blamed_on_the_override_that_set_it_and_not_on_the_file(tmp_path):
    path = write(tmp_path, "a.yaml", "steps: 3\ninner: {rate: fast}\n")
    with pytest.raises(ConfigError) as error:
        load(Outer, path, ["steps=4", "steps=many", "tgas=[a]"])
    lines = str(error.value).splitlines()[1:]
    assert lines[0].startswith("  override 'steps=many': steps = 'many'")
    assert lines[1].startswith(f"  {path}: inner.rate = 'fast'")
    assert lines[2].startswith("  override 'tgas=[a]': unknown key 'tgas' (did you mean 'tags'?)")


def test_a_rule_about_several_keys_does_not_print_the_section(tmp_path):
    with pytest.raises(ConfigError) as error:
        load(Paired, write(tmp_path, "a.yaml", "low: 3\nhigh: 2\n"))
    assert str(error.value).splitlines()[1].endswith("a.yaml: low must not be above high")


def test_an_override_below_a_union_is_found_and_one_beside_the_fault_is_not_blamed(tmp_path):
    class Choice(Config):
        pick: Literal["none"] | Inner = "none"
        inner: Inner = Inner()

    path = write(tmp_path, "a.yaml", "inner: {rate: fast}\n")
    with pytest.raises(ConfigError) as error:
        load(Choice, path, ["pick.rate=quick", "inner.mode=exact"])
    lines = str(error.value).replace(str(path), "FILE").splitlines()[1:]
    assert all("override 'pick.rate=quick'" in line for line in lines if "pick" in line)
    assert next(line for line in lines if "pick" not in line).startswith("  FILE: inner.rate = 'fast'")


def test_a_rule_about_a_section_names_the_file_and_the_override_of_a_part(tmp_path):
    class Whole(Config):
        pair: Paired

    path = write(tmp_path, "a.yaml", "pair: {low: 3, high: 4}\n")
    with pytest.raises(ConfigError) as error:
        load(Whole, path, ["pair.high=2"])
    assert f"{path} with override 'pair.high=2': pair: " in str(error.value)


def test_a_parent_that_is_not_there_is_blamed_on_the_file_that_names_it(tmp_path):
    path = write(tmp_path, "child.yaml", "extends: smal_dino\n")
    with pytest.raises(ConfigError, match=r"child.yaml: extends: no configuration .*did you mean 'small_dino'"):
        load(Outer, path)


def test_yaml_tags_that_build_objects_are_refused(tmp_path):
    path = write(tmp_path, "evil.yaml", "steps: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load(Outer, path)


def test_presets_are_found_by_name_and_a_typo_gets_the_nearest():
    assert "small_dino" in preset_names()
    assert find_preset("small_dino").name == "small_dino.yaml"
    with pytest.raises(ConfigError, match=r"did you mean 'small_dino'"):
        find_preset("smal_dino")


def test_every_preset_validates():
    from trocar.downstream.evaluation.evaluate_config import EvaluateConfig
    from trocar.downstream.reproduce import PublishedExperiment
    from trocar.slurm.profile import Profile
    from trocar.ssl.run.pretrain_config import PretrainConfig
    from trocar.study.config import StudyConfig

    rooms = {"downstream": EvaluateConfig, "reproduce": PublishedExperiment, "slurm": Profile, "study": StudyConfig}
    places = {EvaluateConfig: ["data=folder"], PretrainConfig: ["data.catalog=shards", "run.out=run"]}
    for name in preset_names():
        model = rooms.get(name.partition("/")[0], PretrainConfig)
        config = load(model, name, places.get(model, []))
        if model is EvaluateConfig:
            assert config.layout
        elif model is PublishedExperiment:
            assert config.target.value > 0
        elif model is PretrainConfig:
            assert config.train.batch > 0


def test_a_preset_without_data_says_which_key_is_missing():
    from trocar.ssl.run.pretrain_config import PretrainConfig

    with pytest.raises(ConfigError, match=r"'data\.catalog' is required\n.*'run\.out' is required"):
        load(PretrainConfig, "pretrain/surgenetdino_v1_vits")


def test_a_preset_that_is_only_there_to_be_extended_is_found_and_not_listed(tmp_path, monkeypatch):
    monkeypatch.setattr("trocar.core.config.PRESETS", tmp_path)
    write(tmp_path, "_base.yaml", "steps: 3\n")
    write(tmp_path, "a.yaml", "extends: _base\n")
    assert preset_names() == ["a"]
    assert load(Outer, "a").steps == 3


def test_fingerprints_follow_content_and_not_order():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_values_do_not_change_after_validation():
    config = validate(Outer, {"steps": 3}, "x")
    with pytest.raises(ValueError, match="frozen"):
        config.steps = 4


def test_an_override_of_an_alias_leaves_the_anchor_alone(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("one: &same {x: {y: 1}}\ntwo: *same\n")
    assert tree_of(path, ["two.x.y=2"]) == {"one": {"x": {"y": 1}}, "two": {"x": {"y": 2}}}
