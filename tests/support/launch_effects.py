"""What a recorded launch reads, writes and adds up, by its arguments, and memory that tells."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from launch_recorder import Entry, Operator, Range, span
from recording_driver import Launch
from torch import Tensor

from l2c_rt.backends.cuda.cuda_parts import FUNCTIONS

EFFECTS: dict[str, tuple[str, str, str]] = {
    "_patch_embed_kernel": (
        "latents", "x h:WRITE_H",
        "weight bias positions table:EXTRAS rows:EXTRAS norm_weight:WRITE_H norm_bias:WRITE_H",
    ),
    "_patch_embed_norm_modulate_kernel": (
        "latents counter", "x h", "weight bias positions table rows",
    ),
    "_reuse_run_kernel": (
        "x arena counter", "x_out:WRITE_X h:WRITE_H",
        "slots gates table rows weights:WEIGHTED columns:WEIGHTED",
    ),
    "_reuse_run_norm_kernel": (
        "x arena counter:WEIGHTED", "x_out:WRITE_X h:WRITE_H",
        "slots weight:WRITE_H bias:WRITE_H weights:WEIGHTED columns:WEIGHTED",
    ),
    "_mix_kernel": ("arena counter", "out", "slots weights columns bank:OPERAND index:OPERAND"),
    "_gate_residual_kernel": (
        "x y:!SPLITS partial_sums:SPLITS counter", "x_out h:WRITE_H y:SPLITS", "table rows",
    ),
    "_residual_norm_kernel": ("x y:!SPLITS partial_sums:SPLITS", "x_out h y:SPLITS", "weight bias"),
    "_split_sum_kernel": ("partial_sums", "y", ""),
    "_attention_kernel": ("qkv", "out", ""),
    "_attention_logs_kernel": ("qkv", "out", ""),
    "_attention_received_kernel": ("qkv logs", "out", ""),
    "_unit_scores_kernel": ("parts counter", "scores stamps", "table"),
    "_choose_tokens_kernel": ("scores stamps counter", "chosen stamps", "table"),
    "_linear_kernel": ("x", "out", "weight bias"),
    "_split_linear_kernel": ("x", "partial_sums", "weight bias"),
    "_skip_linear_kernel": ("x skip", "out", "weight bias"),
    "_weight_bits_kernel": ("bits", "bits", "words"),
    "_composed_product_kernel": (
        "now known before", "out rounded:ROUNDED", "weight taken:HAS_TAKEN",
    ),
    "_final_update_kernel": (
        "x:!EMBED arena latents counter", "out counter",
        "slots gates table rows weight bias coefficients embed_weight:EMBED embed_bias:EMBED "
        "positions:EMBED weights:WEIGHTED columns:WEIGHTED",
    ),
    "_final_update_norm_kernel": (
        "x arena latents counter", "out counter",
        "slots norm_weight norm_bias weight bias coefficients weights:WEIGHTED columns:WEIGHTED",
    ),
}  # fmt: skip
"""Kernel -> arguments that are read, written, and read but the same for the whole run.

`:FLAG` is the flag under which it is so.  The anchor, which a row of the solver's table turns on,
is not among them.
"""


@dataclass(frozen=True)
class Effect:
    """`slots` and `gates` are what the kernel adds up, by number, in order."""

    reads: tuple[Range, ...]
    writes: tuple[Range, ...]
    constants: tuple[Range, ...]
    slots: tuple[int, ...] = ()
    gates: tuple[int, ...] = ()
    anchor: Range | None = None


def effect(entry: Entry) -> Effect:
    if isinstance(entry, Operator):
        return Effect(entry.reads, entry.writes, ())
    reads, writes, constants = (_arguments(entry, names) for names in EFFECTS[entry.kernel])
    given = entry.arguments
    slots: tuple[int, ...] = ()
    gates: tuple[int, ...] = ()
    if "slots_ptr" in given:
        slots = tuple(given["slots_ptr"][: given["K"]].tolist())
        gates = tuple(given["gates_ptr"][: given["K"]].tolist()) if "gates_ptr" in given else ()
        base, stride = given["arena_ptr"].data_ptr(), 8 * given["stride_slot_vectors"]
        size = given["arena_ptr"].element_size()
        one = given["arena_ptr"][0].numel() * size
        reads = [r for r in reads if r[0] != base or r[1] <= one]
        reads += [(base + slot * stride * size, one) for slot in slots]
    elif entry.kernel == "_gate_residual_kernel":
        gates = (given["gate"],)
    anchor = span(given["anchor_ptr"]) if "anchor_ptr" in given else None
    return Effect(tuple(reads), tuple(writes), tuple(constants), slots, gates, anchor)


def _arguments(launch: Launch, names: str) -> list[Range]:
    found = []
    for name, _, flag in (name.partition(":") for name in names.split()):
        wanted = not flag or bool(launch.arguments[flag.lstrip("!")]) is not flag.startswith("!")
        if wanted and launch.arguments[f"{name}_ptr"].numel():
            found.append(span(launch.arguments[f"{name}_ptr"]))
    return found


@cache
def _described() -> dict[str, Callable[..., dict[str, Any]]]:
    modules = [importlib.import_module(f"l2c_rt.kernels.{file}") for file in FUNCTIONS]
    return {
        name: found.launch_metadata
        for module in modules
        for name, found in vars(module).items()
        if name.startswith("_") and hasattr(found, "launch_metadata")
    }


def moved_bytes(launch: Launch) -> int:
    """What the kernel's own byte model tells a profiler."""
    describe = _described()[launch.kernel]
    told = describe(launch.grid, SimpleNamespace(name=launch.kernel), launch.arguments)
    return int(told["bytes"])


class Memory:
    """Which bytes hold a value; those that nobody wrote are poison."""

    def __init__(self, regions: Sequence[Tensor]) -> None:
        spans = [(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()) for t in regions]
        self._written: dict[Range, npt.NDArray[np.bool_]] = {
            at: np.zeros(at[1], dtype=bool) for at in dict.fromkeys(spans)
        }

    def of(self, at: Range) -> npt.NDArray[np.bool_]:
        """The bytes of a range; KeyError for memory that is none of the session's buffers."""
        address, size = at
        for (first, length), bytes_ in self._written.items():
            if first <= address and address + size <= first + length:
                return bytes_[address - first : address - first + size]
        raise KeyError(f"{size} bytes at {address:#x} belong to no static buffer")

    def has(self, at: Range) -> bool:
        """Whether a range belongs to one of the buffers."""
        return any(f <= at[0] and at[0] + at[1] <= f + n for f, n in self._written)

    def write(self, at: Range) -> None:
        self.of(at)[:] = True

    def poison(self, at: Range) -> None:
        self.of(at)[:] = False

    def holds(self, at: Range) -> bool:
        return bool(self.of(at).all())
