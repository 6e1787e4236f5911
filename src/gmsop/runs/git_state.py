"""Read the state of a git repository without running anything that the repository's own configuration names."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

HARMLESS = re.compile(
    r"core\.(repositoryformatversion|filemode|bare|logallrefupdates|ignorecase|precomposeunicode|symlinks|autocrlf|eol"
    r"|untrackedcache|sharedrepository)|remote\..*\.(url|pushurl|fetch)|branch\..*\.(remote|merge|rebase)"
    r"|user\.(name|email)|(pull|push|gc|color|init|rerere|merge|rebase)\.[a-z]*|extensions\.objectformat",
    re.IGNORECASE,
)
"""Settings of a repository that cannot make git run a command while it compares files with the index."""
QUIET = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": "none"}
"""Nothing is written, nobody is asked, and an object that a partial clone lacks is fetched from nowhere."""


def git_state(folder: Path, tracked: str = "") -> dict[str, Any] | None:
    """Return the commit and the files that differ from it; None outside a repository or without git.

    A repository's configuration can name commands that `git status` runs: a file system monitor, filters. Where it has
    any setting that is not known to be harmless, the files are not compared, and `changed` is None.

    Args:
        tracked: None also if the repository does not hold that file: an installed package may lie inside a repository
            that is not gmsop's.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None or (tracked and _git(folder, "ls-files", "--error-unmatch", tracked) is None):
        return None
    changes = None
    if _is_harmless(folder):
        changes = _git(folder, "status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
    changed = None if changes is None else [line[3:] for line in changes.splitlines()]
    return {"commit": commit.strip(), "changed": changed}


def _is_harmless(folder: Path) -> bool:
    """Whether the repository's own configuration has nothing that could name a command."""
    names: list[str] = []
    for scope in ("--local", "--worktree"):
        found = _git(folder, "config", scope, "--list", "--name-only", "--no-includes", "-z")
        names += [] if found is None else found.split("\0")
        if found is None and scope == "--local":
            return False
    return all(HARMLESS.fullmatch(name) for name in names if name)


def _git(folder: Path, *words: str) -> str | None:
    """Return what git prints, or None where it fails. These commands read no file's content but `status`."""
    safe = ["-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}", "-c", "core.pager=cat"]
    try:
        return subprocess.run(
            ["git", *safe, "-C", os.fspath(folder), "--no-pager", *words],
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            check=True,
            timeout=10,
            env=os.environ | QUIET,
            stdin=subprocess.DEVNULL,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
