import subprocess
from pathlib import Path

from gmsop.runs import environment
from gmsop.runs.environment import describe_environment


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    return subprocess.run(["git", "-C", folder, *who, *words], capture_output=True, text=True, check=True).stdout


def test_the_git_states_of_project_and_library(tmp_path, monkeypatch):
    """The library counts where a repository holds its files, not where it is installed inside somebody else's."""
    project, library = tmp_path / "project", tmp_path / "library"
    for folder in (project, library):
        (folder / "package").mkdir(parents=True)
        (folder / "package" / "environment.py").write_text("1")
        git(folder, "init", "-q")
        (folder / "x.py").write_text("1")
        git(folder, "add", "x.py")
        git(folder, "commit", "-qm", "x")
    (project / "x.py").write_text("2")
    monkeypatch.chdir(project)
    monkeypatch.setattr(environment, "__file__", str(library / "package" / "environment.py"))
    found = describe_environment()
    assert found["git"] == {"commit": git(project, "rev-parse", "HEAD").strip(), "changed": ["x.py"]}
    assert found["gmsop_git"] is None
    git(library, "add", ".")
    git(library, "commit", "-qm", "package")
    commit = git(library, "rev-parse", "HEAD").strip()
    assert describe_environment()["gmsop_git"] == {"commit": commit, "changed": []}
    monkeypatch.chdir(tmp_path)
    assert describe_environment()["git"] is None
