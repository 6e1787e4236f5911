"""Run a script of timm's, such as its train.py, with gmsop's models known and the balance loss in its task.

python -m gmsop.timm [--balance-weight 100] path/to/train.py DATA --model gm_sop_16_8_resnet18 ...
"""

import runpy
import sys
from pathlib import Path

import timm.task

import gmsop.models  # noqa: F401 (timm knows the models then)
from gmsop.timm.task import BalancedClassificationTask


def main(words: list[str]) -> int:
    """Run the script with the other words as its own. Returns 2 for a command line that cannot be."""
    while words and words[0].startswith("--balance-weight"):
        first, equals, value = words.pop(0).partition("=")
        try:
            BalancedClassificationTask.balance_weight = float(value if equals else words.pop(0))
        except (IndexError, ValueError):
            sys.stderr.write(f"gmsop: error: {first} wants a number\n")
            return 2
    if not words or not Path(words[0]).is_file():
        what = f"{words[0]}: no such file" if words else "no script"
        sys.stderr.write(f"gmsop: error: {what}. Usage: python -m gmsop.timm path/to/timm's/train.py DATA ...\n")
        return 2
    setattr(timm.task, "ClassificationTask", BalancedClassificationTask)  # noqa: B010 (of a type, mypy says no)
    sys.argv = words
    sys.path.insert(0, str(Path(words[0]).resolve().parent))
    runpy.run_path(words[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
