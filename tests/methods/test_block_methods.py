"""Methods that keep what whole blocks add: their rules, what they refuse, and a naive run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from method_goldens import as_rows
from published_outputs import relative
from small_diffusers import ddim_timesteps, dit, dit_calls

import l2c_rt as rt
from l2c_rt.methods import BlockCaching, DeltaDiT, MagCache

BLOCKS = ("blocks.0", "blocks.1", "blocks.2")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MagCache("wan"), "no ratios are published for 'wan', but for flux"),
        (lambda: MagCache([]), "mag_ratios: got none"),
        (lambda: MagCache([1, float("nan")]), "mag_ratios is nan, wanted a number of at least 0"),
        (lambda: MagCache("flux", threshold=-1), "threshold is -1"),
        (lambda: MagCache("flux", max_skip_steps=1.5), "max_skip_steps is 1.5"),
        (lambda: MagCache("flux", retention_ratio=1.1), "retention_ratio is 1.1, .* in 0..1"),
        (lambda: DeltaDiT(0), "interval is 0"),
        (lambda: DeltaDiT(2, 0), "num_cached is 0"),
        (lambda: DeltaDiT(2, 1, -1), "boundary is -1"),
        (lambda: BlockCaching({}), "changes are a calibration of blocks"),
        (lambda: BlockCaching({"a": [1]}, float("inf")), "delta is inf"),
        (lambda: DeltaDiT(2, 4).schedule(5, BLOCKS), "num_cached is 4, .* 3 blocks"),
        (lambda: BlockCaching({"b": [0.1] * 4}).schedule(5, BLOCKS), "changes are of b, the model"),
        (lambda: BlockCaching({"blocks.0": [0.1] * 5}).schedule(5, BLOCKS), r"wanted \[4\]"),
        (lambda: BlockCaching({"blocks.0": [-0.1] * 4}).schedule(5, BLOCKS), "at least 0"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_delta_dit_reuses_the_last_blocks_early_and_the_first_ones_late():
    schedule = DeltaDiT(3, 1, 4).schedule(8, BLOCKS)
    assert as_rows(schedule.compute.T) == [
        [1, 1, 1, 1, 1, 0, 0, 1],
        [1] * 8,
        [1, 0, 0, 1, 1, 1, 1, 1],
    ]


def test_a_block_is_kept_while_its_changes_add_up_to_delta():
    schedule = BlockCaching({"blocks.1": [0.3, 0.2, 0.1, 0.5, 0.6, 0.1]}).schedule(7, BLOCKS)
    # 0.3 + 0.2 is delta itself; the change that goes beyond it starts the next sum at zero.
    assert as_rows(schedule.compute[:, 1]) == [1, 0, 0, 1, 0, 1, 0]
    assert schedule.compute[:, [0, 2]].all()


def test_a_calibration_of_several_lookbacks_gives_its_first():
    several = BlockCaching({"blocks.1": np.stack([np.full(6, 0.4), np.full(6, np.nan)])})
    assert as_rows(several.schedule(7, BLOCKS).compute[:, 1]) == [1, 0, 1, 0, 1, 0, 1]


def test_mag_cache_starts_over_where_it_computes():
    """Of ratios of 1.05 the third error is 0.05 + 0.1025 > 0.12; retention computes two."""
    computed = MagCache([1.05] * 8, threshold=0.12, retention_ratio=0.2).computed(8)
    assert [int(c) for c in computed] == [1, 1, 0, 1, 0, 1, 0, 1]


def test_ratios_of_another_length_are_taken_at_the_nearest_positions():
    """Halves go to the even position, as the published program rounds."""
    assert MagCache([0, 1, 2]).ratios(5).tolist() == [0, 0, 1, 2, 2]
    assert MagCache([0, 1, 2]).ratios(1).tolist() == [2]


METHODS = {
    "mag": MagCache([1.0, 1.05, 0.98, 1.02] * 3, threshold=0.1),
    "delta": DeltaDiT(3, 3, 5),
    "block": BlockCaching({f"transformer_blocks.{b}": [0.1 * (b + 1)] * 11 for b in range(5)}),
}


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("name", METHODS)
@torch.no_grad()
def test_the_run_is_that_of_a_naive_loop_over_the_blocks(name, merge):
    steps, model = 12, dit(5)
    fast = rt.compile(
        dit(5), METHODS[name], steps=steps, timesteps=ddim_timesteps(steps), merge=merge
    )
    outputs = list(dit_calls(fast, steps))
    table, kept, evaluation = fast.schedule.compute, {}, 0

    def visit(b, module, own, *args, **kwargs):
        x = args[0] if args else kwargs["hidden_states"]
        if table[evaluation, b]:
            out = own(*args, **kwargs)
            kept[b] = out - x
            return out
        return x + kept[b]

    for b, block in enumerate(model.transformer_blocks):
        own = block.forward
        block.forward = lambda *a, _b=b, _m=block, _own=own, **k: visit(_b, _m, _own, *a, **k)
    differences = []
    for out, expected in zip(outputs, dit_calls(model, steps), strict=True):
        differences.append(relative(out, expected))
        evaluation += 1
    assert max(differences) < 1e-5
    assert not table.all()
