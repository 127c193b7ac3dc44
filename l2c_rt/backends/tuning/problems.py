"""Shapes of what is tuned, and the ways of computing it that can be chosen.  Pure data.

Both have a plain JSON form that is kept between runs.  Such a file is untrusted: `from_json` gives
None for whatever is not exactly one of these, and nothing read is ever executed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

DTYPES = ("bfloat16", "float16", "float32", "float64")
HALF_DTYPES = ("bfloat16", "float16")
"""Those whose products run on tensor cores."""

ATTENTION_KINDS = ("cudnn", "flash", "efficient", "math", "sdpa", "native")
"""Those without a tile."""
PLAIN_KINDS = ("addmm", "packed", "addmm_activation", "halves")
"""Ways of computing a linear layer without a tile."""
LINEAR_TILE, ATTENTION_TILE, LT_NAME = 6, 5, 11
"""Numbers in a tile: the fields of `MatrixTile` and `AttentionTile`, a name of cuBLASLt's."""
LARGEST = 1 << 40
MAX_SPLITS = 16


@dataclass(frozen=True, slots=True)
class LinearProblem:
    """y [rows, columns] = gelu(x [rows, inner] weight^T + bias).

    `gelu` is PyTorch's `approximate`: "tanh", "none" (erf), or None for no activation.
    `splittable`: what reads y can add float32 parts instead.  `sources`: 2 where x is [x | skip],
    two tensors of half the width each.
    """

    rows: int
    columns: int
    inner: int
    bias: bool
    gelu: str | None
    dtype: str
    splittable: bool
    sources: int = 1

    def __str__(self) -> str:
        gelu = {None: "", "tanh": " gelu-tanh", "none": " gelu-erf"}[self.gelu]
        marks = (" bias" if self.bias else "") + gelu + (" splittable" if self.splittable else "")
        marks += "" if self.sources == 1 else f" of {self.sources} sources"
        return f"linear [{self.rows}, {self.columns}, {self.inner}] {self.dtype}{marks}"

    def to_json(self) -> Json:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, got: object) -> LinearProblem | None:
        if not isinstance(got, dict) or set(got) != set(cls.__slots__):
            return None
        sizes = (got["rows"], got["columns"], got["inner"])
        flags = (got["bias"], got["splittable"])
        if not _sizes(sizes) or not all(isinstance(flag, bool) for flag in flags):
            return None
        known = got["dtype"] in DTYPES and got["gelu"] in ("tanh", "none", None)
        known = known and type(got["sources"]) is int and got["sources"] in (1, 2)
        return cls(**got) if known else None


@dataclass(frozen=True, slots=True)
class AttentionProblem:
    """Self-attention over `tokens`, with `heads` heads of `head` columns each."""

    batch: int
    tokens: int
    heads: int
    head: int
    dtype: str

    def __str__(self) -> str:
        return f"attention [{self.batch}, {self.tokens}, {self.heads} x {self.head}] {self.dtype}"

    def to_json(self) -> Json:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, got: object) -> AttentionProblem | None:
        if not isinstance(got, dict) or set(got) != set(cls.__slots__):
            return None
        sizes = (got["batch"], got["tokens"], got["heads"], got["head"])
        return cls(**got) if _sizes(sizes) and got["dtype"] in DTYPES else None


@dataclass(frozen=True, slots=True)
class LinearConfig:
    """`kind`: "addmm" (an activation follows on its own), "packed" (oneDNN's on a CPU, activation
    included), "addmm_activation" (tanh GELU in cuBLASLt's epilogue), "lt" (an algorithm of
    cuBLASLt's that the tuner picked), "triton" (`kernels.linear`), "split"
    (`kernels.split_linear`).

    Of two sources only "triton" (`kernels.skip_linear`) and "halves" (two of cuBLAS's products).

    `tile`: the algorithm's name for "lt" (`cublas_lt.Name`), the fields of a `MatrixTile` for the
    last two; None for the others.
    """

    kind: str
    tile: tuple[int, ...] | None = None
    splits: int = 1

    def __str__(self) -> str:
        return _named(self.kind, self.tile) + (f" in {self.splits}" if self.splits > 1 else "")

    def to_json(self) -> Json:
        tile = None if self.tile is None else list(self.tile)
        return {"kind": self.kind, "tile": tile, "splits": self.splits}

    @classmethod
    def from_json(cls, got: object) -> LinearConfig | None:
        if not isinstance(got, dict) or set(got) != set(cls.__slots__):
            return None
        kind, tile, splits = got["kind"], got["tile"], got["splits"]
        if not _sizes([splits]):
            return None
        if kind in PLAIN_KINDS and tile is None and splits == 1:
            return cls(kind)
        if kind == "lt" and splits == 1 and _tile(tile, LT_NAME, least=0):
            return cls(kind, tuple(tile))
        count = 1 if kind == "triton" else min(max(2, splits), MAX_SPLITS)
        if kind in ("triton", "split") and _tile(tile, LINEAR_TILE) and splits == count:
            return cls(kind, tuple(tile), splits)
        return None


@dataclass(frozen=True, slots=True)
class AttentionConfig:
    """`kind`: a backend of PyTorch's scaled_dot_product_attention ("cudnn", "flash", "efficient",
    "math"), "triton" (`kernels.attention`), or on a CPU "sdpa" (PyTorch's) and "native" (ours).

    `tile`: the fields of an `AttentionTile`, for the last kind only.
    """

    kind: str
    tile: tuple[int, ...] | None = None

    def __str__(self) -> str:
        return _named(self.kind, self.tile)

    def to_json(self) -> Json:
        return {"kind": self.kind, "tile": None if self.tile is None else list(self.tile)}

    @classmethod
    def from_json(cls, got: object) -> AttentionConfig | None:
        if not isinstance(got, dict) or set(got) != set(cls.__slots__):
            return None
        kind, tile = got["kind"], got["tile"]
        if kind in ATTENTION_KINDS and tile is None:
            return cls(kind)
        if kind == "triton" and _tile(tile, ATTENTION_TILE):
            return cls(kind, tuple(tile))
        return None


def _named(kind: str, tile: tuple[int, ...] | None) -> str:
    return kind if tile is None else f"{kind} {'x'.join(map(str, tile))}"


def _sizes(got: Iterable[object], least: int = 1) -> bool:
    return all(type(size) is int and least <= size <= LARGEST for size in got)


def _tile(got: object, length: int, least: int = 1) -> bool:
    return isinstance(got, list) and len(got) == length and _sizes(got, least)
