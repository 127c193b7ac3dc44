"""Where only the conditional half of a batch is run, and what stands for the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

HALVED = (
    "hidden_states", "encoder_hidden_states", "timestep", "attention_mask",
    "encoder_attention_mask", "pooled_projections", "guidance", "class_labels", "sample", "x", "t",
    "timesteps", "y",
)  # fmt: skip
"""Arguments of a forward that have a row for each image of the batch."""


@dataclass(frozen=True, slots=True, eq=False)
class HalfSchedule:
    """For S evaluations of a batch of two halves, conditional and unconditional.

    Shapes: halved bool [S]; low, high float64 [S].  Where it is halved, the unconditional half is
    made of the conditional one: the difference of their spectra at the last whole evaluation, low
    and high frequencies times `low` and `high`, is added; without `bands` it is the conditional one
    itself, so that guidance does nothing.  Evaluation 0 is always run as a whole.
    `names` are the keyword arguments that are halved where they have the batch's rows; positional
    ones are by that alone.
    Raises ValueError where a table is not what it says above.
    """

    halved: npt.NDArray[np.bool_]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    bands: bool
    uncond_first: bool
    names: tuple[str, ...] = HALVED
    dims: int | None = None

    def __post_init__(self) -> None:
        halved = np.array(self.halved, np.bool_)
        if halved.ndim != 1 or not halved.size:
            raise ValueError(f"halves: halved has shape {halved.shape}, wanted [steps]")
        if self.bands and halved[0]:
            raise ValueError("halves: evaluation 0 has no earlier one whose bands it could read")
        for name, table in (
            ("low", np.array(self.low, np.float64)), ("high", np.array(self.high, np.float64)),
            ("halved", halved),
        ):  # fmt: skip
            if table.shape != halved.shape or not np.isfinite(table).all():
                raise ValueError(f"halves: {name} {table.shape}, wanted {halved.size} numbers")
            table.flags.writeable = False
            object.__setattr__(self, name, table)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HalfSchedule) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        tables = (self.halved, self.low, self.high)
        rest = (self.bands, self.uncond_first, self.names, self.dims)
        return (*(table.tobytes() for table in tables), *rest)
