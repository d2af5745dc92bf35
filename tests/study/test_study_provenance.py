import subprocess

from study_factory import make_stages

from trocar.study.stage_execution import device_of, git_state


def git(folder, *words):
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *words],
        cwd=folder,
        check=True,
        capture_output=True,
    )


def test_the_code_is_known_by_its_commit_and_whether_it_was_changed(tmp_path):
    git(tmp_path, "init")
    (tmp_path / "__init__.py").write_text("")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    commit = git_state(tmp_path)
    assert commit is not None
    assert len(commit) == 40
    (tmp_path / "notes.txt").write_text("no part of the code")
    assert git_state(tmp_path) == commit
    (tmp_path / "__init__.py").write_text("changed = True")
    assert git_state(tmp_path) == f"{commit}, changed"


def test_code_outside_a_checkout_or_ignored_in_one_has_no_commit(tmp_path):
    assert git_state(tmp_path) is None
    git(tmp_path, "init")
    (tmp_path / "other.py").write_text("")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    (tmp_path / "site").mkdir()
    (tmp_path / "site/__init__.py").write_text("")
    assert git_state(tmp_path / "site") is None


def test_a_report_runs_on_the_cpu():
    assert {device_of(stage) for stage in make_stages().values() if stage.kind == "report"} == {"cpu"}
