"""Which pictures an evaluation gets, and what is in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from downstream_factory import make_folder
from figure_factory import TASKS, phase_rows, tool_rows
from matplotlib.colors import to_rgb
from PIL import Image

from trocar.downstream.evaluation.evaluate_config import EvaluateConfig
from trocar.downstream.figures import draw
from trocar.downstream.figures.phases import draw_ribbons
from trocar.downstream.figures.style import colour, shown
from trocar.jobs.evaluate import evaluate


def area(path: Path, index: int) -> int:
    """Pixels that have exactly the colour of a class."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    wanted = np.round(np.array(to_rgb(colour(index))) * 255).astype(np.uint8)
    return int((pixels == wanted).all(-1).sum())


def ribbons(table: pd.DataFrame, out: Path) -> list[Path]:
    """The ribbons of the only arm."""
    (one,) = shown(table, TASKS)
    return draw_ribbons(one, out, "phase")


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_one_label_a_frame_gets_ribbons_confusion_and_reliability_and_several_get_curves(tmp_path: Path) -> None:
    table = pd.concat(
        [phase_rows([0, 1, 2], [0, 1, 1]), tool_rows([[1, 0, 0], [0, 1, 0]], [[0.9, 0.1, 0], [0.2, 1, 0]])]
    )
    paths = draw(table, TASKS, tmp_path / "figures")
    assert names(paths) == [
        "phase-net-linear-ribbons.png",
        "phase-net-linear-confusion.png",
        "phase-net-linear-reliability.png",
        "tools-net-linear-precision-recall.png",
        "tools-net-linear-reliability.png",
    ]
    assert all(Image.open(path).size[0] > 500 for path in paths)
    assert sorted(names(list((tmp_path / "figures").iterdir()))) == sorted(names(paths))


def test_a_ribbon_has_the_colours_of_truth_and_prediction_in_their_shares(tmp_path: Path) -> None:
    truth_only, both, predicted_only = 0, 1, 2
    gt = [truth_only] * 50 + [both] * 50
    pred = [predicted_only] * 50 + [both] * 50
    (ribbon,) = ribbons(phase_rows(gt, pred), tmp_path)
    others = [phase_rows([(k + 1) % 3], [(k + 1) % 3]) for k in range(3)]
    legend = [area(ribbons(table, tmp_path / str(k))[0], k) for k, table in enumerate(others)]
    found = [area(ribbon, k) - patch for k, patch in enumerate(legend)]
    assert found[truth_only] == pytest.approx(found[predicted_only], rel=0.05)
    assert found[both] == pytest.approx(2 * found[truth_only], rel=0.05)


def test_every_case_is_on_some_page(tmp_path: Path) -> None:
    cases = [phase_rows([0, 1], [0, 1], case=f"case{k:02d}") for k in range(29)]
    paths = ribbons(pd.concat(cases), tmp_path)
    assert names(paths) == [f"phase-ribbons-{page:02d}.png" for page in (1, 2, 3)]
    heights = [Image.open(path).size[1] for path in paths]
    assert heights[0] == heights[1] > heights[2]  # 14, 14 and 1


def test_backbones_are_drawn_and_not_their_baselines_unless_there_is_nothing_else(tmp_path: Path) -> None:
    plain = phase_rows([0, 1], [1, 1], backbone="raw pixels", kind="baseline")
    random = phase_rows([0, 1], [1, 1], backbone="random net", kind="random")
    asked = phase_rows([0, 1], [0, 1])
    assert [one.backbone for one in shown(pd.concat([plain, random, asked]), TASKS)] == ["net"]
    assert [one.backbone for one in shown(pd.concat([plain, random]), TASKS)] == ["random net"]
    assert [one.backbone for one in shown(plain, TASKS)] == ["raw pixels"]


def test_of_several_runs_the_first_is_drawn_and_the_title_says_so() -> None:
    runs = [phase_rows([0, 1], [seed % 3, 1], run=(0, seed, 0)) for seed in (1, 2)]
    (one,) = shown(pd.concat(runs), TASKS)
    assert one.pred.tolist() == [1, 1]
    assert one.title == "phase · net · linear · run 1 of 2"
    (alone,) = shown(runs[0], TASKS)
    assert alone.title == "phase · net · linear"


def test_frames_are_put_in_the_order_of_time() -> None:
    table = phase_rows([0, 1, 2], [0, 1, 2]).iloc[[2, 0, 1]]
    (one,) = shown(table, TASKS)
    assert one.gt.tolist() == [0, 1, 2]


def test_arms_whose_names_differ_only_in_what_files_cannot_have_get_files_of_their_own(tmp_path: Path) -> None:
    arms = [phase_rows([0, 1], [0, 1], backbone=name) for name in ("a/b", "a:b")]
    paths = draw(pd.concat(arms), TASKS, tmp_path)
    assert len(paths) == len(set(paths)) == 6
    assert {path.parent for path in paths} == {tmp_path}


def test_scores_that_are_no_probabilities_have_no_reliability(tmp_path: Path) -> None:
    table = phase_rows([0, 1], [0, 1])
    table["scores"] = [np.float32([3, -1, 0]), np.float32([-2, 5, 0])]
    assert names(draw(table, TASKS, tmp_path)) == ["phase-net-linear-ribbons.png", "phase-net-linear-confusion.png"]


def test_rows_without_labels_per_frame_are_passed_over(tmp_path: Path) -> None:
    masks = phase_rows([0], [0]).assign(gt=pd.array([None], dtype="Int64"))
    assert draw(masks, TASKS, tmp_path) == []
    assert draw(masks.drop(columns=["gt", "pred", "gt_labels", "pred_labels", "scores"]), TASKS, tmp_path) == []


def test_an_evaluation_draws_into_its_folder_unless_it_is_told_not_to(tmp_path: Path) -> None:
    common = {"data": make_folder(tmp_path / "data"), "protocol": ["knn"], "baselines": ["mean colour"], "bootstrap": 0}
    evaluate(EvaluateConfig(**common, out=tmp_path / "with"))
    evaluate(EvaluateConfig(**common, out=tmp_path / "without", figures=False))
    assert (tmp_path / "with/figures/phase-mean_colour-knn-ribbons.png").is_file()
    assert not (tmp_path / "without/figures").exists()
