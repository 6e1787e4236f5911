"""The training step's table, and where the time of GM-SOP's step goes.

python benchmarks/step.py [--device cuda] [--json FILE]
"""

import sys

import torch

from gmsop.cli import main
from gmsop.cli.commands.benchmark import asked_device
from gmsop.speed.step_table import training_step

if __name__ == "__main__":
    status = main(["benchmark", "step", *sys.argv[1:]])
    if status:
        sys.exit(status)
    device = asked_device(sys.argv[1:])
    batch = 256 if device.type == "cuda" else 16
    step = training_step("gm_sop_16_8_resnet18", batch, device)
    for _ in range(5):
        step()
    with torch.profiler.profile() as profile:
        for _ in range(5):
            step()
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    print(profile.key_averages().table(sort_by=key, row_limit=25, max_name_column_width=60))
