"""A learning run on disk: one safetensors file that a killed run is taken up from, bit for bit."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from l2c_rt.adapters.model_fingerprint import fingerprint_difference
from l2c_rt.learning.options import LearnOptions
from l2c_rt.learning.state import LearnState
from l2c_rt.schedule.checks import check_fingerprint
from l2c_rt.untrusted.atomic_write import write_whole
from l2c_rt.untrusted.bounded_read import naming, parse_json, read_bounded
from l2c_rt.untrusted.safetensors_file import SafetensorsFile

FORMAT = "l2c_rt.learning"
VERSION = "2"
MAX_BYTES = 1 << 28
COEFFICIENTS = "coefficients."
"""What is learned beside the gates, by the same names."""

NUMBERS = ("lam", "error", "error_at_cut", "seconds")
DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "BOOL": np.dtype("?"),
}  # fmt: skip


def save_checkpoint(path: Path, state: LearnState, options: LearnOptions, model: str) -> None:
    """Write the state of a run on the model of that fingerprint, whole or not at all."""
    tensors = {"theta": state.logits, **_moments(state.theta, state.optimizer), **_path(state)}
    if state.coefficients is not None:
        learned = state.coefficients
        moments = _moments(learned.theta, learned.optimizer)
        moments["theta"] = torch.stack([theta.detach() for theta in learned.theta])
        tensors |= {f"{COEFFICIENTS}{name}": tensor for name, tensor in moments.items()}
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
    metadata = {"format": FORMAT, "version": VERSION, "model": model}
    metadata |= {"state": json.dumps(header), "options": json.dumps(options.as_dict())}
    write_whole(path, save(tensors, metadata=metadata))


def load_checkpoint(path: Path, state: LearnState, options: LearnOptions, model: str) -> None:
    """Bring a fresh state to where the run was that wrote `path`.

    Raises ValueError, the state as it was, where it was another run (other options, model or
    version) or the file is damaged.
    """
    content = read_bounded(path, MAX_BYTES, "checkpoint")
    with naming(path):
        file = SafetensorsFile(io.BytesIO(content), len(content))
        _check_same(file.metadata, options, model)
        header = _header(parse_json(file.metadata["state"].encode()), state, options)
        _restore(state, _tensors(file, state, len(header["snapshots"])), header)


def _moments(
    leaves: Sequence[torch.Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    """The optimiser's memory of every row; rows never stepped have zero steps."""
    known = [optimizer.state.get(theta, {}) for theta in leaves]
    blank = torch.zeros_like(leaves[0])
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


def _check_same(metadata: Mapping[str, str], options: LearnOptions, model: str) -> None:
    absent = {"format", "version", "model", "options", "state"} - metadata.keys()
    if absent or (metadata["format"], metadata["version"]) != (FORMAT, VERSION):
        file_format = f"{metadata.get('format')!r:.40} version {metadata.get('version')!r:.40}"
        raise ValueError(
            f"format {file_format}, wanted {FORMAT} {VERSION} and a state; resume=False begins anew"
        )
    saved, current = parse_json(metadata["options"].encode()), options.as_dict()
    if not isinstance(saved, dict):
        raise ValueError(f"its options are a {type(saved).__name__}, wanted an object")
    other = [name for name in current if saved.get(name, "nothing") != current[name]]
    if other:
        was = ", ".join(f"{name}={saved.get(name)!r:.40}" for name in other)
        now = ", ".join(f"{name}={current[name]!r}" for name in other)
        raise ValueError(
            f"the run was begun with {was}, now it is {now}; use the same, or resume=False to "
            "begin anew"
        )
    check_fingerprint(metadata["model"])
    if metadata["model"] != model:
        # Equal in one of two dtypes is enough for a router, and not for the same bits.
        difference = metadata["model"] and fingerprint_difference(metadata["model"], model)
        raise ValueError(
            f"the run was begun with a model of other {difference or 'weights'}; take it up with "
            "that model, or begin anew with resume=False"
        )


