"""The weight of one linear, with the copies that products want of it."""

from __future__ import annotations

import threading

import torch
from torch import Size, Tensor, nn

from l2c_rt._C import checksum
from l2c_rt.backends.cpu.packed import pack, packed_bytes, why_not_packed
from l2c_rt.backends.tuning.problems import LinearConfig


class LinearWeight:
    """Weight and bias of a linear as they were when this was made.

    `dtype` is that of the products: where it is another than the weight's, the products are on
    copies.  `choices` are the products for each shape of rows and each GELU.
    """

    __slots__ = ("_bits", "_lock", "_packed", "_plain", "_versions", "bias", "bias_source",
                 "choices", "dtype", "source", "why_not")  # fmt: skip

    def __init__(self, module: nn.Linear, dtype: torch.dtype | None = None) -> None:
        self.source, self.bias_source = module.weight, module.bias
        self.dtype = dtype or module.weight.dtype
        self._versions = _version(module.weight), _version(module.bias)
        self.why_not = why_not_packed(module, dtype)
        bias = module.bias
        self.bias = bias if bias is None else bias.detach().to(self.dtype)
        self._plain: Tensor | None = None
        self._packed: Tensor | None = None
        self._bits: int | None = None
        self.choices: dict[tuple[Size, str | None], LinearConfig] = {}
        self._lock = threading.Lock()

    def is_of(self, module: nn.Linear) -> bool:
        """Whether the module has this very weight, and nothing was written to it since."""
        own = module._parameters
        weight, bias = self.source, self.bias_source
        return (
            own.get("weight") is weight
            and own.get("bias") is bias
            and self._versions == (_version(weight), _version(bias))
        )

    @property
    def plain(self) -> Tensor:
        """The weight in the products' dtype: the user's own tensor where it has it."""
        if self.source.dtype == self.dtype:
            return self.source
        if self._plain is None:
            self._note_bits()
            self._plain = self.source.detach().to(self.dtype)
        return self._plain

    def packed_copy(self) -> Tensor:
        """The weight in oneDNN's layout, copied now if it is not there."""
        packed = self._packed
        if packed is None:
            # Two sessions at once would make two.
            with self._lock:
                packed = self._packed
                if packed is None:
                    self._note_bits()
                    packed = self._packed = pack(self.source, self.dtype)
        return packed

    def keep_only(self, *, packed: bool) -> None:
        """Give the packed copy back, or the other one."""
        if packed:
            self._plain = None
        else:
            self._packed = None

    @property
    def nbytes(self) -> int:
        """Memory of the copies."""
        plain = 0 if self._plain is None else self._plain.nbytes
        return plain + (0 if self._packed is None else packed_bytes(self._packed))

    def bits_are_the_same(self) -> bool:
        """Whether the copies, if there are any, are still those of the weight."""
        return self.nbytes == 0 or self._bits == self._sum_of_bits()

    def _note_bits(self) -> None:
        if self._bits is None:
            self._bits = self._sum_of_bits()

    def _sum_of_bits(self) -> int:
        bias = self.bias_source
        return sum_of_bits(self.source) + (0 if bias is None else sum_of_bits(bias))


def sum_of_bits(tensor: Tensor) -> int:
    """A number that changes with the tensor's content, at the speed at which memory is read."""
    content = tensor.detach().contiguous()
    return checksum(content.data_ptr(), content.nbytes, torch.get_num_threads())


def _version(tensor: Tensor | None) -> int:
    # Tensors made under torch.inference_mode keep no version counter.
    return 0 if tensor is None or tensor.is_inference() else tensor._version
