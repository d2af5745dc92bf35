import re
from html import unescape
from types import SimpleNamespace

import pandas as pd
import pytest
from page_reader import read_page
from planted_study import Planted, plant
from registry_factory import changeable

from trocar.downstream.metrics.outcome import Named
from trocar.downstream.metrics.segmentation import SEGMENTATION_METRICS, per_class
from trocar.downstream.tasks.base import TASKS, SegmentationTask
from trocar.errors import ConfigError
from trocar.report.study_arms import trained_arm
from trocar.report.study_report import write

NAME = '<u class="x">{}</u>&\''.format
EVIL = '<script>alert("x")</script>'


def page_of(root, planted, draws=60):
    return write(*plant(root, planted), root / "report", draws=draws).read_text(encoding="utf-8")


def text_of(page):
    """What one reads: without tags, styles and pictures."""
    body = re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Two tasks, two budgets, a difference, an A/A pair, verdicts of all sorts."""
    planted = Planted(
        arms={"north": 0.8, "north again": 0.8, "south": 0.5},
        given={"init": 0.5, "other": 0.6},
        tasks=("phase", "masks"),
        budgets={"2": 2, "100%": 8},
        luck=0.025,
        contrasts=[("north", "north again"), ("north", "init")],
        leak={
            "south": {
                "verdict": "test case seen unlabelled",
                "cases": ["set/case03"],
                "why": ["case03 is in the pool"],
            },
        },
        left_out={"east": "no case of it is public"},
        kept_out=[
            {"pool": "phantom/case05", "test": "set/case03", "tasks": ["phase"], "verdict": "test case seen unlabelled",
             "how": "40 pictures in order", "frames": 40, "became": "left out"},
            {"pool": "phantom/case07", "test": "set/case04", "tasks": ["phase"], "verdict": "suspect",
             "how": "6 pictures", "frames": 6, "became": "kept in the pool"},
        ],
    )  # fmt: skip
    root = tmp_path_factory.mktemp("full")
    return root, page_of(root, planted)


def test_the_page_is_whole_html_that_fetches_nothing(full):
    found = read_page(full[1])
    assert "script" not in found.tags
    assert "iframe" not in found.tags
    assert found.fetched
    assert all(value.startswith("data:image/") for value in found.fetched)
    assert "url(" not in full[1].replace("url(#", "")


def test_every_score_is_a_row_of_both_tables(full):
    csv, parquet = (pd.read_csv(full[0] / "report/results.csv"), pd.read_parquet(full[0] / "report/results.parquet"))
    # Three arms of three seeds, three draws of the init, one given backbone; two tasks, two budgets.
    assert len(csv) == len(parquet) == (3 * 3 + 3 + 1) * 2 * 2
    north = csv[(csv["arm"] == "north") & (csv["task"] == "phase") & (csv["budget"] == "100%")]
    assert north["value"].mean() == pytest.approx(0.8)
    masks = csv[(csv["arm"] == "south") & (csv["task"] == "masks")]
    assert masks["value"].between(0.5, 0.8).all()


def test_leaders_stand_by_score_with_interval_seeds_and_verdict(full):
    table = full[1].split("<h3>phase (knn)</h3>")[1].split("</table>")[0]
    rows = [text_of(row) for row in table.split("<tr")[2:]]
    assert len(rows) == 5
    names = [re.search(r"scope=row>([^<]+)<", row).group(1) for row in table.split("<tr")[2:]]
    assert names == ["north", "north again", "other", "south", "init"]
    of_north = rows[names.index("north")]
    assert "0.800" in of_north
    assert "clean" in of_north
    assert "+0.300" in of_north
    assert "given" in rows[names.index("other")]
    assert "test case seen unlabelled" in rows[names.index("south")]
    assert "clean" in rows[names.index("init")]


def test_masks_with_a_background_are_shown_class_by_class(full):
    assert full[1].count("<h4>IoU by class</h4>") == 1
    table = full[1].split("<h4>IoU by class</h4>")[1].split("</table>")[0]
    head, *rows = table.split("<tr")[1:]
    assert [name for name in ("north", "north again", "south", "init", "other") if name not in head] == []
    names = [re.search(r"scope=row>([^<]+)<", row).group(1) for row in rows]
    assert names == ["tool", "background"]
    # Of the square of 12 rows the runs of north have 9 or 10 (levels .775, .8, .825), and nothing else.
    assert f"{(9 + 10 + 10) / 36:.3f}" in text_of(rows[0])


def test_the_reason_of_a_bad_verdict_is_told(full):
    assert "case03 is in the pool (set/case03)" in text_of(full[1])


def test_steps_samples_and_epochs_stand_beside_every_arm(full):
    table = full[1].split("<h2>Arms</h2>")[1].split("</table>")[0]
    row = next(text_of(row) for row in table.split("<tr>") if "north again" in row)
    assert re.search(r"3 of 3 .*\b3 +12 +1\.5\b", row)
    assert "no case of it is public" in text_of(full[1])


def test_held_out_cases_of_the_pool_are_named_with_what_became_of_them(full):
    text = text_of(full[1].split("Held-out cases in the pool")[1].split("</table>")[0])
    assert "phantom/case05 set/case03 phase 40 pictures in order left out before sampling" in text
    assert "phantom/case07 set/case04 phase 6 pictures kept in the pool" in text


def test_sections_are_there_only_where_the_study_has_something_for_them(full, tmp_path):
    for title in ("Learning curves", "Compositions and tasks", "Ranks over tasks", "What each source was worth"):
        assert f"<h2>{title}</h2>" in full[1]
    assert "nothing to fit" in full[1]
    small = page_of(tmp_path, Planted({"north": 0.8}, seeds=2))
    for title in ("Learning curves", "Compositions and tasks", "Ranks over tasks"):
        assert f"<h2>{title}</h2>" not in small


def test_a_power_law_is_drawn_with_its_numbers(tmp_path):
    sizes = (1, 2, 4, 8, 12)
    planted = Planted(
        {f"n{n}": 0.9 - 0.4 / n for n in sizes},
        seeds=2,
        luck=0.01,
        cases_of={f"n{n}": [[f"phantom/case{2 * i:02d}" for i in range(n)]] * 2 for n in sizes},
    )
    text = text_of(page_of(tmp_path, planted).split("<h2>Scaling</h2>")[1].split("</section>")[0])
    assert "accuracy@pooled against cases: n1, n2, n4, n8, n12. Exponent" in text
    assert re.search(r"Exponent \d\.\d\d \[.*\], limit 0\.\d{3} \[.*over seeds and test cases", text)


def test_every_task_is_looked_at(full):
    phase, masks = full[1].split('<section class="task">')[1:]
    assert 'class="ribbons"' in phase
    assert masks.count('class="overlays"') == 2
    for page in (phase, masks):
        assert "Not shown:" not in page
        assert page.count("<figure>") == 6
    assert "What a patch is similar to" in phase
    assert "are on the page of phase" in masks


def test_masks_of_a_task_from_outside_are_looked_at(tmp_path, monkeypatch):
    changeable(TASKS, monkeypatch)
    iou = {"iou@dataset": Named(SEGMENTATION_METRICS["iou@dataset"])}
    TASKS.register(SegmentationTask("squares", "mask", "iou@dataset", (), ("iou", per_class), iou))
    page = page_of(tmp_path, Planted(arms={"north": 0.8}, tasks=("masks",), dense="squares", seeds=1))
    assert page.count('class="overlays"') == 2
    assert "Not shown:" not in page


def test_how_it_was_run_is_there(full):
    text = text_of(full[1].split("<h2>How it was run</h2>")[1])
    for expected in ("time on cpu, pretrain 5 min", "code abc", "catalog", "d" * 16, "12 cases", "The study file"):
        assert expected in text


def test_every_string_from_data_is_escaped(tmp_path):
    planted = Planted(
        arms={"north": 0.8},
        test_cases=[f"case{number:02d}{EVIL}$x_" for number in range(8)],
        classes=[f"{EVIL}{name}" for name in ("a", "b", "c")],
        source=f"evil{EVIL}",
        leak={"north": {"verdict": "suspect", "cases": [f"set/{EVIL}"], "why": [f"why{EVIL}"]}},
        left_out={f"cell{EVIL}": f"why{EVIL}"},
        seeds=2,
    )
    page = page_of(tmp_path, planted)
    assert "<script" not in page
    assert "Not shown:" not in page
    for kept in ("case00", "why", "cell", "evil", "set/"):
        assert f"{kept}&lt;script&gt;" in page
    read_page(page)


def test_names_of_users_are_text_wherever_they_stand(tmp_path):
    """Arms and tasks have names of letters, digits and a few signs only; all else is whatever it is in the data."""
    kept_out = [
        {"pool": f"pool/{NAME(f'pool{n}')}", "test": f"set/{NAME(f'held{n}')}", "verdict": "seen"}
        | {"tasks": [NAME("few" if n > 3 else "many")], "how": NAME("how"), "became": NAME("became")}
        for n in range(6)
    ]
    planted = Planted(
        arms={"north": 0.9},
        tasks=("phase", "masks"),
        test_cases=[f"{NAME('test')}{number}" for number in range(4)],
        classes=[NAME(f"class{number}") for number in range(3)],
        source="<u>source&'",
        leak={"north": {"verdict": "suspect", "cases": [f"set/{NAME('leaked')}"], "why": [NAME("why")]}},
        left_out={NAME("cell"): NAME("reason")},
        kept_out=kept_out,
        seeds=2,
    )
    page = page_of(tmp_path, planted, draws=20)
    found = read_page(page)
    assert "u" not in found.tags
    sections = {part.partition("</h2>")[0]: unescape(text_of(part)) for part in page.split("<h2>")}
    places = {
        "Leaders": "leaked why",
        "Arms": "pool0 pool5 held0 held5 few many how became cell reason",
        "phase, looked at": "test class0 class1",
        "masks, looked at": "test",
    }
    for title, named in places.items():
        assert [place for place in named.split() if NAME(place) not in sections[title]] == []
    assert "<u>source&'/case16" in sections["Arms"]
    described = {value for tag, name, value in found.attributes if (tag, name) == ("img", "alt")}
    assert any(text.startswith(f"frame, {NAME('test')}") for text in described)
    assert any(text.startswith(NAME("test")) for text in described)


def test_private_cases_have_no_frame_and_no_name(tmp_path):
    planted = Planted({"north": 0.8}, seeds=2, private=[f"case{number:02d}" for number in range(24)])
    page = page_of(tmp_path, planted)
    assert "case0" not in page
    assert "case1" not in page
    assert "private case 1" in page
    assert "image/jpeg" not in page
    assert "hospital:" not in page


def test_only_what_may_be_shown_of_a_mixed_task_is(tmp_path):
    page = page_of(tmp_path, Planted({"north": 0.8}, seeds=2, private=[f"case{number:02d}" for number in range(9)]))
    hard = page.split("Hardest frames")[1].split("<h3>")[0]
    assert hard.count("<figure>") == 6
    assert hard.count("<img") + hard.count("not shown: private") == 6
    maps = page.split("What a patch is similar to")[1]
    assert 'alt="frame, case09"' in maps
    assert 'alt="frame, case08"' not in maps


def test_without_the_catalog_nothing_is_shown(tmp_path):
    study, store = plant(tmp_path, Planted({"north": 0.8}, seeds=2))
    (tmp_path / "shards").rename(tmp_path / "moved")
    page = write(study, store, tmp_path / "report", draws=20).read_text()
    assert "image/jpeg" not in page
    assert "because a catalog could not be read" in page


def test_data_that_moved_costs_pictures_alone(tmp_path):
    study, store = plant(tmp_path, Planted({"north": 0.8}, seeds=2))
    (tmp_path / "labels").rename(tmp_path / "moved")
    page = write(study, store, tmp_path / "report", draws=20).read_text()
    assert page.count("Not shown: ") == 2
    assert 'class="ribbons"' in page


def test_an_unfinished_study_says_so_and_tests_what_it_can(tmp_path):
    planted = Planted(
        {"north": 0.8, "south": 0.6}, seeds=2, missing=[f"evaluate-south-{seed}-phase-100" for seed in range(2)]
    )
    page = page_of(tmp_path, planted)
    assert "The study is not complete" in page
    assert "south against init could not be tested: south has no score on phase (knn)" in text_of(page)
    assert "2 stages of the study are not done yet" in text_of(page)


def test_a_study_without_a_score_has_no_report(tmp_path):
    planted = Planted({"north": 0.8}, seeds=1, missing=["evaluate-north-0-phase-100", "evaluate-init-None-phase-100"])
    with pytest.raises(ConfigError, match="nothing has been scored yet"):
        write(*plant(tmp_path, planted), tmp_path / "report")


def test_the_same_study_gives_the_same_page(tmp_path):
    study, store = plant(tmp_path, Planted({"north": 0.8}, seeds=2))
    first, second = (write(study, store, tmp_path / name, draws=20).read_bytes() for name in "ab")
    assert first == second


def test_an_arm_shows_the_fewest_and_the_most_cases_that_its_seeds_drew_of_a_source():
    seed = SimpleNamespace(done=None, epochs={"clips": 1.5}, frames=1200, steps=60, samples=3840)
    drawn = [{"south": 2, "north": 3}, {"north": 5}, {"south": 2, "north": 3}]
    assert trained_arm("both 5", "", [seed, seed, seed], drawn).sources == "south 0 to 2, north 3 to 5"
    assert trained_arm("both 5", "", [seed], [{"north": 3, "south": 2}]).sources == "north 3, south 2"
