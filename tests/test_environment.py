import shutil
import subprocess
from pathlib import Path

from gmsop.runs import environment
from gmsop.runs.environment import describe_environment
from gmsop.runs.git_state import git_state


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


def test_a_repository_cannot_have_a_command_run(tmp_path):
    """Each of these settings names a command that a plain `git status` runs, or fetches by."""
    hostile = {
        "core.fsmonitor": "CMD",
        "filter.x.clean": "CMD",
        "core.sshCommand": "CMD",
        "include.path": "more",
        "remote.r.uploadpack": "CMD",
    }
    for number, (key, value) in enumerate(hostile.items()):
        folder, mark = tmp_path / str(number), tmp_path / f"mark{number}"
        folder.mkdir()
        git(folder, "init", "-q")
        (folder / "x.py").write_text("1")
        (folder / ".gitattributes").write_text("* filter=x\n")
        git(folder, "add", ".")
        git(folder, "commit", "-qm", "x")
        command = f"touch {mark};"
        git(folder, "config", key, value.replace("CMD", command))
        (folder / ".git" / "more").write_text(f'[filter "x"]\n clean = "{command}"\n[core]\n fsmonitor = "{command}"\n')
        if key == "remote.r.uploadpack":
            git(folder, "config", "remote.r.url", str(tmp_path))
            git(folder, "config", "remote.r.promisor", "true")
            shutil.rmtree(folder / ".git" / "objects" / git(folder, "rev-parse", "HEAD^{tree}")[:2])
        (folder / "x.py").write_text("2")
        found = git_state(folder)
        assert found is not None
        assert found["changed"] is None
        assert not mark.exists()
    git(tmp_path / "0", "status")
    assert (tmp_path / "mark0").exists(), "the test's own command would not have run"
