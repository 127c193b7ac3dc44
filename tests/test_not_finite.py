"""A model whose numbers are not finite: nothing is measured, fitted or found on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from toys import toy_dit

import l2c_rt as rt

EVERY_OTHER = rt.methods.FORA(2)


@pytest.mark.parametrize(
    "measure",
    [
        lambda model: rt.calibrate(model, steps=3, samples=1),
        lambda model: rt.compare(model, [EVERY_OTHER], compute=None, steps=3, images=1, seeds=1,
                                 rounds=0, progress=False),
        lambda model: rt.fit_corrector(model, EVERY_OTHER, steps=3, runs=1, batch_size=1,
                                       progress=False),
        lambda model: rt.fit_report(model, EVERY_OTHER.schedule(3, ("attn-0", "mlp-0")), images=1),
        lambda model: rt.search(model, steps=3, reuse=0.3, minutes=0, batch_size=1, corrector=None,
                                progress=False),
    ],
    ids=["calibrate", "compare", "fit_corrector", "fit_report", "search"],
)  # fmt: skip
def test_is_named_in_place_of_a_result_without_numbers(measure: Callable[[Any], Any]) -> None:
    model = toy_dit(depth=1)
    with torch.no_grad():
        model.blocks[0].mlp.fc1.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="full run gives numbers that are not finite; check its"):
        measure(model)
