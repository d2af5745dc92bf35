"""A deprecation warning from our own calls is an error in these tests."""

from __future__ import annotations

import warnings

import pytest


@pytest.mark.parametrize("category", [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
@pytest.mark.parametrize("module", ["trocar", "trocar.data.media.still", "test_deprecations"])
def test_what_is_said_of_our_own_lines_is_an_error(category: type[Warning], module: str) -> None:
    with pytest.raises(category, match="will be removed"):
        warnings.warn_explicit("will be removed", category, f"{module}.py", 1, module=module)


@pytest.mark.parametrize("module", ["torchvision.io.image", "PIL.Image", "av"])
def test_what_a_library_says_at_its_own_place_is_an_error(module: str) -> None:
    with pytest.raises(DeprecationWarning, match="will be removed"):
        warnings.warn_explicit("will be removed", DeprecationWarning, "image.py", 1, module=module)
