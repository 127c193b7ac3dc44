"""What is kept of whole blocks, and what is predicted from it, stream by stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from l2c_rt.backends.block_calls import image_stream, parts_of
from l2c_rt.backends.block_rows import Streams
from l2c_rt.backends.extrapolation import extrapolated
from l2c_rt.backends.step_numbers import StepNumbers
from l2c_rt.memory.mixing import Operand, Row, mixed_values


class Keeping(NamedTuple):
    """What is kept of blocks; with `outputs` what they give, not what they add; with `at_exit` it
    is added where the model's code enters the module after them; `plain` is that of `Cut`."""

    outputs: bool = False
    at_exit: bool = False
    plain: str = ""

    def added(self, streams: Streams) -> Streams:
        """The streams of which is kept what is added to them, None for the others."""
        return tuple(
            None if self.outputs and not self._is_plain(j, streams) else stream
            for j, stream in enumerate(streams)
        )

    def mixed(
        self, kept: Sequence[Any], rows: Sequence[Row], operand: Operand | None,
        numbers: StepNumbers, streams: Streams,
    ) -> Any:  # fmt: skip
        """The prediction of what a block gives; row 1 of the coefficients is of plain streams."""
        if not self.plain and numbers.fit is None:
            return mixed_values(kept, rows, operand, numbers.lanes)
        parts = [
            mixed_values(values, rows[self._is_plain(j, streams) :])
            if numbers.fit is None or self._is_plain(j, streams)
            else extrapolated(values, numbers.fit)
            for j, values in enumerate(zip(*map(parts_of, kept), strict=True))
        ]
        return parts[0] if isinstance(kept[0], Tensor) else type(kept[0])(parts)

    def _is_plain(self, number: int, streams: Streams) -> bool:
        if not self.plain:
            return False
        return (self.plain == "image") == (image_stream(streams)[0] == number)


ADDED = Keeping()
