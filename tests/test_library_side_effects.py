"""Below the command line nothing prints, exits, answers signals, starts its process anew or tunes its malloc."""

import ast
from pathlib import Path

import pytest

import trocar

PACKAGE = Path(trocar.__file__).parent
PROGRAM = "a program of its own: what it does to its process is nobody else's"
WORKER = "runs in a worker process that was started for it"
ALLOWED = {
    "__main__.py": ({"SystemExit"}, "`python -m trocar`"),
    "core/resources.py": ({"execve", "mallopt"}, "what a program may call; whoever calls it is looked for below"),
    "data/ingest/jobs.py": ({"signal.signal", "_exit"}, WORKER),
    "data/loading/workers.py": ({"signal.signal"}, WORKER),
    "diagnostics/bench/timed.py": ({"sys.exit"}, PROGRAM),
    "diagnostics/bench/trainer.py": ({"keep_freed"}, "within `diagnostics/bench/timed.py`"),
    "diagnostics/gpu/checks.py": ({"_exit"}, "`trocar doctor --gpu` alone: a GPU that hangs ends no other way"),
    "slurm/remote_call.py": ({"print", "signal.signal", "SystemExit"}, "what submitit calls as a job's program"),
}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "cli" not in path.relative_to(PACKAGE).parts)


def effects(tree):
    """What a module does to its process, by name."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in ("SystemExit", "keep_freed", "restart_on_huge_pages"):
            found.add(node.id)
        if isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if owner == "os" and (node.attr.startswith("exec") or node.attr == "_exit"):
                found.add(node.attr)
            if (owner, node.attr) in (("signal", "signal"), ("sys", "exit")):
                found.add(f"{owner}.{node.attr}")
            if node.attr in ("mallopt", "keep_freed", "restart_on_huge_pages"):
                found.add(node.attr)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "exit", "quit"):
            found.add(node.func.id)
    return found


def test_a_module_below_the_command_line_leaves_its_process_alone():
    found = {path.relative_to(PACKAGE).as_posix(): effects(ast.parse(path.read_text("utf-8"))) for path in FILES}
    # Equal, so that an exception that is no longer needed goes.
    assert {name: what for name, what in found.items() if what} == {name: what for name, (what, _) in ALLOWED.items()}


@pytest.mark.parametrize(
    ("line", "effect"),
    [
        ("print(1)", "print"),
        ("import signal; signal.signal(2, None)", "signal.signal"),
        ("raise SystemExit(1)", "SystemExit"),
        ("import sys; sys.exit(1)", "sys.exit"),
        ("import os; os.execve('a', [], {})", "execve"),
        ("libc.mallopt(1, 2)", "mallopt"),
        ("resources.keep_freed()", "keep_freed"),
    ],
)
def test_each_effect_is_found_where_it_is(line, effect):
    assert effects(ast.parse(line)) == {effect}
