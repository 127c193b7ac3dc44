"""`compile` to the first image in fresh processes: nothing cached on disk, and again.

`python -m gpu.start` is such a process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

import torch

from gpu.models import CASES, Rig, compiled

TIMEOUT_SECONDS = 150


def start_result() -> dict[str, Any]:
    """Seconds of `compile` and up to the first image, cold and warm.

    Raises RuntimeError with what the process wrote where it fails or hangs.
    """
    with tempfile.TemporaryDirectory() as empty:
        # Every cache on disk (ours, Triton's, CUDA's) begins empty.
        caches = {
            "HOME": empty, "XDG_CACHE_HOME": f"{empty}/cache", "CUDA_CACHE_PATH": f"{empty}/cuda",
            "TRITON_CACHE_DIR": f"{empty}/triton", "TORCHINDUCTOR_CACHE_DIR": f"{empty}/inductor",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }  # fmt: skip
        return {"first_image": {name: _process(os.environ | caches) for name in ("cold", "warm")}}


def _process(environment: dict[str, str]) -> dict[str, float]:
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "gpu.start"], env=environment, check=True, capture_output=True,
            text=True, timeout=TIMEOUT_SECONDS,
        )  # fmt: skip
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"{error}\n{str(error.stderr)[-2000:]}") from None
    seconds: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return seconds


def main() -> None:
    """Print the seconds as JSON."""
    rig, case = Rig(torch.device("cuda")), CASES[0]
    model, schedule = rig.model(case.model), case.schedule()
    noise, y = rig.noise(model, 1)
    torch.cuda.synchronize()
    began = time.perf_counter()
    fast = compiled(model, schedule, schedule.steps, backend="fused")
    planned = time.perf_counter() - began
    fast.sample(noise, y)
    torch.cuda.synchronize()
    print(json.dumps({"compile": planned, "seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
