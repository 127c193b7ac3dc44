"""PyTorch's modes of a thread, and what they may leave behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import overrides
from torch.utils import _python_dispatch

if TYPE_CHECKING:
    from typing_extensions import Self


class ThreadMode(_python_dispatch.TorchDispatchMode):
    """A dispatch mode that leaves no mark but on the stack of its thread.

    PyTorch's own also sets flags of the process for as long as it holds: of two threads that leave
    in another order than they came, the second leaves them set, and torch.compile then compiles
    nothing more.
    """

    def __enter__(self) -> Self:
        _python_dispatch._push_mode(self)  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        _python_dispatch._pop_mode()


@contextmanager
def modes_put_back() -> Iterator[None]:
    """Leave the thread's grad mode and its stacks of modes as they were.

    A context of PyTorch's does not where Ctrl-C comes inside of its exit.
    """
    grad = torch.is_grad_enabled()
    dispatch, function = _depths()
    try:
        yield
    finally:
        while _depths()[0] > dispatch:
            _python_dispatch._pop_mode()
        while _depths()[1] > function:
            overrides._pop_mode()  # type: ignore[no-untyped-call]
        # Last: a mode would see it.
        torch.set_grad_enabled(grad)


def _depths() -> tuple[int, int]:
    return torch._C._len_torch_dispatch_stack(), torch._C._len_torch_function_stack()
