import math
import re
from dataclasses import replace

import numpy as np
import pytest
from page_reader import read_page

from trocar.report.charts import MAX_POINTS, draw_panel, panels, series, thin
from trocar.report.gather_run import RunInputs
from trocar.report.run_pictures import Gallery, NeighbourComparison, PcaComparison
from trocar.report.run_report import evaluation_sentences, probe_sentences, render, training_sentences, write

NAME = '<u class="x">{}</u>&\''.format
"""A name of a place that is text on a page, if the page is right."""
EVIL = '<script>alert("x")</script>&\'"'


def score(task, protocol, backbone, kind, mean, interval=None, seeds=1):
    metric = {"mean": mean, "sd": 0.01 if seeds > 1 else None, "values": [mean] * seeds}
    return {
        "task": task,
        "protocol": protocol,
        "backbone": backbone,
        "kind": kind,
        "members": [f"seed {n}" for n in range(seeds)],
        "headline": "accuracy",
        "metrics": {"accuracy": metric, "macro_f1": {"mean": None, "sd": None, "values": []}},
        "interval": interval,
        "per_class": {},
        "detail": [],
    }


@pytest.fixture
def results():
    task = {
        "headline": "accuracy",
        "metrics": ["accuracy", "macro_f1"],
        "frames": 1128,
        "cases": 5,
        "scheme": f"leave one case out {EVIL}",
        "absent": [EVIL],
    }
    return {
        "data": {"frames": 1223, "cases": 5, "layout": EVIL, "notes": [EVIL]},
        "tasks": {"phase": task},
        "rows": [
            score("phase", "knn", "mine" + EVIL, "backbone", 0.6, [0.55, 0.65]),
            score("phase", "knn", "random vit", "random", 0.4, [0.35, 0.45], seeds=3),
            score("phase", "knn", "pixels", "baseline", 0.5, [0.44, 0.56]),
            score("phase", "prior", "majority", "majority", 0.3),
        ],
    }


@pytest.fixture
def inputs(results):
    images = np.zeros((6, 16, 16, 3), np.uint8)
    gallery = Gallery(images, [EVIL] * 6)
    pairs = np.array([[1, 2], [3, 4]])
    return RunInputs(
        title=EVIL,
        record={"run_id": EVIL, "status": EVIL, "attempt": EVIL, "created": EVIL, "trocar_version": EVIL},
        config={EVIL: {EVIL: EVIL}},
        metrics=[{"step": n, "loss": 5.0 - n / 10, "rankme": 3.0 + n, EVIL: 1.0} for n in range(10)],
        resumes=[5],
        uniform_loss=5.1,
        evaluation=results,
        frames=gallery,
        views={EVIL: np.zeros((2, 3, 8, 8, 3), np.uint8)},
        pca=PcaComparison(images, images, images),
        neighbours=NeighbourComparison(gallery, np.array([0, 5]), pairs, pairs),
        provenance={EVIL: EVIL},
        notes=[EVIL],
        private=True,
    )


def test_every_string_from_data_is_escaped(inputs):
    found = read_page(render(inputs))
    assert "script" not in found.tags
    assert found.text.count('alert("x")') >= 15
    assert not [name for _, name, _ in found.attributes if name.startswith("on")]


