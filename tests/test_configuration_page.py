"""Every configuration key says what it means, and docs/configuration.md says it after it."""

import importlib
import importlib.util
import pkgutil
from pathlib import Path

from pydantic import BaseModel, Field

import trocar
from trocar.core.config import Config
from trocar.study.stages import StudyRecord

DOCS = Path(__file__).parents[1] / "docs"


def models():
    """Every pydantic model of the package that people write: records of a study are written by the program alone."""
    for module in pkgutil.walk_packages(trocar.__path__, "trocar."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    written = [model for model in below(BaseModel) if model.__module__.startswith("trocar.")]
    return [model for model in written if not issubclass(model, StudyRecord)]


def below(base):
    return [model for child in base.__subclasses__() for model in (child, *below(child))]


def test_every_field_of_every_configuration_model_has_a_description():
    found = models()
    fields = [(model.__name__, name, field) for model in found for name, field in model.model_fields.items()]
    assert len(fields) > 500
    assert [f"{model}.{name}" for model, name, field in fields if not field.description] == []


def test_another_default_leaves_the_description_and_another_meaning_replaces_it():
    class Parent(Config):
        side: int = Field(default=1, description="in pixels")
        scale: int = Field(default=1, description="of the view")

    class Child(Parent):
        side: int = Field(default=2, ge=1)
        scale: int = Field(default=2, description="of the frame")

    assert Child.model_fields["side"].description == "in pixels"
    assert Child.model_fields["scale"].description == "of the frame"
    assert Child().side == 2


def test_the_page_of_all_keys_says_what_the_models_say():
    spec = importlib.util.spec_from_file_location("write_configuration", DOCS / "write_configuration.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = script.PAGE.read_text(encoding="utf-8")
    assert page == script.page(), "run `python docs/write_configuration.py`"
    assert "| `batch` | whole number >= 1 | `256` | global batch: frames per step, over all ranks |" in page
    assert "| `hue` | number >= 0, <= 0.5 | `0.1` |" in page
