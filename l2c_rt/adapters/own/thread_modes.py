"""PyTorch's modes of a thread, and what they may leave behind."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import overrides
from torch.utils import _python_dispatch

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")


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


def run_observed(mode: ThreadMode, work: Callable[[], T]) -> T:
    """What `work` gives, all of whose operations go through the mode.

    Whatever torch.compile has compiled runs eagerly meanwhile, in all threads: code that it meets
    under a mode it would never compile again.
    """
    if "torch._dynamo" not in sys.modules:
        with modes_put_back(), mode:
            return work()
    user = object()
    try:
        _eager.enter(user)
        with modes_put_back(), mode:
            return work()
    finally:
        try:
            _eager.leave(user)
        except BaseException:  # Interrupted.
            _eager.leave(user)
            raise


class _Eager:
    """torch.compile stands back while there are users.  Its stance is one for all threads: who
    saves and restores it alone may restore what another has set for a while."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: set[object] = set()
        self._before: Any = None

    def enter(self, user: object) -> None:
        from torch._dynamo import eval_frame

        with self._lock:
            if self._before is None:
                # Noted before it is replaced: an interruption in between is put right by `leave`.
                self._before = eval_frame._stance
            self._users.add(user)
            eval_frame._set_stance(eval_frame.DynamoStance("force_eager"))

    def leave(self, user: object) -> None:
        from torch._dynamo import eval_frame

        with self._lock:
            self._users.discard(user)
            if not self._users and self._before is not None:
                eval_frame._set_stance(self._before)
                self._before = None


_eager = _Eager()  # Of the process, as the stance is.
