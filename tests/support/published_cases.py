"""Runs of published caching programs on small models, and the same through `rt.compile`.

`factory(case, model, env)` takes a case of a published program's runs, its model and what its loop
offers, and returns what is called in the model's place, and the decisions, in the program's form:
1 for computed, 0 for reused or predicted, one entry per call.  Only the public interface is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from small_diffusers import SMALL, shared, unpacked
from torch import Tensor, nn

import l2c_rt as rt
from l2c_rt.methods import (
    PAB,
    DBCache,
    DiffusersTaylorSeer,
    FasterCache,
    FirstBlockCache,
    MagCache,
    SeaCache,
    TeaCache,
)
from l2c_rt.runtime.last_run import Act


def case(method: str, model: str, steps: int, **options: Any) -> dict[str, Any]:
    return {"method": method, "model": model, "steps": steps, "cfg": options}


FACTORS = {"taylor_factors_dtype": "float32"}
HOOK_CASES = {
    "fbc_flux_default": case("fbc", "flux", 28),
    "fbc_flux": case("fbc", "flux", 28, threshold=0.105),
    "fbc_dit": case("fbc", "dit", 20, threshold=0.21),
    "fbc_wan": case("fbc", "wan", 20, threshold=0.085),
    "pab_flux": case("pab", "flux", 20, spatial=3, spatial_window=(200, 950)),
    "pab_flux_named": case(
        "pab", "flux", 20, spatial=2, spatial_attention_block_identifiers=("single_.*blocks",)
    ),
    "pab_wan": case("pab", "wan", 20, spatial=2, cross=5, cross_window=(-1, 1001)),
    "pab_wan_named": case(
        "pab", "wan", 20, spatial=2, cross=3, spatial_attention_block_identifiers=(r"blocks\.1",),
        cross_attention_block_identifiers=(r"blocks\.[02]",),
    ),
    "pab_cogvideox": case("pab", "cogvideox", 17, spatial=4, spatial_window=(50, 990)),
    "pab_dit": case("pab", "dit", 20, spatial=3, spatial_window=(-1, 1001)),
    "pab_dit_named": case(
        "pab", "dit", 20, spatial=2, spatial_attention_block_identifiers=(r"blocks\.[1-4]",)
    ),
    "faster_cogvideox": case("faster", "cogvideox", 20, tensor_format="BFCHW"),
    "faster_cogvideox_all": case(
        "faster", "cogvideox", 30, tensor_format="BFCHW", weight=0.3,
        spatial_attention_block_skip_range=3, spatial_attention_timestep_skip_range=(-1, 900),
        unconditional_batch_skip_range=3, unconditional_batch_timestep_skip_range=(-1, 950),
        alpha_low_frequency=1.2,
    ),
    "faster_flux_distilled": case(
        "faster", "flux", 20, is_guidance_distilled=True, tensor_format="BCHW"
    ),
    "faster_flux_named": case(
        "faster", "flux", 20, is_guidance_distilled=True, tensor_format="BCHW",
        spatial_attention_block_identifiers=(r"^transformer_blocks\.1.*attn",),
    ),
    "faster_cogvideox_callbacks": case(
        "faster", "cogvideox", 20, tensor_format="BFCHW",
        attention_weight_callback=lambda path, t: 1 - t / 1000,
        low_frequency_weight_callback=lambda t: 1 + t / 2000,
        high_frequency_weight_callback=lambda t: 1.2 if t < 400 else 0.9,
    ),
    "faster_flux_weights": case(
        "faster", "flux", 20, is_guidance_distilled=True, tensor_format="BCHW",
        attention_weight_callback=lambda path, t: 0.3 if path.startswith("single") else t / 999,
    ),
    "taylor_flux_default": case("taylor", "flux", 28),
    "taylor_flux_rounded_order_3": case("taylor", "flux", 28, cache_interval=4, max_order=3),
    "taylor_flux_rounded_reuse": case("taylor", "flux", 16, max_order=0),
    "taylor_flux_first": case("taylor", "flux", 16, disable_cache_before_step=1),
    "taylor_wan_half": case(
        "taylor", "wan", 16, cache_identifiers=[r"blocks\.\d+\.attn1"], max_order=2,
        taylor_factors_dtype="float16",
    ),
    "taylor_flux_order_1": case("taylor", "flux", 28, **FACTORS),
    "taylor_flux_order_2": case("taylor", "flux", 28, cache_interval=3,
                                disable_cache_before_step=5, max_order=2, **FACTORS),
    "taylor_flux_order_3_after": case(
        "taylor", "flux", 28, cache_interval=4, disable_cache_before_step=2,
        disable_cache_after_step=24, max_order=3, **FACTORS,
    ),
    "taylor_flux_lite": case("taylor", "flux", 28, use_lite_mode=True, **FACTORS),
    "taylor_flux_lite_rounded": case("taylor", "flux", 28, use_lite_mode=True),
    "taylor_flux_skip": case(
        "taylor", "flux", 20, skip_predict_identifiers=[r"single_transformer_blocks\.\d+\.attn"],
        cache_identifiers=[r"transformer_blocks\.\d+\.attn"],
    ),
    # A last bit that differs is a bit of bfloat16 where it is rounded, so not here.
    "taylor_dit": case(
        "taylor", "dit", 20, cache_interval=3, max_order=2,
        cache_identifiers=[r"transformer_blocks\.\d+\.attn1", r"transformer_blocks\.\d+\.ff"],
        **FACTORS,
    ),
    "taylor_dit_skip": case(
        "taylor", "dit", 20, cache_identifiers=[r"transformer_blocks\.\d+\.attn1"],
        skip_predict_identifiers=[r"transformer_blocks\.\d+\.ff"], **FACTORS,
    ),
    "mag_flux_default": case("mag", "flux", 28, ratios="flux"),
    "mag_flux_fast": case(
        "mag", "flux", 50, ratios="flux", threshold=0.24, max_skip_steps=5, retention_ratio=0.1,
        num_inference_steps=50,
    ),
    "mag_flux_own": case("mag", "flux", 20, ratios="own", threshold=0.15, num_inference_steps=20),
    "mag_wan_own": case("mag", "wan", 20, ratios="own", threshold=0.12, max_skip_steps=2,
                        num_inference_steps=20),
    "sea_wan_default": case("sea", "wan", 20),
    "sea_wan_order_0": case("sea", "wan", 20, residual_order=0, threshold=0.1, retention_steps=3,
                            max_consecutive_cached=0),
    "sea_wan_order_1": case("sea", "wan", 20, threshold=0.4, max_consecutive_cached=3,
                            cache_end_steps=2),
    "sea_wan_from_the_first": case("sea", "wan", 20, threshold=0.4, retention_steps=0),
    "sea_flux_callback": case("sea", "flux", 28, raw_vision_callback=unpacked),
}  # fmt: skip
"""Of diffusers' hooks: method, model, steps, and options under their published names."""

