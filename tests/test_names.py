"""Names in the package have one meaning each."""

import ast
from collections import defaultdict
from pathlib import Path

import trocar

PACKAGE = Path(trocar.__file__).parent
LISTS = {
    "backbones/published",
    "cli/commands",
    "diagnostics/bench",
    "diagnostics/gpu",
    "downstream/datasets",
    "downstream/metrics",
    "downstream/protocols",
    "downstream/tasks",
    "downstream/temporal/heads",
    "jobs",
    "ssl/methods",
}
"""Folders that list alike things: a file is called after what is in the list, whoever else has that name."""
REPEATED = {
    "config.py",
    "labels.py",
    "results.py",
    "train.py",
    "writer.py",
}
"""What else two files are called. A line goes when its pair does; none is added."""


def modules():
    """Every file of the package but `__init__.py` and `__main__.py`, as a path within it."""
    return [path.relative_to(PACKAGE) for path in sorted(PACKAGE.rglob("*.py")) if not path.name.startswith("__")]


def test_no_two_classes_of_the_package_have_one_name():
    places = defaultdict(list)
    for path in modules():
        for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path}:{node.lineno}")
    assert len(places) > 300
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_no_two_files_have_one_name_but_those_of_folders_that_list_alike_things():
    places = defaultdict(list)
    for path in modules():
        if path.parent.as_posix() not in LISTS:
            places[path.name].append(str(path))
    repeated = {name: found for name, found in places.items() if len(found) > 1}
    assert {name: found for name, found in repeated.items() if name not in REPEATED} == {}


def test_every_folder_of_lists_is_there():
    assert [folder for folder in sorted(LISTS) if not (PACKAGE / folder).is_dir()] == []
