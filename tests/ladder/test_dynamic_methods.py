"""Methods that decide at run time against the published programs' own runs on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from method_goldens import dit_28, dit_outputs, golden, worst_evaluation
from small_diffusers import SMALL, ddim_timesteps, shared
from torch import Tensor

import l2c_rt as rt
from l2c_rt.methods import DBCache, FirstBlockCache, SpeCa, TeaCache
from l2c_rt.runtime.last_run import Act

FILE = "dynamic-methods"
pytestmark = pytest.mark.usefixtures("shared_probes")
STATIC: dict[str, Any] = {"steps_computation_mask": "fast", "steps_computation_policy": "static"}
DBCACHE_ON_FLUX = {
    "flux_F1B0": DBCache(1, 0, 0.12, 2),
    "flux_F4B0_default": DBCache(4),
    "flux_F4B0_MC2": DBCache(4, 0, 0.3, 4, max_continuous_cached_steps=2),
    "flux_F4B0_M6": DBCache(4, 0, 0.3, 4, max_cached_steps=6),
    "flux_F4B4": DBCache(4, 4, 0.14, 4),
    "flux_F4B0_acc": DBCache(4, 0, 0.3, 4, max_accumulated_residual_diff_threshold=1.0),
    "flux_F1B0_taylor1": DBCache(1, 0, 0.16, 4, taylorseer_order=1),
    "flux_F1B0_taylor2_hs": DBCache(
        1, 0, 0.16, 4, taylorseer_order=2, calibrator_cache_type="hidden_states"
    ),
    "flux_SCM_static": DBCache(1, **STATIC),
    "flux_SCM_static_taylor1": DBCache(1, taylorseer_order=1, **STATIC),
    "flux_SCM_dynamic": DBCache(4, 0, 0.14, steps_computation_mask="ultra"),
    "flux_warmup_interval": DBCache(4, 0, 0.16, 9, 3),
}  # fmt: skip
CASES: dict[str, tuple[str, tuple[int, ...], Any]] = {
    # case: model, its numbers of blocks, method
    "fbc_flux_a": ("flux", (), FirstBlockCache(0.105)),
    "fbc_flux_b": ("flux", (), FirstBlockCache(0.19)),
    "fbc_dit": ("dit", (), FirstBlockCache(0.21)),
    "fbc_wan": ("wan", (), FirstBlockCache(0.085)),
    "dit_F8B0": ("dit", (12,), DBCache(8, 0, 0.195)),
    "dit_F1B0": ("dit", (12,), DBCache(1, 0, 0.21, 2)),
    "dit_F4B4": ("dit", (12,), DBCache(4, 4, 0.22, 4)),
    "dit_F2B1_taylor2": ("dit", (12,), DBCache(2, 1, 0.3, 4, taylorseer_order=2)),
    "dit_SCM_static": (
        "dit", (12,),
        DBCache(1, steps_computation_mask="medium", steps_computation_policy="static"),
    ),
    **{name: ("flux", (4, 8), method) for name, method in DBCACHE_ON_FLUX.items()},
    "wan_F1B0_cfg": ("wan", (6,), DBCache(1, 0, 0.08, 3)),
    "wan_F1B0_cfg_shared": ("wan", (6,), DBCache(1, 0, 0.085, 3, cfg_diff_compute_separate=False)),
    "wan_F2B1_taylor1_cfg": ("wan", (6,), DBCache(2, 1, 0.11, 3, taylorseer_order=1)),
    "flux28_a": ("flux", (), TeaCache(0.25)),
    "flux28_b": ("flux", (), TeaCache(0.5)),
    "ltx30_a": ("ltx", (), TeaCache(0.05)),
    "ltx30_b": ("ltx", (), TeaCache(0.2)),
    "cogvideox30_a": ("cogvideox", (), TeaCache(0.6, "cogvideox-2b")),
    "cogvideox30_b": ("cogvideox", (), TeaCache(1.1, "cogvideox-2b")),
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def run(case: str, method: Any) -> tuple[list[Tensor], list[int], list[float]]:
    """Outputs, decisions (1: computed) and metrics of each call of a case under a method."""
    name, layers, _ = CASES[case]
    _, calls, timesteps = SMALL[name]
    lanes = 2 if name == "wan" else 1
    steps = len(golden(FILE, case)["decisions"]) // lanes
    fast = rt.compile(
        shared(name, *layers), method, steps=steps, timesteps=timesteps(steps), calls_per_step=lanes
    )
    outputs = list(calls(fast, steps))
    last = fast.last_run
    return outputs, last.computed.ravel().astype(int).tolist(), last.metric.ravel().tolist()


@pytest.mark.parametrize("case", CASES)
def test_a_method_decides_and_gives_what_its_published_program_does(case: str) -> None:
    arrays = golden(FILE, case)
    outputs, decisions, metrics = run(case, CASES[case][2])
    assert decisions == arrays["decisions"].tolist()
    assert worst_evaluation(outputs, arrays["outputs"]) < 1e-4
    assert torch.allclose(torch.tensor(metrics), arrays["metric"], rtol=1e-4, equal_nan=True)


@pytest.mark.parametrize(
    ("case", "method"),
    [("fbc_flux_a", FirstBlockCache(0.12)), ("dit_F1B0", DBCache(2, 0, 0.21, 2)),
     ("flux_F4B0_MC2", DBCache(4, 0, 0.3, 4, max_continuous_cached_steps=3)),
     ("wan_F1B0_cfg_shared", DBCache(1, 0, 0.085, 3)), ("flux28_a", TeaCache(0.25, (1.0, 0.0))),
     ("ltx30_b", TeaCache(0.2, indicator="proj_in"))],
)  # fmt: skip
def test_another_threshold_polynomial_or_indicator_decides_otherwise(
    case: str, method: Any
) -> None:
    assert run(case, method)[1] != golden(FILE, case)["decisions"].tolist()


def speca(method: SpeCa) -> tuple[list[Tensor], Any]:
    arrays = golden(FILE, "speca_ddim50_b")
    fast = rt.compile(dit_28(), method, steps=50, timesteps=ddim_timesteps(50))
    return dit_outputs(fast, arrays, 50), fast.last_run


def test_speca_on_dit_is_its_published_program() -> None:
    """Its metric is dominated by elements near zero and known to 1 %, so it is not compared."""
    arrays = golden(FILE, "speca_ddim50_b")
    outputs, last = speca(SpeCa(2, 0.2, 0.02, 1, 6))
    assert last.computed[:, 0].tolist() == arrays["full"].bool().tolist()
    checked = arrays["checked"].bool() & ~arrays["full"].bool()
    assert (~np.isnan(last.metric[:, 0])).tolist() == checked.tolist()
    assert (last.acts[3] == Act.PREDICTED).all()
    assert worst_evaluation(outputs, arrays["outputs"]) < 1e-5


def test_the_defaults_of_speca_are_those_of_its_sample_py() -> None:
    full = np.flatnonzero(speca(SpeCa())[1].computed[:, 0]).tolist()
    assert full == [0, 2, 6, 10, 15, 19, 23, 29, 35, 41, 47]
