#!/usr/bin/env bash
# On a machine with a GPU and PyTorch: the tests that run there, short trainings, and every GPU table, in under nine
# minutes.
#
#   benchmarks/gpu.sh [WHEELS] [OUT]
#   ONLY="head step" benchmarks/gpu.sh [WHEELS] [OUT]     # some of them
#
# WHEELS: a folder of wheels of what else gmsop needs, for a machine without internet. To make one for Python 3.12, where
# NumPy, SciPy, Matplotlib, PyYAML, Jinja2, torchvision, torchmetrics and TensorBoard stand beside PyTorch already:
#
#   pip download --no-deps -d WHEELS --python-version 3.12 --only-binary=:all: timm lightning lightning-utilities \
#       jsonargparse docstring-parser typeshed-client typing-extensions h5py rich markdown-it-py mdurl pygments tqdm \
#       pytest pluggy iniconfig safetensors huggingface-hub
#
# OUT: where the figures go; benchmarks/out if not given.
set -euo pipefail
cd "$(dirname "$0")/.."
wheels=${1:-} out=${2:-benchmarks/out}
mkdir -p "$out"
if [ -n "$wheels" ]; then
    python3 -m pip install -q --no-index --no-deps --find-links "$wheels" "$wheels"/*.whl
fi
python3 -c 'import torch; assert torch.cuda.is_available(), "no CUDA device"'
export PYTHONPATH="$PWD/src"
export GMSOP_CACHE="${GMSOP_CACHE:-$out/cache}" # which kernels were right and faster is decided anew, and printed at the end
run() { # SECONDS NAME COMMAND...: a table that fails or is late does not cost the others
    local limit=$1 name=$2
    shift 2
    [[ -z ${ONLY:-} || " $ONLY " == *" $name "* ]] || return 0
    echo "== $name"
    timeout "$limit" "$@" 2>&1 | tee "$out/$name.txt" | tail -40 || echo "== $name: failed or late"
}
parallel=$(python3 -c 'import xdist' 2>/dev/null && echo "-n 6" || true) # most of the time is compiling
run 125 kernels python3 -m pytest -q $parallel tests/kernels --ignore tests/kernels/test_compilation.py
run 80 tests python3 -m pytest -q $parallel tests/ops tests/nn
run 25 float16 python3 -m gmsop.cli train --recipe demo/gm_sop_4_2 --epochs 5 --precision 16-mixed --out "$out/run-$(date +%s)"
run 90 head python3 benchmarks/head.py --device cuda --json "$out/head.json"
run 95 step python3 benchmarks/step.py --device cuda --json "$out/step.json"
run 75 train python3 benchmarks/train.py # after the step, which has compiled the same
run 45 inference python3 -m gmsop.cli benchmark inference --device cuda --models 'g*_16_8_resnet18' --json "$out/inference.json"
run 20 kernels-chosen python3 -m gmsop.cli info
nvidia-smi --query-gpu=name,driver_version,clocks.sm,memory.total --format=csv,noheader | tee "$out/gpu.txt"