Case = Mapping[str, Any]
Factory = Callable[[Case, nn.Module, dict[str, Any]], tuple[Any, list[Any] | None]]
PAB_NAMES = {"spatial": "spatial_attention_block_skip_range",
             "cross": "cross_attention_block_skip_range",
             "spatial_window": "spatial_attention_timestep_skip_range",
             "cross_window": "cross_attention_timestep_skip_range"}  # fmt: skip
"""What cases call options of PAB."""
TO_COMPILE = ("num_inference_steps", "enable_separate_cfg")
"""Options that are said to `compile` in place of the method."""


def method_of(case: Case) -> Any:
    """The method of a case, or None where nothing is cached."""
    if "thresh" in case:
        return None if case["thresh"] is None else TeaCache(case["thresh"], case["coefficients"])
    options = {k: v for k, v in case["cfg"].items() if k not in TO_COMPILE}
    if "taylor" in case:
        return DBCache(**options, **(case["taylor"] or {}))
    return HOOKS[case["method"]](options)


def _faster(options: dict[str, Any]) -> FasterCache:
    return FasterCache(attention_weight=options.pop("weight", 0.5), **options)


def _pab(options: dict[str, Any]) -> PAB:
    return PAB(**{PAB_NAMES.get(name, name): value for name, value in options.items()})


def _mag(options: dict[str, Any]) -> MagCache:
    return MagCache(options.pop("ratios"), **options)


