"""The Python side of the stand-in driver (csrc/tests/fake_cuda*.c) and of its cases."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence

ILLEGAL_ADDRESS = 700
KEEPS_A_CONTEXT = (
    *("cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2", "cuThreadExchangeStreamCaptureMode"),
)


class Driver:
    """The stand-in's own side: what it was asked, what is left, what shall fail."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        self._library.fake_calls.restype = ctypes.c_char_p

    def calls(self) -> list[tuple[str, int]]:
        """Calls since the last time, with their argument; what only keeps a context is left out."""
        lines = self._library.fake_calls().decode().splitlines()
        self._library.fake_forget_calls()
        pairs = [(line.split()[0], int(line.split()[1], 16)) for line in lines]
        return [pair for pair in pairs if pair[0] not in KEEPS_A_CONTEXT]

    def fail(self, call: str, nth: int = 1, code: int = ILLEGAL_ADDRESS) -> None:
        self._library.fake_fail(call.encode(), nth, code)

    def set_free(self, size: int) -> None:
        self._library.fake_set_free(ctypes.c_uint64(size))

    def capture(self, captures: bool) -> None:
        """Whether streams are captured from now on."""
        self._library.fake_capture(int(captures))

    @property
    def left_over(self) -> int:
        return int(self._library.fake_left_over())

    def check_clean(self) -> None:
        """Nothing left, nothing misused, no context left current on this thread."""
        assert self.left_over == 0
        self.check_correct()

    def check_correct(self) -> None:
        assert self._library.fake_misuses() == 0
        assert self._library.fake_depth() == 0


def error_of(call: Callable[..., object], *arguments: object, **named: object) -> Exception:
    try:
        call(*arguments, **named)
    except Exception as error:
        return error.with_traceback(None)  # whose frames would keep the arena alive
    raise AssertionError("nothing was raised")


def names(calls: Sequence[tuple[str, int]]) -> list[str]:
    return [name for name, _ in calls]


def run_case(cases: dict[str, Callable[[Driver], None]]) -> None:
    """The case that the command line names."""
    cases[sys.argv[1]](Driver())
