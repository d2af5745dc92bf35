"""Templates make pages that may be shared, and pictures become what a page embeds."""

import base64
import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image

from trocar.errors import TrocarError
from trocar.privacy.aliases import Aliases
from trocar.report.page import FOLDER, contact_sheet, data_uri, neighbours, pca_maps, render_template, resized


def test_a_value_that_a_template_lacks_is_an_error():
    with pytest.raises(UndefinedError, match="inputs"):
        render_template("run.html.j2", SimpleNamespace(title="a page without inputs"))


def test_nothing_but_charts_and_the_style_sheet_goes_unescaped():
    pages = [path.read_text(encoding="utf-8") for path in sorted((FOLDER / "templates").iterdir())]
    unescaped = {found.strip() for page in pages for found in re.findall(r"\{\{ ([^{}(]+)[^{}]*\| safe", page)}
    assert unescaped == {"bar", "one.svg", "style", "svg", "title.splitlines"}  # the last for its line breaks
    assert not any("autoescape" in page for page in pages)


def test_what_is_withheld_is_neither_in_title_nor_text_nor_descriptions():
    image = SimpleNamespace(uri="data:,", width=1, height=1, text="frame of St. Anna")
    page = render_template(
        "run.html.j2",
        SimpleNamespace(
            title="St. Anna",
            inputs=SimpleNamespace(
                record={}, private=False, metrics=(), provenance={"at": "/home/x/St. Anna"}, config={}, notes=()
            ),
            sentences=["About St. Anna."],
            tiles=(),
            evaluation=None,
            curves=(),
            feature_maps=(),
            nearest=None,
            frames=[image],
            views=(),
        ),
        Aliases(["St. Anna"]),
    )
    assert "Anna" not in page
    assert "/home" not in page
    assert page.count("withheld-1") == 6


def test_patches_of_one_kind_get_one_colour_and_kinds_differ():
    rng = np.random.Generator(np.random.PCG64(0))
    kinds = rng.standard_normal((4, 32)) * 10
    label = rng.integers(0, 4, (3, 8, 8))
    colours = pca_maps(kinds[label] + rng.standard_normal((3, 8, 8, 32)) * 0.01).astype(int)
    means = np.stack([colours[label == k].mean(0) for k in range(4)])
    assert max(np.abs(colours[label == k] - means[k]).max() for k in range(4)) <= 3
    apart = [np.abs(means[a] - means[b]).max() for a in range(4) for b in range(a)]
    assert min(apart) > 60


def test_a_colour_means_the_same_in_every_image_of_a_call():
    features = np.zeros((2, 4, 4, 5))
    features[0, :, :2, 0] = 1
    features[1, :2, :, 0] = 1
    colours = pca_maps(features)
    assert (colours[0, 0, 0] == colours[1, 0, 0]).all()
    assert (colours[0, 0, 3] == colours[1, 3, 0]).all()
    assert (colours[0, 0, 0, 0], colours[0, 0, 3, 0]) == (255, 0)


def test_components_without_variance_are_grey():
    features = np.zeros((1, 2, 2, 6))
    features[0, 0] = 3.0
    assert (pca_maps(features)[..., 1:] == 128).all()
    assert (pca_maps(np.ones((1, 2, 2, 6))) == 128).all()
    assert pca_maps(np.zeros((1, 2, 2, 1))).shape == (1, 2, 2, 3)


def test_colours_do_not_change_when_the_features_are_negated():
    features = np.random.Generator(np.random.PCG64(1)).standard_normal((1, 6, 6, 8))
    once, twice = pca_maps(features), pca_maps(features.copy())
    assert (once == twice).all()
    # The sign of an eigenvector is a matter of the library; the rule takes the positive one, so -x mirrors
    # colours.
    assert np.abs(pca_maps(-features).astype(int) + once.astype(int) - 255).max() <= 1


@pytest.mark.parametrize("bad", [np.zeros((4, 4, 8)), np.full((1, 2, 2, 3), np.nan)])
def test_features_of_another_shape_or_with_nan_are_refused(bad):
    with pytest.raises(ValueError, match="finite features"):
        pca_maps(bad)


def test_a_contact_sheet_is_in_reading_order_and_pads_with_the_background():
    images = np.stack([np.full((2, 3, 3), value, np.uint8) for value in (10, 20, 30)])
    sheet = contact_sheet(images, 2, gap=1, background=99)
    assert sheet.shape == (5, 7, 3)
    assert sheet[..., 0].tolist() == [
        [10, 10, 10, 99, 20, 20, 20],
        [10, 10, 10, 99, 20, 20, 20],
        [99, 99, 99, 99, 99, 99, 99],
        [30, 30, 30, 99, 99, 99, 99],
        [30, 30, 30, 99, 99, 99, 99],
    ]


def test_neighbours_come_from_other_cases_only_nearest_first():
    angle = np.deg2rad([0, 1, 10, 30, 60, 5])
    features = np.stack([np.cos(angle), np.sin(angle)], 1) * np.array([[1, 9, 2, 3, 4, 5]]).T
    found = neighbours(features, ["a", "a", "b", "c", "b", "a"], np.array([0, 3]), k=3)
    assert found.tolist() == [[2, 3, 4], [2, 5, 1]]


def test_equal_frames_keep_their_order():
    found = neighbours(np.ones((5, 3)), ["a", "b", "b", "c", "c"], np.array([0]), k=4)
    assert found.tolist() == [[1, 2, 3, 4]]


def test_too_few_frames_of_other_cases_are_an_error_with_the_count():
    with pytest.raises(TrocarError, match="need 2 frames of other cases; there are 1"):
        neighbours(np.eye(3), ["a", "a", "b"], np.array([0]), k=2)


def test_a_data_uri_holds_the_picture():
    image = np.full((8, 12, 3), (200, 30, 60), np.uint8)
    head, body = data_uri(image).split(",")
    assert head == "data:image/jpeg;base64"
    back = np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))
    assert back.shape == (8, 12, 3)
    assert np.abs(back.astype(int) - image).max() < 6


def test_resizing_keeps_the_aspect_ratio():
    assert resized(np.zeros((10, 20, 3), np.uint8), 5).shape == (5, 10, 3)
