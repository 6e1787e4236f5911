import os

import pytest

from gmsop.utils.files import beside, clear_unfinished, writing
from gmsop.utils.lock import Lock


def test_one_at_a_time(tmp_path):
    lock = Lock(tmp_path / ".lock", RuntimeError("in use"))
    with pytest.raises(RuntimeError, match="in use"):
        Lock(tmp_path / ".lock", RuntimeError("in use"))
    lock.release()
    Lock(tmp_path / ".lock", RuntimeError("in use")).release()
    assert not list(tmp_path.iterdir())


def test_a_link_is_not_followed(tmp_path):
    """In a folder that others can write to, a link placed at the lock's name would lead to the victim's file."""
    (tmp_path / "precious").write_text("x")
    (tmp_path / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        Lock(tmp_path / ".lock", RuntimeError("in use"))
    assert (tmp_path / "precious").read_text() == "x"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_does_not_keep_the_lock(tmp_path):
    """Processes that read images outlive, for a moment, a training that was killed."""
    lock = Lock(tmp_path / ".lock", RuntimeError("in use"))
    (read, write), (began_read, began_write) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(began_write, b"x")
        os.read(read, 1)
        os._exit(0)
    os.read(began_read, 1)
    os.close(lock._handle)  # as the end of the process would
    lock._handle = None
    Lock(tmp_path / ".lock", RuntimeError("in use")).release()
    os.write(write, b"x")
    os.waitpid(child, 0)


def test_any_legal_name_can_be_written(tmp_path):
    path = tmp_path / ("x" * 251 + ".csv")
    with writing(path) as temporary:
        temporary.write_text("1")
    assert path.read_text() == "1"
    assert len(beside(path, ".parts").name) < 60
    assert beside(tmp_path / "set", ".parts").name == ".set.parts"


def test_unfinished_files_are_cleared(tmp_path):
    with pytest.raises(RuntimeError), writing(tmp_path / "a") as temporary:
        temporary.with_name(".gmsop-killed.part").write_text("half")
        raise RuntimeError
    clear_unfinished(tmp_path)
    assert not list(tmp_path.iterdir())
