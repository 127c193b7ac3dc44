"""What belongs to the process or to a thread, and must be after a test as it was before."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Mapping

import torch
from torch import nn
from torch.utils import _python_dispatch

GLOBAL_HOOKS = (
    "_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks",
    "_global_buffer_registration_hooks", "_global_module_registration_hooks",
    "_global_parameter_registration_hooks",
)  # fmt: skip


def process_state() -> Mapping[str, object]:
    """By name, as far as tests or what they test may set it for a while."""
    python = torch.overrides._get_current_function_mode_stack()
    return {
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "function modes": [type(mode).__name__ for mode in python],
        "in a mode": _python_dispatch._is_in_any_mode_without_ignore_compile_internals,
        "default dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "hooks of all modules": sum(len(getattr(nn.modules.module, n)) for n in GLOBAL_HOOKS),
        "garbage collection": gc.isenabled(),
        "stance of torch.compile": _stance(),
        "working directory": os.getcwd(),
        "Ctrl-C": signal.getsignal(signal.SIGINT),
        "level of logging": logging.getLogger().level,
    }  # fmt: skip


def _stance() -> str:
    """That of torch.compile, once somebody has imported what has it."""
    module = sys.modules.get("torch._dynamo.eval_frame")
    return "default" if module is None else module._stance.stance
