import sys

import pytest

from gmsop.errors import ConfigError, UnknownNameError
from gmsop.utils.registry import Registry


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A package whose files register themselves."""
    (tmp_path / "a_room").mkdir()
    (tmp_path / "a_room" / "__init__.py").write_text(
        "from gmsop.utils.registry import Registry\nTHINGS = Registry('thing', 'a_room')\n"
    )
    for name in ("chair", "table"):
        (tmp_path / "a_room" / f"{name}.py").write_text(
            f"from a_room import THINGS\nTHINGS.add('{name}', len('{name}'))"
        )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "a_room"
    for name in [name for name in sys.modules if name.partition(".")[0] == "a_room"]:
        del sys.modules[name]


def test_a_file_is_enough(room):
    (room / "lamp.py").write_text("from a_room import THINGS\nTHINGS.add('lamp', 4)")
    from a_room import THINGS

    assert THINGS.names() == ["chair", "lamp", "table"]
    assert (THINGS["table"], list(THINGS), "lamp" in THINGS, "tabel" in THINGS) == (5, [5, 4, 5], True, False)
    with pytest.raises(UnknownNameError, match=r"unknown thing 'tabel'\. Nearest: table"):
        THINGS["tabel"]
    with pytest.raises(ConfigError, match="there is a thing named 'lamp' already"):
        THINGS.add("lamp", 0)


def test_half_of_the_names_is_no_answer(room):
    (room / "hasty.py").write_text("from a_room import THINGS\nALL = THINGS.names()")
    from a_room import THINGS

    with pytest.raises(ImportError, match="asks for the names of all things while it is imported"):
        THINGS.names()


def test_an_entry_may_come_from_elsewhere():
    own: Registry[int] = Registry("number", "gmsop.heads")
    own.add("seven", 7)
    assert own["seven"] == 7
