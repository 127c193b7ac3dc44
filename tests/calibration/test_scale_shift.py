"""Scale-shift: its fit, its training run, its file, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from published_outputs import relative
from small_diffusers import ddim_timesteps, dit, dit_calls, flux, flux_calls
from toys import toy_dit

import l2c_rt as rt
from l2c_rt.calibration.scale_shift import ChannelFit
from l2c_rt.correctors import ScaleShift
from l2c_rt.correctors.scale_shift import last_computed
from l2c_rt.methods import FORA, DeltaDiT
from l2c_rt.policies import Full

STEPS = 8


def test_the_fit_is_that_of_least_squares_channel_by_channel():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 30, 3)) + 1
    y = x * [1.5, 1.0, -0.5] + [0.2, 0.0, 1.0] + 0.1 * rng.normal(size=x.shape)
    x[..., 1], y[..., 1] = 2.0, 3.0  # A channel that does not vary is only shifted.
    fit = ChannelFit()
    for part in range(2):
        fit.add(torch.from_numpy(x[part]), torch.from_numpy(y[part]))
    scale, shift = (tensor.numpy() for tensor in fit.result())
    for channel in (0, 2):
        slope, offset = np.polyfit(x[..., channel].ravel(), y[..., channel].ravel(), 1)
        assert (scale[channel] + 1, shift[channel]) == pytest.approx((slope, offset))
    assert (scale[1], shift[1]) == pytest.approx((0, 1))


def test_the_last_computed_evaluation_is_found_in_a_column():
    assert last_computed(np.array([1, 0, 0, 1, 0], bool)) == [0, 0, 0, 3, 3]


@torch.no_grad()
@pytest.mark.parametrize("method", [FORA(3), DeltaDiT(3, 2, 4)], ids=["branches", "blocks"])
def test_the_compiled_run_is_that_of_the_training(method):
    """The training runs the cached model; with one run its fit is the last one."""
    trained = []

    def loop(model, seed):
        trained[:] = list(dit_calls(model, STEPS))

    scale_shift = rt.fit_scale_shift(dit(3), method, loop, steps=STEPS, samples=1)
    assert np.abs(scale_shift.scale).max() > 0.01
    fast = rt.compile(
        dit(3), method, steps=STEPS, corrector=scale_shift, timesteps=ddim_timesteps(STEPS)
    )
    for out, expected in zip(dit_calls(fast, STEPS), trained, strict=True):
        assert relative(out, expected) < 1e-5


def test_held_out_runs_are_nearer_to_the_full_run_than_plain_reuse():
    model, labels = toy_dit(), torch.arange(8) % 4
    scale_shift = rt.fit_scale_shift(model, FORA(3), steps=STEPS, samples=8)
    noise = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(99))
    full, plain, adjusted = (
        rt.compile(model, spec, steps=STEPS, corrector=corrector).sample(noise, labels)
        for spec, corrector in ((Full(), None), (FORA(3), None), (FORA(3), scale_shift))
    )
    assert relative(adjusted, full) < 0.9 * relative(plain, full)


def test_a_file_holds_it_and_only_its_own_schedule_and_model_take_it(tmp_path):
    model, path = toy_dit(), tmp_path / "s.safetensors"
    rt.fit_scale_shift(model, FORA(2), steps=4, samples=1).save(path)
    loaded = ScaleShift.load(path)
    rt.compile(model, FORA(2), steps=4, corrector=loaded)
    with pytest.raises(ValueError, match=r"learned for the schedule sha256:.* fit it again"):
        rt.compile(model, FORA(3), steps=4, corrector=loaded)
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    with pytest.raises(ValueError, match="of ScaleShift is of a model of other weights"):
        rt.compile(model, FORA(2), steps=4, corrector=loaded)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"s\.safetensors: the digest does not match"):
        ScaleShift.load(path)


def test_branches_of_several_tensors_are_refused():
    def loop(model, seed):
        list(flux_calls(model, 4))

    with pytest.raises(ValueError, match="gives 2 tensors, and a scale and shift is of one"):
        rt.fit_scale_shift(flux(), DeltaDiT(2, 3, 2), loop, steps=4, samples=1)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ((np.zeros((2, 3)), np.zeros((2, 3))), r"scale is \[2, 3\] and shift \[2, 3\]"),
        ((np.zeros((2, 3, 4)), np.full((2, 3, 4), np.nan)), "not finite; fit it again"),
    ],
)
def test_tables_of_other_shapes_are_refused(tables, message):
    with pytest.raises(ValueError, match=message):
        ScaleShift(*tables, "sha256:0")
