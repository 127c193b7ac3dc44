"""A process that compiles DiT-XL/2 and samples one image: run by the part "start"."""

from __future__ import annotations

import json
import time

import torch

from gpu.models import CASES, Rig, compiled


def first_image(backend: str) -> None:
    """Prints seconds of `compile` and of everything up to the first image, as JSON."""
    rig, case = Rig(torch.device("cuda")), CASES[0]
    model, schedule = rig.model(case.model), case.schedule()
    noise, y = rig.noise(model, 1)
    torch.cuda.synchronize()
    began = time.perf_counter()
    fast = compiled(model, schedule, schedule.steps, backend=backend)
    planned = time.perf_counter() - began
    fast.sample(noise, y)
    torch.cuda.synchronize()
    print(json.dumps({"compile": planned, "seconds": time.perf_counter() - began}))