def _header(header: Any, state: LearnState, options: LearnOptions) -> dict[str, Any]:
    """The state's plain numbers, each checked to be what this run can have."""
    if not isinstance(header, dict):
        raise ValueError(f"its state is a {type(header).__name__}, wanted an object")
    iteration, snapshots = header.get("iteration"), header.get("snapshots")
    if type(iteration) is not int or not 0 <= iteration <= options.iterations:
        raise ValueError(f"iteration is {iteration!r:.40}, wanted 0..{options.iterations}")
    for name in NUMBERS:
        value = header.get(name)
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{name} is {value!r:.40}, wanted a finite number")
    if header.get("rows") != list(state.rows):
        raise ValueError(f"rows are {header.get('rows')!r:.60}, wanted {state.rows}")
    if not isinstance(snapshots, list) or not all(
        type(k) is int and 0 <= k <= iteration for k in snapshots
    ):
        raise ValueError(f"snapshots are {snapshots!r:.60}, wanted iterations up to {iteration}")
    return header


def _tensors(file: SafetensorsFile, state: LearnState, pictured: int) -> dict[str, torch.Tensor]:
    """The tensors of the file, each of the kind and shape that this run has, and finite."""
    rows, branches = len(state.rows), len(state.theta[0])
    expected: dict[str, tuple[str, tuple[int, ...]]] = {
        "theta": ("F32", (rows, branches)), "steps": ("F32", (rows,)), "met": ("BOOL", (rows,)),
    }  # fmt: skip
    expected |= {name: ("F32", (rows, branches)) for name in ("first", "second")}
    expected |= {name: ("F64", (rows, branches)) for name in ("fall", "rest", "total")}
    if state.coefficients is not None:
        shape = tuple(state.coefficients.scale.shape)
        names = ("theta", "first", "second")
        expected |= {f"{COEFFICIENTS}{name}": ("F32", shape) for name in names}
        expected[f"{COEFFICIENTS}steps"] = ("F32", (rows,))
    if pictured:
        expected["snapshots"] = ("F32", (pictured, rows, branches))
    if file.entries.keys() != expected.keys():
        raise ValueError(f"holds {sorted(file.entries)!r:.200}, wanted {sorted(expected)}")
    tensors = {}
    for name, (kind, shape) in expected.items():
        entry = file.entries[name]
        if (entry.kind, entry.shape) != (kind, shape):
            raise ValueError(f"{name} is {entry.kind} {entry.shape}, wanted {kind} {shape}")
        values = np.frombuffer(file.read(entry), DTYPES[kind]).reshape(shape)
        if not np.isfinite(values).all() or (
            name.endswith(("steps", "second")) and (values < 0).any()
        ):
            raise ValueError(f"{name} holds numbers that are not finite, or negative")
        tensors[name] = torch.from_numpy(values)
    return tensors


def _restore(state: LearnState, tensors: dict[str, torch.Tensor], header: dict[str, Any]) -> None:
    _restore_leaves(state.theta, state.optimizer, tensors, "")
    if state.coefficients is not None:
        learned = state.coefficients
        _restore_leaves(learned.theta, learned.optimizer, tensors, COEFFICIENTS)
    for name, tensor in _path(state).items():
        tensor.copy_(tensors[name])
    for name in NUMBERS:
        setattr(state, name, float(header[name]))
    state.iteration = header["iteration"]
    if header["snapshots"]:
        state.snapshots = list(zip(header["snapshots"], tensors["snapshots"], strict=True))


def _restore_leaves(
    leaves: Sequence[torch.Tensor],
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, torch.Tensor],
    prefix: str,
) -> None:
    for i, theta in enumerate(leaves):
        theta.detach().copy_(tensors[f"{prefix}theta"][i])
        if tensors[f"{prefix}steps"][i] > 0:
            optimizer.state[theta] = {
                "step": tensors[f"{prefix}steps"][i].clone(),
                "exp_avg": tensors[f"{prefix}first"][i].clone(),
                "exp_avg_sq": tensors[f"{prefix}second"][i].clone(),
            }
