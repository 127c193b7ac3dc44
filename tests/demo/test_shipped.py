"""The shipped model where nothing is installed for pictures, as in the image of the Dockerfile."""

from __future__ import annotations

import subprocess
import sys

PICTURES = ("matplotlib", "PIL", "sklearn", "torchmetrics")
CODE = f"""
import sys
sys.modules.update(dict.fromkeys({PICTURES!r}))
from l2c_rt.demo.shipped import load_demo_model, load_demo_router
print(sum(p.numel() for p in load_demo_model().parameters()), load_demo_router(20).steps)
"""


def test_the_model_and_its_router_need_no_extra() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    numbers, steps = done.stdout.split()
    assert int(numbers) > 100_000
    assert steps == "20"
