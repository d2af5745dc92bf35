"""What is marked private, and whether it may be shown: `private` in a configuration, private.yaml in a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field

from trocar.core import yaml_text
from trocar.core.config import AsWritten, Config, validate
from trocar.errors import ConfigError

MARKS = "private.yaml"
"""In the folder of a labelled data set of any layout."""
ALL: Literal["all"] = "all"


class PrivacyConfig(Config):
    """What may be seen of what is marked private."""

    share_frames: bool = Field(
        default=False,
        description="show frames, hospitals and case ids of what is private in reports, figures, logs, mlflow and card",
    )


class Marks(Config):
    """What of a data set is private."""

    cases: Literal["all"] | tuple[AsWritten, ...] = Field(
        default=(), description="cases or videos whose frames and names must not be shown, or `all`"
    )
    names: tuple[AsWritten, ...] = Field(
        default=(), description="what else must not be read, such as a hospital in paths and in names of backbones"
    )


NO_MARKS = Marks()


def marks_in(root: Path) -> Marks:
    """What DATA/private.yaml marks; nothing without it. Raises ConfigError for a file that cannot be understood or that
    marks nothing: then it is not known what is private.
    """
    path = root / MARKS
    if not path.is_file():
        return NO_MARKS
    try:
        tree = yaml_text.load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected `cases: all`, or lists under `cases` and `names`")
    marks = validate(Marks, tree, str(path))
    if marks == NO_MARKS:
        raise ConfigError(f"{path} marks nothing; write `cases: all`, list cases, or remove the file")
    return marks
