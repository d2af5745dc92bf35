import json

import numpy as np
import pandas as pd
import pytest
import timm
from data_factory import make_catalog
from probe_factory import make_probed

from trocar.backbones.export import save_backbone
from trocar.backbones.load import random_like
from trocar.cli.main import main
from trocar.errors import ConfigError, TrocarError
from trocar.report.gather_run import _first_weights, gather
from trocar.report.page import PictureFeatures
from trocar.report.run_pictures import Amounts, sample_frames, selected_rows
from trocar.runs.run_folder import Run

FEW = Amounts(sheet=6, maps=2, queries=2, pool=12)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder as training leaves it, but for the checkpoints."""
    root = tmp_path_factory.mktemp("report")
    make_catalog(root / "shards", videos=4, frames=6)
    model = random_like("random:test_vit", seed=7)
    save_backbone(model, root / "run" / "backbone", extra={})
    config = {
        "data": {
            "catalog": str(root / "shards"),
            "composition": {"include": [{"hospital": ["north"]}], "curate": "none"},
        },
        "method": {"head": {"prototypes": 64}},
        "run": {"seed": 3},
    }
    for start in (0, 4):
        with Run.open(root / "run", config) as run:
            for step in range(start, start + 6):
                run.log(step, {"loss": 4.0 - step / 10})
    return root


def test_the_inputs_hold_what_the_run_folder_says(trained):
    inputs = gather(trained / "run", amounts=FEW)
    assert inputs.title == "run"
    assert inputs.record["status"] == "finished"
    assert [row["step"] for row in inputs.metrics] == list(range(10))
    assert inputs.resumes == [4]
    assert inputs.uniform_loss == pytest.approx(np.log(64))
    assert inputs.provenance["catalog"].endswith("24 frames of 4 cases")
    assert inputs.notes == []


def test_frames_come_from_the_selection_of_the_run_only(trained):
    inputs = gather(trained / "run", amounts=FEW)
    cases = {caption.split()[0] for caption in inputs.frames.captions}
    assert cases == {"case00", "case02"}
    assert inputs.frames.images.shape == (6, 224, 224, 3)


def test_neighbours_are_never_of_the_own_case(trained):
    found = gather(trained / "run", amounts=FEW).neighbours
    case = [caption.split()[0] for caption in found.gallery.captions]
    for query, nearest in zip(found.queries, found.after, strict=True):
        assert case[query] not in {case[index] for index in nearest}
    assert found.before.shape == found.after.shape == (2, 5)


def test_the_trained_backbone_is_the_one_in_the_folder_and_before_is_another(trained):
    inputs = gather(trained / "run", amounts=FEW)
    assert inputs.pca.before.shape == inputs.pca.after.shape
    assert (inputs.pca.before != inputs.pca.after).any()
    again = gather(trained / "run", amounts=FEW)
    assert (again.pca.after == inputs.pca.after).all()


def test_a_run_without_backbone_or_catalog_says_so_instead_of_failing(tmp_path):
    with Run.open(tmp_path / "run", {"data": {"catalog": str(tmp_path / "gone")}}) as run:
        run.log(0, {"loss": 1.0})
    inputs = gather(tmp_path / "run")
    assert (inputs.frames, inputs.pca, inputs.neighbours) == (None, None, None)
    assert "No frames are shown" in inputs.notes[0]


def test_a_selection_that_cannot_be_made_again_is_said_not_hidden(trained):
    from trocar.data.catalog.catalog import Catalog

    catalog, notes = Catalog.open(trained / "shards"), []
    rows = selected_rows(catalog, {"data": {"composition": {"include": [{"hospital": ["nowhere"]}]}}}, notes)
    assert rows.tolist() == list(range(24))
    assert "whole catalog" in notes[0]
    assert "nowhere" in notes[0]


def test_no_frame_is_shown_of_a_case_that_a_probe_of_the_run_is_scored_on(trained, tmp_path):
    from trocar.data.catalog.catalog import Catalog

    make_probed(tmp_path / "phantom", cases=4)  # the catalog's source; case01 is its validation case
    table = pd.read_csv(tmp_path / "phantom" / "frames.csv")
    table["case"] = table["case"].str.replace("case", "case0")
    table.to_csv(tmp_path / "phantom" / "frames.csv", index=False)
    catalog, notes = Catalog.open(trained / "shards"), []
    probe = {"name": "tools", "data": str(tmp_path / "phantom"), "task": "tools", "protocol": "knn"}
    config = {"data": {"composition": {"curate": "none"}}, "probe": [probe]}
    rows = selected_rows(catalog, config, notes)
    assert notes == []
    assert rows.tolist() == [*range(6), *range(12, 24)]
    _, cases = sample_frames(catalog, rows, 12)
    assert sorted(set(cases)) == ["case00", "case02", "case03"]


def test_the_selection_of_a_run_with_a_limit_on_repeats_is_made_by_its_length(trained):
    from trocar.data.catalog.catalog import Catalog

    catalog, notes = Catalog.open(trained / "shards"), []
    composition = {"include": [{"hospital": ["north"]}], "curate": "none", "max_repeat": 2}
    config = {"data": {"composition": composition}, "train": {"steps": 3, "epochs": None, "batch": 4}}
    assert selected_rows(catalog, config, notes).tolist() == [*range(6), *range(12, 18)]
    assert notes == []


def test_frames_are_spread_over_the_cases_and_named_by_case_and_time(trained):
    from trocar.data.catalog.catalog import Catalog

    catalog = Catalog.open(trained / "shards")
    gallery, cases = sample_frames(catalog, selected_rows(catalog, {}, []), 4)
    assert cases == ["case00", "case01", "case02", "case03"]
    assert gallery.captions[0] == "case00 0:03"


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_resnet"])
def test_maps_of_transformers_and_convolutional_networks_are_grids(name):
    network = PictureFeatures(timm.create_model(name, num_classes=0))
    images = np.zeros((3, 96, 96, 3), np.uint8)
    images[1] = 255
    maps = network.maps(images)
    assert maps.shape[0] == 3
    assert maps.shape[1] == maps.shape[2] >= 10
    assert np.abs(maps[0] - maps[1]).max() > 0
    assert (maps[0] == maps[2]).all()
    assert network.pooled(images).shape == (3, network.model.num_features)


def test_a_patch_map_has_the_position_of_the_picture():
    network = PictureFeatures(timm.create_model("test_vit", num_classes=0))
    images = np.zeros((2, 160, 160, 3), np.uint8)
    images[1, :40, 120:] = 255
    change = np.abs(np.subtract(*network.maps(images))).sum(-1)
    top, left = np.unravel_index(change.argmax(), change.shape)
    assert top < change.shape[0] / 2 <= left


def test_a_file_that_is_no_result_is_a_bad_argument(trained, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"other": 1}))
    with pytest.raises(ConfigError, match="not a results file"):
        gather(trained / "run", tmp_path, amounts=FEW)
    with pytest.raises(ConfigError, match=r"nowhere is not there; name the folder that `trocar evaluate --out` wrote"):
        gather(trained / "run", tmp_path / "nowhere", amounts=FEW)
    with pytest.raises(TrocarError, match="not a run folder"):
        gather(tmp_path)


@pytest.mark.parametrize(
    ("members", "noted"),
    [
        (["{run}"], False),
        (["{run}, draw 0, start 1"], False),
        (["{run}/checkpoints/step-00000004"], False),
        (["somewhere/else"], False),  # relative to a folder that nobody knows
        (["{other}"], True),
        ([], True),
    ],
)
def test_an_evaluation_of_something_else_is_noted(trained, tmp_path, members, noted):
    (trained / "run/checkpoints/step-00000004").mkdir(parents=True, exist_ok=True)
    names = [name.format(run=trained / "run", other=tmp_path) for name in members]
    row = {"kind": "backbone", "backbone": "mine", "members": names}
    (tmp_path / "results.json").write_text(json.dumps({"tasks": {}, "rows": [row] if names else [], "data": {}}))
    notes = gather(trained / "run", tmp_path, amounts=FEW).notes
    assert notes == ([f"The evaluation in {tmp_path} has no scores of this run."] if noted else [])


def test_the_command_prints_where_the_page_is(trained, capsys):
    assert main(["report", str(trained / "run")]) == 0
    path = capsys.readouterr().out.strip()
    assert path == str(trained / "run" / "report" / "index.html")
    page = (trained / "run" / "report" / "index.html").read_text()
    assert page.count("<img") > 10
    assert "case02" in page


@pytest.mark.parametrize(
    ("name", "about", "told"),
    [
        ("resnet10t", {}, ""),
        ("timm:resnet50.tv_in1k", {}, "timm:resnet50.tv_in1k, licence bsd-3-clause"),
        (
            "surgenetdino_v3_vits",
            {"init": {"name": "surgenetdino_v3_vits", "licence": "CC-BY-NC-SA-4.0"}},
            "surgenetdino_v3_vits, licence CC-BY-NC-SA-4.0",
        ),
    ],
)
def test_the_first_weights_of_a_run_stand_there_with_their_licence(tmp_path, name, about, told):
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / "config.json").write_text(json.dumps({"trocar": about}), encoding="utf-8")
    assert _first_weights(tmp_path, {"backbone": {"name": name}}) == told
