"""All checks, in the order in which a later one needs an earlier one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from l2c_rt.doctor.eight_bits import eight_bits
from l2c_rt.doctor.environment import environment
from l2c_rt.doctor.finding import Finding, findings_of
from l2c_rt.doctor.kernels import kernels
from l2c_rt.doctor.running import memory, models, rates


def diagnose(device: torch.device) -> Iterator[Finding]:
    """The findings of every check on this device, each as soon as it is there."""
    yield from findings_of(
        [
            ("environment", partial(environment, device)),
            ("memory", partial(memory, device)),
            ("kernels", partial(kernels, device)),
            ("fp8", partial(eight_bits, device)),
            ("models", partial(models, device)),
            ("rates", partial(rates, device)),
        ]
    )