def test_names_of_users_are_text_wherever_they_stand(inputs, results):
    task = results["tasks"].pop("phase")
    task |= {"headline": NAME("accuracy"), "metrics": [NAME("accuracy"), NAME("f1")], "absent": [NAME("absent")]}
    task |= {"classes": [NAME("class"), NAME("rest")], "background": NAME("rest"), "per_class": "iou"}
    results["tasks"][NAME("task")] = task | {"scheme": NAME("scheme")}
    results["data"] |= {"layout": NAME("layout"), "notes": [NAME("data note")]}
    value = {"mean": 0.5, "sd": 0.1}
    for row in results["rows"]:
        row |= {"task": NAME("task"), "backbone": NAME(row["backbone"][:4]), "protocol": NAME("protocol")}
        row |= {"headline": NAME("accuracy"), "metrics": {NAME("accuracy"): value, NAME("f1"): value}}
        row |= {"leak": {"verdict": NAME("verdict")}}
    record = {key: NAME(key) for key in ("run_id", "status", "attempt", "created", "trocar_version")}
    page = render(
        replace(
            inputs,
            title=NAME("title"),
            record=record,
            config={NAME("key"): NAME("value")},
            metrics=[{"step": 0, "loss": 1.0, NAME("metric"): 1.0}],
            frames=Gallery(inputs.frames.images, [NAME(f"frame{n}") for n in range(6)]),
            neighbours=replace(inputs.neighbours, gallery=Gallery(inputs.frames.images, [NAME("near")] * 6)),
            views={NAME("group"): inputs.views[EVIL]},
            provenance={NAME("fact"): NAME("told")},
            notes=[NAME("note")],
        )
    )
    found = read_page(page)
    assert "u" not in found.tags
    places = "title status attempt created trocar_version task accuracy f1 absent class rest scheme layout protocol"
    places += " mine rand pixe majo verdict key value metric frame0 frame5 near group fact told note"
    assert [place for place in (*places.split(), "data note") if NAME(place) not in found.text] == []
    described = {value for tag, name, value in found.attributes if (tag, name) == ("img", "alt")}
    assert {NAME("frame0"), NAME("near")} <= described
    assert any(text.startswith(NAME("group")) for text in described)


def test_the_page_fetches_nothing(inputs):
    page = render(inputs)
    found = read_page(page)
    assert found.fetched
    assert all(value.startswith("data:image/jpeg;base64,") for value in found.fetched)
    assert "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []
    assert "link" not in found.tags
    assert "default-src 'none'" in page


def test_every_picture_has_a_text(inputs):
    found = read_page(render(inputs))
    pictures = [value for tag, name, value in found.attributes if tag == "img" and name == "alt"]
    assert len(pictures) == found.tags.count("img") == 6 * 3 + 2 * (1 + 4) + 6 + 1
    assert all(pictures)


def test_ids_are_unique_over_all_curves(inputs):
    ids = re.findall(r'\sid="([^"]+)"', render(inputs))
    assert len(ids) == len(set(ids)) > 0


def test_equal_inputs_give_equal_pages(inputs):
    assert render(inputs) == render(inputs)


def test_a_run_that_has_just_begun_makes_a_page_without_empty_sections(tmp_path):
    path = write(RunInputs(title="new", record={"status": "running"}), tmp_path / "report")
    found = read_page(path.read_text(encoding="utf-8"))
    assert path.name == "index.html"
    assert "The run is still going on; no loss has been logged." in found.text
    assert found.tags.count("h2") == 1


def test_frames_of_private_videos_are_announced(inputs):
    assert "frames of private videos" in render(inputs)


def test_the_table_holds_every_row_with_its_numbers(results):
    found = read_page(render(RunInputs(title="t", record={}, evaluation=results)))
    assert found.tags.count("tr") == 2 * (1 + 4)  # the headline, and the other metrics
    assert "0.600" in found.text
    assert "± 0.010" in found.text
    assert "0.600, 95 % interval 0.550 to 0.650" in found.text


def test_many_metrics_are_in_tables_that_a_window_holds(results):
    results["tasks"]["phase"]["metrics"] += [f"metric_{n}" for n in range(9)]
    page = render(RunInputs(title="t", record={}, evaluation=results))
    assert [head.split("</thead>")[0].count("<th") for head in page.split("<thead>")[1:]] == [6, 7, 7]
    assert all(page.count(f">metric_{n}<") == 1 for n in range(9))


