"""The authors' scripts of FasterCache: their decisions, written out count by count."""

from __future__ import annotations

import pytest
import torch
from small_diffusers import cogvideox, drawn
from torch import Tensor

import l2c_rt as rt
from l2c_rt.methods import FasterCacheScript

STEPS = 50


def decisions(script: str, steps: int = STEPS) -> tuple[list[int], list[int]]:
    """Counts, from 1, at which the half is left out and at which attention is extrapolated."""
    schedule = FasterCacheScript(script).schedule(steps, ("attn-0", "mlp-0"))
    assert schedule.halves is not None
    halved = [n + 1 for n in range(steps) if schedule.halves.halved[n]]
    return halved, [n + 1 for n in range(steps) if not schedule.compute[n, 0]]


def test_cogvideox_leaves_the_half_out_from_18_on_and_extrapolates_two_in_three_of_those() -> None:
    halved, extrapolated = decisions("cogvideox")
    assert halved == [c for c in range(18, 51) if c % 5]
    assert extrapolated == [c for c in range(18, 51) if c % 5 and c % 3]


def test_latte_open_sora_and_its_plan() -> None:
    assert decisions("latte")[1] == [c for c in range(18, 51) if c % 5 and c % 2 == 0]
    assert decisions("open-sora", 30)[0] == [c for c in range(12, 31) if c % 5]
    assert decisions("open-sora", 30)[1] == [c for c in range(12, 31) if c % 5 and c % 2 == 0]
    assert decisions("open-sora-plan", 150)[1] == [c for c in range(45, 151) if c % 6 and c % 3]


def test_the_history_is_of_computed_outputs_alone() -> None:
    schedule = FasterCacheScript("cogvideox").schedule(STEPS, ("attn-0", "mlp-0"))
    assert schedule.predictions is not None
    terms = {n + 1: schedule.predictions.at(n, 0) for n in range(STEPS)}
    sources = {c: [t.evaluation + 1 for t in listed] for c, listed in terms.items() if listed}
    assert sources[19] == [18, 17]
    assert sources[22] == sources[23] == [21, 20]
    assert [t.coefficient for t in terms[22]] == pytest.approx([1.3, -0.3])


def test_latte_passes_over_the_whole_batch_that_its_script_would_have_reused() -> None:
    schedule = FasterCacheScript("latte").schedule(STEPS, ("attn-0", "mlp-0"))
    assert schedule.predictions is not None
    assert [t.evaluation + 1 for t in schedule.predictions.at(17, 0)] == [17, 15]


def test_the_weights_of_the_bands_overlap_where_the_script_has_both() -> None:
    halves = FasterCacheScript("cogvideox").schedule(STEPS, ("attn-0", "mlp-0")).halves
    assert halves is not None
    by_count = {
        c: (round(halves.low[c - 1], 4), round(halves.high[c - 1], 4)) for c in (19, 36, 44)
    }
    assert by_count == {19: (1.21, 1.0), 36: (1.1, 1.1), 44: (1.0, 1.4641)}


@torch.no_grad()
def test_the_conditional_half_comes_first() -> None:
    model = cogvideox()
    times = [float(t) for t in range(999, 999 - 20, -1)]
    fast = rt.compile(model, FasterCacheScript("cogvideox"), steps=20, timesteps=times)
    x, text = drawn(1, 1, 3, 4, 8, 8).repeat(2, 1, 1, 1, 1), drawn(2, 2, 8, 24)

    def call(of: object, t: float) -> Tensor:
        out: Tensor = of(hidden_states=x, encoder_hidden_states=text,  # type: ignore[operator]
                         timestep=torch.full((2,), int(t)), return_dict=False)[0]  # fmt: skip
        return out

    outputs = [call(fast, t) for t in times]
    # Evaluation 18 is the first without the other half, whose own rows are exact there.
    torch.testing.assert_close(outputs[17][:1], call(model, times[17])[:1], rtol=1e-4, atol=1e-5)
    assert not torch.equal(outputs[17][1:], call(model, times[17])[1:])


def test_what_the_scripts_have_not_is_refused() -> None:
    with pytest.raises(ValueError, match="script is 'mochi', wanted one of cogvideox"):
        FasterCacheScript("mochi")
    with pytest.raises(ValueError, match="begins at evaluation 18, the run has 10"):
        FasterCacheScript().schedule(10, ("attn-0", "mlp-0"))
    with pytest.raises(ValueError, match="attention_weight is 'a'"):
        FasterCacheScript(attention_weight="a")  # type: ignore[arg-type]
