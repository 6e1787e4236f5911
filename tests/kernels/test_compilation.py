"""The interpreter runs what no GPU would take: the kernels must get through Triton's compiler as well."""

import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")
ASSEMBLER = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kernels.py"


@pytest.mark.slow
@pytest.mark.skipif(not ASSEMBLER.exists(), reason="this Triton cannot compile for NVIDIA")
@pytest.mark.parametrize("precision", ["tf32x3", "bf16"])
def test_every_kernel_compiles_for_a_gpu_that_is_not_there(tmp_path, monkeypatch, precision):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    command = [sys.executable, SCRIPT, "--small", "--capability", "90", "--precision", precision]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    kernels = [line.split() for line in done.stdout.splitlines() if "_kernel" in line]
    assert len({name for name, *_ in kernels}) == 5
    assert len(kernels) == 10  # of float32 and of bfloat16 features
    assert all(0 < int(registers) <= 255 for _, _, registers, *_ in kernels)