def test_no_folder_of_this_machine_is_on_the_page():
    inputs = RunInputs(
        title="a",
        record={},
        config={"data": {"catalog": "/home/jane/shards"}},
        provenance={"run folder": "/scratch/jane/runs/a"},
        notes=["no catalog in /home/jane/x/shards"],
    )
    page = render(inputs)
    assert "jane/" not in page.replace(".../runs/a", "")
    assert "/home" not in page
    assert "no catalog in .../x/shards" in page


def test_masks_with_a_background_are_shown_class_by_class(results):
    info = results["tasks"]["phase"]
    info |= {"classes": ["rest", "tool", "never"], "background": "rest", "per_class": "iou"}
    for row in results["rows"]:
        row["per_class"] = {"rest": 0.91, "tool": 0.37, "never": None}
    page = render(RunInputs(title="t", record={}, evaluation=results))
    lines = page.split("iou by class</th>")[1].split("</table>")[0].split("<tr>")[1:]
    assert [line.split("<")[1] for line in lines] == [
        f"th scope=row>{n}" for n in ("tool", "never", "rest (background)")
    ]
    assert [lines[0].count("0.370"), lines[1].count("–"), lines[2].count("0.910")] == [4, 4, 4]
    info["background"] = None
    assert "by class" not in render(RunInputs(title="t", record={}, evaluation=results))


def test_the_leak_verdict_stands_beside_every_score(results):
    results["rows"][0]["leak"] = {"verdict": "contaminated", "cases": [], "why": []}
    found = read_page(render(RunInputs(title="t", record={}, evaluation=results)))
    assert "Leak verdict" in found.text
    assert found.text.count("contaminated") == 1


def test_steps_that_are_saved_count_where_the_last_ones_were_not_logged():
    metrics = [{"step": 0, "loss": 9.0}, {"step": 40, "loss": 6.0}]
    inputs = RunInputs("t", {"status": "killed", "saved_step": 46}, metrics=metrics)
    assert training_sentences(inputs)[0].startswith(
        "The run was stopped before its end (the same command continues it) after 46 steps. "
    )


def test_the_summary_compares_with_random_weights_and_the_best_plain_baseline(results):
    (sentence,) = evaluation_sentences(results)
    assert sentence.endswith(
        "reaches accuracy 0.600 [0.550, 0.650]; +0.200 against random weights (random vit), 95 % intervals apart; "
        "+0.100 against the best plain baseline (pixels), 95 % intervals overlap."
    )


def test_a_worse_backbone_is_said_to_be_worse(results):
    results["rows"][0] = score("phase", "knn", "mine", "backbone", 0.35, [0.3, 0.4])
    assert "-0.050 against random weights" in evaluation_sentences(results)[0]


def test_the_summary_tells_steps_attempts_and_loss_against_ln_k():
    metrics = [{"step": 0, "loss": 9.0, "rankme": 4.0}, {"step": 500, "loss": 6.25, "rankme": 20.5}]
    record = {"status": "finished", "attempt": 3}  # the second one logged nothing
    inputs = RunInputs("t", record, metrics=metrics, resumes=[300], uniform_loss=9.01)
    assert training_sentences(inputs) == [
        "The run is finished after 501 steps in 3 attempts. The loss went from 9.000 (step 0) to 6.250 (ln K = 9.010).",
        "The effective rank of the features (RankMe) went from 4.0 to 20.5.",
    ]


def test_a_loss_at_ln_k_is_called_what_it_is():
    inputs = RunInputs("t", {"status": "finished"}, metrics=[{"step": 9, "loss": 9.0}], uniform_loss=9.01)
    assert "collapsed" in training_sentences(inputs)[1]
    healthy = RunInputs("t", {"status": "finished"}, metrics=[{"step": 9, "loss": 8.0}], uniform_loss=9.01)
    assert len(training_sentences(healthy)) == 1


