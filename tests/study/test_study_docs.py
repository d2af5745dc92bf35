import re
import shlex
from pathlib import Path

import yaml

from trocar.cli.main import parse
from trocar.core.config import preset_names, validate
from trocar.study.config import StudyConfig

PAGE = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")


def test_the_commands_of_the_page_parse_and_name_studies_in_the_box():
    commands = re.search(r"```bash\n(.*?)```", PAGE, re.DOTALL)[1].splitlines()
    assert len(commands) == 5
    for command in commands:
        args = parse(shlex.split(command)[1:])
        assert (args.study if args.command == "study" else args.name) in preset_names()


def test_the_study_of_the_page_is_legal():
    block = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1]
    study = validate(StudyConfig, yaml.safe_load(block), "docs/studies.md")
    assert len(study.all_arms()) == 2 + 3 * 2
