"""A learning run on disk: one safetensors file that a killed run is taken up from, bit for bit."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from l2c_rt.learning.options import LearnOptions
from l2c_rt.learning.state import LearnState
from l2c_rt.untrusted.bounded_read import parse_json, read_bounded
from l2c_rt.untrusted.safetensors_header import safetensors_header

FORMAT = "l2c_rt.learning"
VERSION = "1"
MAX_BYTES = 1 << 28


def save_checkpoint(path: Path, state: LearnState, options: LearnOptions, shapes: str) -> None:
    """Write the state beside `path` first, so that a kill leaves the old file whole."""
    tensors = {"theta": state.logits, **_moments(state), **_path(state)}
    if state.snapshots:
        tensors["snapshots"] = torch.stack([scores for _, scores in state.snapshots])
    header = {
        "iteration": state.iteration,
        "lam": state.lam,
        "error": state.error,
        "error_at_cut": state.error_at_cut,
        "seconds": state.seconds,
        "rows": state.rows,
        "snapshots": [iteration for iteration, _ in state.snapshots],
    }
    fresh = path.with_suffix(".partial")
    metadata = {"format": FORMAT, "version": VERSION, "model": shapes}
    metadata |= {"state": json.dumps(header), "options": json.dumps(options.as_dict())}
    save_file(tensors, fresh, metadata=metadata)
    os.replace(fresh, path)


def load_checkpoint(path: Path, state: LearnState, options: LearnOptions, shapes: str) -> None:
    """Bring a fresh state to where the run was that wrote `path`.

    Raises ValueError where it was another run: other options, model or version.
    """
    content = read_bounded(path, MAX_BYTES, "checkpoint")
    try:
        tensors = load(content)
        metadata = _metadata(content)
        header = parse_json(metadata["state"].encode())
        _check_same(metadata, options, shapes)
        _restore(state, tensors, header)
    except (KeyError, TypeError, RuntimeError, ValueError, SafetensorError) as error:
        raise ValueError(f"{path}: {error}") from error


def _moments(state: LearnState) -> dict[str, torch.Tensor]:
    """AdamW's memory, [rows, K] each; rows never stepped have zero steps."""
    known = [state.optimizer.state.get(theta, {}) for theta in state.theta]
    blank = torch.zeros_like(state.theta[0])
    return {
        "steps": torch.stack([torch.as_tensor(m.get("step", 0.0)).reshape(()) for m in known]),
        "first": torch.stack([m.get("exp_avg", blank) for m in known]),
        "second": torch.stack([m.get("exp_avg_sq", blank) for m in known]),
    }


def _path(state: LearnState) -> dict[str, torch.Tensor]:
    """What leads lambda, each [rows, K] float64, and the rows met."""
    prices = state.prices
    return {"fall": prices.fall, "rest": prices.rest, "total": state.sum_of_scores,
            "met": prices.met}  # fmt: skip


def _metadata(content: bytes) -> dict[str, str]:
    metadata = safetensors_header(content)
    file_format = (metadata.get("format"), metadata.get("version"))
    if file_format != (FORMAT, VERSION):
        raise ValueError(f"format {file_format}, wanted {(FORMAT, VERSION)}")
    return metadata


def _check_same(metadata: dict[str, str], options: LearnOptions, shapes: str) -> None:
    saved: dict[str, Any] = parse_json(metadata["options"].encode())
    current = options.as_dict()
    other = [name for name in current if saved.get(name, "nothing") != current[name]]
    if other:
        was = ", ".join(f"{name}={saved.get(name)!r:.40}" for name in other)
        now = ", ".join(f"{name}={current[name]!r}" for name in other)
        raise ValueError(
            f"the run was begun with {was}, now it is {now}; use the same, or resume=False to "
            "begin anew"
        )
    if metadata["model"] != shapes:
        raise ValueError("the run was begun with a model of other shapes; resume=False begins anew")


def _restore(state: LearnState, tensors: dict[str, torch.Tensor], header: dict[str, Any]) -> None:
    shape = (len(state.rows), len(state.theta[0]))
    for name in ("theta", "first", "second", "fall", "rest", "total"):
        if tuple(tensors[name].shape) != shape:
            raise ValueError(f"{name} is {tuple(tensors[name].shape)}, wanted {shape}")
    if tuple(header["rows"]) != state.rows:
        raise ValueError(f"rows are {header['rows']!r:.60}, wanted {state.rows}")
    for i, theta in enumerate(state.theta):
        theta.detach().copy_(tensors["theta"][i])
        if tensors["steps"][i] > 0:
            state.optimizer.state[theta] = {
                "step": tensors["steps"][i].clone(),
                "exp_avg": tensors["first"][i].clone(),
                "exp_avg_sq": tensors["second"][i].clone(),
            }
    for name, tensor in _path(state).items():
        tensor.copy_(tensors[name])
    state.lam, state.error = float(header["lam"]), float(header["error"])
    state.error_at_cut = float(header["error_at_cut"])
    state.seconds = float(header["seconds"])
    state.iteration = int(header["iteration"])
    if header["snapshots"]:
        state.snapshots = list(zip(header["snapshots"], tensors["snapshots"], strict=True))
    if not np.isfinite(state.lam):
        raise ValueError(f"lam is {state.lam}")
