"""The commands and files on the pages about clusters."""

import re
import shlex
from pathlib import Path

import yaml

from trocar.cli.main import main, parse
from trocar.core.config import validate
from trocar.slurm.profile import Profile, load_profile

PAGE = (Path(__file__).parents[2] / "docs" / "slurm.md").read_text(encoding="utf-8")


def test_the_commands_of_the_page_parse_and_the_profile_to_copy_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = re.search(r"```bash\n(.*?)```", PAGE, re.DOTALL)[1].splitlines()
    lines += [line.strip() for line in PAGE.splitlines() if line.startswith("    trocar ")]
    assert len(lines) >= 10
    for line in lines:
        words = shlex.split(line.partition("#")[0])
        args = parse(words[1:])
        if args.command == "presets":
            assert main(words[1:]) == 0
    assert load_profile("cluster.yaml").gpus_per_node == 4


def test_the_profile_of_the_page_validates():
    text, container = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    profile = validate(Profile, yaml.safe_load(text) | yaml.safe_load(container), "docs/slurm.md")
    assert profile.ranks == 8
    assert profile.stage_to == "$SLURM_TMPDIR"
    assert profile.container.runner == "apptainer"
