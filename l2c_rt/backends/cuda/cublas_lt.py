"""Products by one of cuBLASLt's algorithms: PyTorch only ever takes the library's first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from l2c_rt._C import LtProduct, cublas_lt_version
from l2c_rt.backends.tuning.problems import HALF_DTYPES, LinearProblem

WORKSPACE_BYTES = 32 << 20
"""What the library itself asks for on Hopper."""
MOST = 16
"""Algorithms asked for: each costs some ten milliseconds of a first start, its code's loading
included, and the library's order puts the good ones first."""
CUT_FIRST = 6
"""Of so many a version with 2, 3 and 4 cuts is tried, where the output leaves a GPU idle."""
IDLE_BELOW = 132 * 128 * 128
"""Elements of an output that is less than a wave of the usual tile."""

TYPES = {"float32": 0, "float16": 2, "bfloat16": 14}
"""cudaDataType of what the library multiplies with sums in float32."""
COMPUTE_FLOAT32, COMPUTE_TF32 = 68, 77
"""cublasComputeType_t."""

Name = tuple[int, ...]
"""What tells algorithms of one version of the library apart: how it computes, nine attributes of
its configuration (id, tile, splits, reduction, swizzle, custom, stages, inner shape, cluster), and
a checksum of the rest."""
Key = tuple[int, int, int, str, bool, bool]
"""Rows, columns, inner, dtype, bias, GELU in the epilogue."""


@dataclass(frozen=True, slots=True, eq=False)
class LtAlgorithm:
    """Stands where kernels take a tile.  `workspace` is uint8 [WORKSPACE_BYTES], of one stream."""

    name: Name
    workspace: Tensor


class CublasLt:
    """The library's products on one device; `product` is its native half.

    Raises: RuntimeError where the process has no cuBLASLt.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        most: int = MOST,
        product: Callable[..., LtProduct] = LtProduct,
        version: Callable[[], int] = cublas_lt_version,
    ) -> None:
        self._device, self._most, self._product = device, most, product
        self.version = version()
        self._products: dict[tuple[Key, int], tuple[LtProduct, dict[Name, int]]] = {}

    def algorithms(self, problem: LinearProblem) -> tuple[Name, ...]:
        """Names of the library's algorithms for a product, its favourite first; none where it has
        no such product.

        What is read from a file is only used where it is among these: an algorithm is never made
        from numbers.  Raises: RuntimeError where the library fails.
        """
        if problem.dtype not in TYPES:
            return ()
        sizes = (problem.rows, problem.columns, problem.inner)
        key = (*sizes, problem.dtype, problem.bias, _in_epilogue(problem.gelu, problem.dtype))
        return tuple(self._known(key, self._compute(problem.dtype))[1])

    def linear(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        gelu: str | None,
        out: Tensor,
        algorithm: LtAlgorithm,
    ) -> Tensor:
        """gelu(x weight^T + bias) into `out`, on the current stream.

        Shapes: x [..., K]; weight [N, K]; bias [N]; out [..., N].
        Raises: ValueError for a layout, dtype or alignment that the library does not take, or an
        algorithm that it does not have for this product; RuntimeError where it fails.
        """
        key = _key(x, weight, bias, gelu, out)
        compute, *_ = algorithm.name
        product, indices = self._known(key, compute)
        if algorithm.name not in indices:
            raise ValueError(
                f"linear {list(key)}: cuBLASLt {self.version} has no algorithm {algorithm.name}; "
                "tune again"
            )
        stream = torch.cuda.current_stream(self._device).cuda_stream
        product.run(
            indices[algorithm.name], x.data_ptr(), weight.data_ptr(),
            0 if bias is None else bias.data_ptr(), out.data_ptr(),
            algorithm.workspace.data_ptr(), stream,
        )  # fmt: skip
        if gelu is not None and not _in_epilogue(gelu, key[3]):
            torch.ops.aten.gelu_(out, approximate=gelu)
        return out

    def beside(self, linear: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`kernels.linear` that takes an `LtAlgorithm` as its tile, too."""

        def either(
            x: Tensor,
            weight: Tensor,
            bias: Tensor | None = None,
            gelu: str | None = None,
            out: Tensor | None = None,
            tile: Any = None,
        ) -> Tensor:
            if not isinstance(tile, LtAlgorithm):
                return linear(x, weight, bias, gelu=gelu, out=out, tile=tile)
            out = x.new_empty((*x.shape[:-1], len(weight))) if out is None else out
            return self.linear(x, weight, bias, gelu, out, tile)

        return either

    def _known(self, key: Key, compute: int) -> tuple[LtProduct, dict[Name, int]]:
        if (key, compute) not in self._products:
            rows, columns, inner, dtype, bias, gelu = key
            index = self._device.index
            product = self._product(
                device=torch.cuda.current_device() if index is None else index,
                shape=(rows, columns, inner),
                types=(TYPES[dtype], compute),
                bias=bias,
                gelu=gelu,
                workspace=WORKSPACE_BYTES,
                most=self._most,
                cut_first=CUT_FIRST if rows * columns < IDLE_BELOW else 0,
            )
            names = {(compute, *name): i for i, name in enumerate(product.algorithms)}
            self._products[key, compute] = product, names
        return self._products[key, compute]

    @staticmethod
    def _compute(dtype: str) -> int:
        tf32 = dtype == "float32" and torch.backends.cuda.matmul.fp32_precision == "tf32"
        return COMPUTE_TF32 if tf32 else COMPUTE_FLOAT32


def _in_epilogue(gelu: str | None, dtype: str) -> bool:
    """The library has the tanh form only, by an approximation that half precision hides."""
    return gelu == "tanh" and dtype in HALF_DTYPES


def workspace_on(device: torch.device) -> Tensor:
    """Room that an algorithm may use; of one stream at a time."""
    return torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=device)


def _key(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: str | None, out: Tensor) -> Key:
    tensors = [x, weight, out] if bias is None else [x, weight, bias, out]
    n, k = weight.shape
    dtype = str(x.dtype).removeprefix("torch.")
    fits = (
        dtype in TYPES
        and x.shape[-1] == k
        and out.shape == (*x.shape[:-1], n)
        and (bias is None or bias.shape == (n,))
        and all(t.is_contiguous() and t.dtype == x.dtype for t in tensors)
    )
    if not fits:
        text = ", ".join(f"{list(t.shape)} {t.stride()} {t.dtype}" for t in tensors)
        raise ValueError(
            f"linear by cuBLASLt: got {text}, wanted contiguous x [..., K], weight [N, K], bias "
            f"[N], out [..., N] of one dtype out of {', '.join(TYPES)}"
        )
    return x.numel() // k, n, k, dtype, bias is not None, _in_epilogue(gelu, dtype)
