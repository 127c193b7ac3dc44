"""Work inside of a mode of PyTorch, of which nothing stays behind: not where an interruption meets
the leaving of the mode, and not where two threads enter and leave modes in turn."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

T = TypeVar("T")


def run_observed(mode: TorchDispatchMode, work: Callable[[], T]) -> T:
    """What `work` gives, all of whose operations go through the mode.

    Whatever torch.compile has compiled runs eagerly meanwhile, in all threads: code that it meets
    under a mode it would never compile again.
    """
    if "torch._dynamo" not in sys.modules:
        return run_inside((mode,), work)
    user = object()
    try:
        _eager.enter(user)
        return run_inside((mode,), work)
    finally:
        try:
            _eager.leave(user)
        except BaseException:  # Interrupted.
            _eager.leave(user)
            raise


def run_inside(modes: Iterable[TorchDispatchMode | TorchFunctionMode], work: Callable[[], T]) -> T:
    """What `work` gives inside of the modes, the last of which is the innermost."""

    def inside() -> T:
        for mode in modes:
            # Not `with mode:`, which notes in variables of the process whether a mode is entered:
            # threads that leave in another order than they entered in leave them wrong.
            if isinstance(mode, TorchDispatchMode):
                torch._C._push_on_torch_dispatch_stack(mode)
            else:
                torch._C._push_on_torch_function_stack(mode)
        return work()

    return run_leaving_modes(inside)


def run_leaving_modes(work: Callable[[], T]) -> T:
    """What `work` gives; modes that it has entered are left after it."""
    dispatch = torch._C._len_torch_dispatch_stack()
    function = torch._C._len_torch_function_stack()
    try:
        return work()
    finally:
        try:
            _leave(dispatch, function)
        except BaseException:  # Interrupted.
            _leave(dispatch, function)
            raise


@contextmanager
def without_gradients() -> Iterator[None]:
    """No gradients, and no inference mode, whose tensors could not outlive it.

    The thread's grad mode is put back also where an interruption meets the exit of no_grad.
    """
    before, inside = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    try:
        with torch.inference_mode(False) if inside else nullcontext(), torch.no_grad():
            yield
    finally:
        torch.set_grad_enabled(before)


def _leave(dispatch: int, function: int) -> None:
    while torch._C._len_torch_dispatch_stack() > dispatch:
        torch._C._pop_torch_dispatch_stack(None)
    while torch._C._len_torch_function_stack() > function:
        torch._C._pop_torch_function_stack()


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