HOOKS: Mapping[str, Callable[[dict[str, Any]], Any]] = {
    "fbc": lambda options: FirstBlockCache(**options),
    "pab": _pab,
    "faster": _faster,
    "taylor": lambda options: DiffusersTaylorSeer(**options),
    "mag": _mag,
    "sea": lambda options: SeaCache(**options),
}


def outputs_of(case: Case, factory: Factory, *, changes: bool = True) -> list[Tensor]:
    """Every output of a case's loop, by a factory; one that changes its model has its own."""
    make, calls, timesteps = SMALL[case["model"]]
    layers = case.get("layers", ())
    model = make(*layers) if changes else shared(case["model"], *layers)
    times, lanes = timesteps(case["steps"]), 2 if case["model"] == "wan" else 1
    scale = 1000 if max(times) <= 1 else 1
    env: dict[str, Any] = {"steps": case["steps"]}
    called, _ = factory(case, model, env)
    numbers = count()

    def call(**arguments: Any) -> Any:
        step, lane = divmod(next(numbers), lanes)
        t = times[step] * scale
        env.update(step=step, t=t, sigma=t / 1000, branch=("cond", "uncond")[lane])
        return called(**arguments)

    return list(calls(call, case["steps"]))


def with_ratios(case: Case, model: nn.Module) -> Case:
    """The case with MagCache's ratios of the model, by calibration in the case's own loop."""
    _, calls, _ = SMALL[case["model"]]
    steps, lanes = case["steps"], 2 if case["model"] == "wan" else 1
    calibration = rt.calibrate(
        model, lambda model, seed: list(calls(model, steps)), steps=steps, samples=1,
        granularity="block", calls_per_step=lanes,
    )  # fmt: skip
    options = {k: v for k, v in case["cfg"].items() if k != "calibrate"}
    ratios = calibration.magnitudes[0].tolist()
    threshold = 0.0 if case["cfg"].get("calibrate") else options.get("threshold", 0.06)
    return {**case, "cfg": {**options, "ratios": ratios, "threshold": threshold}}


def factory(case: Case, model: nn.Module, env: dict[str, Any]) -> tuple[Any, list[Any] | None]:
    """What is called in the model's place, and its decisions, which grow with the calls.

    `env["extra"]` gets the metrics, one per call, and the names of the columns of decisions.
    """
    if case.get("cfg", {}).get("ratios") == "own" or case.get("cfg", {}).get("calibrate"):
        case = with_ratios(case, model)
        env.setdefault("extra", {})["ratios"] = case["cfg"]["ratios"]
    method = method_of(case)
    if method is None:
        return model, None
    lanes = 2 if case["model"] == "wan" else 1
    times = SMALL[case["model"]][2](case["steps"])
    # diffusers has one counter and one output of an attention for both calls of a step.
    if lanes == 2 and case.get("method") in ("pab", "faster"):
        times, lanes = [t for t in times for _ in range(2)], 1
    fast = rt.compile(model, method, steps=len(times), timesteps=times, calls_per_step=lanes)
    recorded = Recorded(fast, lanes, case.get("method", ""), env.setdefault("extra", {}))
    return recorded, recorded.decisions


class Recorded:
    """A compiled model whose calls are written down as the published program of a hook does."""

    def __init__(self, fast: Any, lanes: int, hook: str, extra: dict[str, Any]) -> None:
        self.fast, self.lanes, self.hook = fast, lanes, hook
        self.decisions: list[Any] = []
        self.metric: list[float] = []
        if hook in ("", "fbc"):
            extra["metric"] = self.metric
        branches = fast.bound_model.program.branches
        self.columns = [k for k, branch in enumerate(branches) if "attn" in branch.kind]
        paths = {site.name: site.children[-1] for site in fast.bound_model.sites}
        if hook == "pab":
            extra["modules"] = [paths.get(branches[k].name, "") for k in self.columns]

    def __call__(self, **arguments: Any) -> Any:
        out = self.fast(**arguments)
        at = divmod(len(self.decisions), self.lanes)
        last = self.fast.last_run
        self.metric.append(float(last.metric[at]))
        computed = bool(last.computed[at])
        by_module = [int(act == Act.COMPUTED) for act in last.acts[at][self.columns]]
        shapes = {"": int(computed), "pab": by_module}
        self.decisions.append(shapes.get(self.hook, [int(computed)]))
        return out
