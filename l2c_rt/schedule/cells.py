"""What a picture of a schedule or of a run shows of every branch at every evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from l2c_rt.schedule.files import BoolArray, Fields


@dataclass(frozen=True, slots=True)
class Cells:
    """S evaluations of K branches, of which each cell is one thing; what is none of it is reused.

    Shapes: compute, predicted, passed bool [S, K]; shares float [S, K], of the tokens that are
    computed beside those that are reused, else 0; halved bool [S], where the conditional half of
    the batch is run alone.  `passed` are branches that the residual stream is led past.
    """

    compute: BoolArray
    predicted: BoolArray
    shares: npt.NDArray[np.floating]
    passed: BoolArray
    halved: BoolArray

    @staticmethod
    def of(fields: Fields) -> Cells:
        """Those of a schedule."""
        compute = fields["compute"]
        none = np.zeros_like(compute)
        predictions, tokens = fields.get("predictions"), fields.get("tokens")
        halves = fields.get("halves")
        has_terms = predictions is not None and predictions.sources.shape[2] > 0
        return Cells(
            compute,
            predictions.sources[:, :, 0] >= 0 if predictions is not None and has_terms else none,
            np.zeros(compute.shape) if tokens is None else np.maximum(tokens.shares, 0.0),
            none if tokens is None else tokens.restored,
            # Evaluation 0 is run as a whole, whatever the table says.
            none[:, 0] if halves is None else halves.halved & (np.arange(len(compute)) > 0),
        )

    @property
    def work(self) -> npt.NDArray[np.float64]:
        """How much of every branch is computed, for the whole batch.  Shapes: [S, K]."""
        per_image: npt.NDArray[np.float64] = np.maximum(self.compute.astype(np.float64),
                                                        self.shares)  # fmt: skip
        return per_image * np.where(self.halved, 0.5, 1.0)[:, None]
