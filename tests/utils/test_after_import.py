import subprocess
import sys

import pytest

CODE = """
import sys
import gmsop
assert "torch" not in sys.modules and "timm" not in sys.modules
{first}
import timm
assert len(timm.list_models("gm_sop*")) == 4, timm.list_models("gm_sop*")
assert timm.create_model("gap_tiny", num_classes=3).num_classes == 3
assert gmsop.list_models("gap_tiny") == ["gap_tiny"]
assert timm.__spec__.loader is timm.__loader__ and timm.__file__
"""


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "code",
    [
        CODE.format(first=""),
        pytest.param("import timm, gmsop\nassert len(timm.list_models('gm_sop*')) == 4", marks=pytest.mark.slow),
        pytest.param(
            CODE.format(first="import gmsop.backbones.small, gmsop.training.optimizer"), marks=pytest.mark.slow
        ),
    ],
    ids=["gmsop first", "timm first", "parts of gmsop first"],
)
def test_timm_knows_the_models_whichever_is_imported_first(code):
    run(code)


def test_a_package_that_is_not_there_is_missed_as_ever():
    run(
        "import gmsop.utils.after_import as a\na.after_import('nosuch', lambda: 1)\n"
        "try:\n    import nosuch\nexcept ModuleNotFoundError:\n    pass\nelse:\n    raise SystemExit(1)"
    )