def test_ln_k_is_the_measure_of_the_dino_loss_where_others_are_added_to_it():
    metrics = [{"step": 0, "loss": 20.0, "dino_loss": 9.0}, {"step": 500, "loss": 14.5, "dino_loss": 8.0}]
    inputs = RunInputs("t", {"status": "finished"}, metrics=metrics, uniform_loss=9.01)
    assert training_sentences(inputs) == [
        "The run is finished after 501 steps. The dino loss went from 9.000 (step 0) to 8.000 (ln K = 9.010)."
    ]
    drawn = {panel.key: panel.reference for panel in panels(metrics, 9.01)}
    assert drawn == {"loss": None, "dino_loss": (9.01, "ln K = 9.01")}


def test_nan_and_infinity_are_gaps():
    rows = [{"step": 1, "x": 1.0}, {"step": 2, "x": math.inf}, {"step": 3}, {"step": 4, "x": math.nan}]
    step, value = series(rows, "x")
    assert step.tolist() == [1, 2, 4]
    assert [math.isnan(v) for v in value] == [False, True, True]
    assert draw_panel(panels(rows, None)[0], rows).startswith("<svg")


def test_thinning_keeps_spikes_and_ends():
    value = np.zeros(10_000)
    value[4321], value[777] = 50, -50
    value[100:140] = np.nan
    step, kept = thin(np.arange(10_000), value)
    assert len(step) <= MAX_POINTS + 2
    assert (np.nanmax(kept), np.nanmin(kept)) == (50, -50)
    assert (step[0], step[-1]) == (0, 9999)


def test_curves_take_their_colours_from_the_page():
    rows = [{"step": n, "loss": float(n)} for n in range(5)]
    svg = draw_panel(panels(rows, 3.0)[0], rows, [2])
    assert "var(--series)" in svg
    assert "ln K = 3.00" in svg
    assert not re.findall(r"#0102\d\d", svg)


def test_known_metrics_come_first_and_unknown_ones_are_not_lost():
    rows = [{"step": 0, "zeta": 1.0, "lr": 0.1, "loss": 1.0}]
    assert [panel.key for panel in panels(rows, None)] == ["loss", "lr", "zeta"]


def probed(last, low, high):
    """A curve of a probe, whose last row is no row of the loss."""
    rows = [
        {"step": 0, "loss": 2.0, "dino_loss": 1.0, "probe/phase": 0.5},
        {"step": 4, "loss": 1.5, "dino_loss": 0.9, "probe/phase": 0.7, "probe/phase/gain": 0.2},
        {"step": 9, "probe/phase": last, "probe/phase/gain": last - 0.5},
    ]
    for row in rows[1:]:
        row |= {"probe/phase/gain_low": low, "probe/phase/gain_high": high}
    return RunInputs("run", {"status": "finished"}, config={"keep": "best", "keep_by": None}, metrics=rows)


def test_a_probe_is_told_with_its_best_and_that_it_chose_it():
    (told,) = probe_sentences(probed(0.6, -0.05, 0.25))
    assert told.startswith(
        "Probe phase went from 0.500 to 0.600 (difference over the same cases: 95 % interval -0.050 to"
    )
    assert "its best was 0.700 at step 4, and backbone-best is of then: chosen by it" in told


def test_a_probe_that_fell_in_all_draws_is_warned_of():
    *_, warned = probe_sentences(probed(0.3, -0.3, -0.1))
    assert warned == "Warning: by probe phase the features are worse than those that the run began with."


def test_a_probe_has_one_panel_with_its_start_and_a_band():
    inputs = probed(0.6, -0.05, 0.25)
    (panel,) = [panel for panel in panels(inputs.metrics, None) if panel.key.startswith("probe/")]
    assert (panel.reference, panel.band) == ((0.5, "0.500 at first"), ("probe/phase/gain_low", "probe/phase/gain_high"))
    assert "var(--grid)" in draw_panel(panel, inputs.metrics)
    assert "The dino loss went from 1.000 (step 0) to 0.900" in training_sentences(inputs)[0]
