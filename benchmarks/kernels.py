"""What each Triton kernel takes of a GPU's processor, compiled ahead of time: no GPU is needed.

    python benchmarks/kernels.py [--capability 90] [--precision tf32x3] [--small]

Registers, of four bytes, and the stack's bytes are a thread's; the stack holds what did not fit into the registers.
`--small` compiles for 16 instead of 128 channels, which is quick and finds what does not compile at all.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

if os.environ.pop("TRITON_INTERPRET", None):  # read when Triton is imported
    sys.stderr.write("TRITON_INTERPRET is ignored: an interpreter compiles nothing\n")

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gmsop.ops.mixture import triton_component_conv as component_conv
from gmsop.ops.second_order import triton_pooling as second_order

TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int64: "*i64"}
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


class Recorder:
    """Stands in for a kernel, and keeps what it is called with."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: Any) -> "Recorder":
        return self

    def __call__(self, *args: Any, **options: Any) -> None:
        self.args, self.options = args, options

    def compile(self, capability: int) -> tuple[int, int, int]:
        """Registers, stack and shared memory, in bytes but for the registers."""
        how = {name: self.options.pop(name) for name in ("num_warps", "num_stages")}
        # As a launch does: 1 is a constant, and of addresses and numbers it is known that 16 divides them.
        known = dict(zip(self.kernel.arg_names, self.args, strict=False)) | self.options
        types, constants, divisible = {}, {}, {}
        for i, name in enumerate(self.kernel.arg_names):
            value = known[name]
            if isinstance(value, torch.Tensor):
                types[name] = TYPES[value.dtype]
            else:
                types[name] = "constexpr" if name in self.options or value == 1 else "i32"
            if types[name] == "constexpr":
                constants[i,] = value
            elif isinstance(value, torch.Tensor) or value % 16 == 0:
                divisible[i,] = [["tt.divisibility", 16]]
        source = ASTSource(self.kernel, types, constants, divisible)
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=how)
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(compiled.asm["cubin"])
            file.flush()
            command = [CUOBJDUMP, "--dump-resource-usage", file.name]
            usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = dict(word.split(":") for word in usage.split() if word.startswith(("REG:", "STACK:")))
        return int(found["REG"]), int(found["STACK"]), compiled.metadata.shared


def launches(channels: int, dtype: torch.dtype, precision: str) -> None:
    """Everything a second-order component's training step launches, on tensors that nobody reads."""
    x = torch.empty(2, channels, 2 * channels, dtype=dtype)
    second_order.second_order_forward(x, 3, precision)
    second_order.second_order_backward(x, torch.empty(2, channels * (channels + 1) // 2), 3, precision)
    weight, chosen = torch.empty(4, 2 * channels, channels, dtype=dtype), torch.zeros(4, dtype=torch.int64)
    out = torch.empty(4, 2 * channels, 2 * channels, dtype=dtype)
    component_conv.component_conv_forward(x, weight, chosen, precision)
    component_conv.component_conv_backward_input(out, out, weight, chosen, 2, precision)
    component_conv.component_conv_backward_weight(out, out, x, chosen, 4, precision)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--capability", type=int, default=90, help="80 is an A100, 90 an H100 or H200, 100 a B200")
    parser.add_argument("--precision", default="tf32x3", choices=("tf32x3", "tf32", "bf16"))
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    recorders = {}
    for module in (second_order, component_conv):
        for name in [n for n in vars(module) if n.endswith("_kernel")]:
            recorder = Recorder(getattr(module, name))
            setattr(module, name, recorder)
            recorders[module.__name__.split(".")[-1] + name] = recorder
    print(f"capability {args.capability}, Triton {triton.__version__}, {args.precision}")
    print(f"{'kernel':40} {'features':9} {'registers':>9} {'stack':>6} {'shared, KiB':>12}")
    for dtype in (torch.float32, torch.bfloat16):
        launches(16 if args.small else 128, dtype, args.precision)
        for name, recorder in recorders.items():
            registers, stack, shared = recorder.compile(args.capability)
            print(f"{name:40} {str(dtype)[6:]:9} {registers:9} {stack:6} {shared / 1024:12.0f}", flush=True)


if __name__ == "__main__":
    main()
