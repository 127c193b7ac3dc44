"""Every public field of the configurations of diffusers' hooks and of cache-dit: ours, or why not.

`docs/options.md` is made of it: `python tests/support/published_fields.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "options.md"
BEGIN, END = "<!-- made by tests/support/published_fields.py -->\n", "<!-- end -->\n"


@dataclass(frozen=True)
class Elsewhere:
    """What does the same here and is no field of the method."""

    what: str


@dataclass(frozen=True)
class Absent:
    """Why there is nothing for it."""

    why: str


@dataclass(frozen=True)
class Published:
    """A configuration's fields; those that are not in `fields` are the same in `method`, with the
    same default."""

    method: str
    fields: Mapping[str, str | Elsewhere | Absent]


STEPS = Elsewhere("`steps=` of `compile`")
TIMES = Elsewhere("`timesteps=` of `compile`")
OURS = "the same, with None for the model's own"
RULES = {
    f"{kind}_attention_block_identifiers": Elsewhere(f"{OURS} ({kind} attention)")
    for kind in ("spatial", "temporal", "cross")
}
UNREAD = Absent("nothing that cache-dit runs reads it")
INTERNAL = Absent("cache-dit: not for users")
SHARED = {
    "cache_type": Elsewhere("the class of the method"),
    "num_inference_steps": STEPS,
    "enable_separate_cfg": Elsewhere("`calls_per_step=` of `compile`"),
}
CALIBRATOR = {
    "calibrator_type": Elsewhere('the same; "taylorseer" with a `taylorseer_order` only'),
    "calibrator_kwargs": UNREAD,
}

SCORES = Elsewhere('the same, without "compress", which is half "random" and half "attention"')

LOCAL = Absent(
    '"local" is commented out in the program: all but the first evaluation would be partial'
)

DIFFUSERS: Mapping[str, Published | Absent] = {
    "FirstBlockCacheConfig": Published("FirstBlockCache", {}),
    "PyramidAttentionBroadcastConfig": Published(
        "PAB", {**RULES, "current_timestep_callback": TIMES}
    ),
    "FasterCacheConfig": Published("FasterCache", {
        **{name: rule for name, rule in RULES.items() if "cross" not in name},
        "current_timestep_callback": TIMES,
        "_unconditional_conditional_input_kwargs_identifiers": "halved_arguments",
    }),
    "TaylorSeerCacheConfig": Published("DiffusersTaylorSeer", {}),
    "MagCacheConfig": Published("MagCache", {
        "num_inference_steps": STEPS,
        "calibrate": Elsewhere("`rt.calibrate`, whose result is `mag_ratios`"),
    }),
    "SeaCacheConfig": Published("SeaCache", {}),
    "TextKVCacheConfig": Absent("keys and values of the text, the same at all steps: no schedule"),
    "LayerSkipConfig": Absent("guidance, nothing is kept"),
    "SmoothedEnergyGuidanceConfig": Absent("guidance, nothing is kept"),
    "GroupOffloadingConfig": Absent("memory, nothing is left out"),
}  # fmt: skip
"""By the class in diffusers.hooks."""

CACHE_DIT: Mapping[str, Published | Absent] = {
    "BasicCacheConfig": Published("DBCache", SHARED),
    "DBCacheConfig": Published("DBCache", SHARED),
    "DBPruneConfig": Published("DBPrune", {
        **SHARED,
        "cfg_diff_compute_separate": Elsewhere("True only; cache-dit's own stops at False"),
        "max_accumulated_residual_diff_threshold": Elsewhere("the same, and without effect"),
    }),
    "ExtraCacheConfig": INTERNAL,
    "CalibratorConfig": Published("DBCache", {
        "enable_calibrator": Elsewhere("`enable_calibrator`, True as in every calibrator's own"),
        "enable_encoder_calibrator": Elsewhere(
            "`enable_encoder_calibrator`, True as in every calibrator's own"
        ),
        **CALIBRATOR,
    }),
    "TaylorSeerCalibratorConfig": Published("DBCache", {
        **CALIBRATOR,
        "taylorseer_order": Elsewhere("`taylorseer_order`, None for no calibrator"),
    }),
    "DMDCalibratorConfig": Published("DBCache", {
        "calibrator_type": Elsewhere('`calibrator_type="dmd"`'),
        "calibrator_kwargs": UNREAD,
        "dmd_svd_precision": Elsewhere("the same, and without effect: always the most exact"),
    }),
    "FoCaCalibratorConfig": Published("DBCache", {
        "calibrator_type": Elsewhere('`calibrator_type="foca"`'),
        "calibrator_kwargs": UNREAD,
    }),
}  # fmt: skip
"""By the class in cache_dit.caching."""

ARGUMENTS: Mapping[str, Published] = {
    "ParamsModifier": Published("DBCache", {
        "cache_config": Elsewhere(
            "`params_modifiers`, the fields that are others by a list's first name, as "
            "`reset(...)` has them; of two experts a method each: `rt.enable(pipe, {...})`"
        ),
        "calibrator_config": Elsewhere("the same, together with the others"),
    }),
    "BlockAdapter": Published("DBCache", {"blocks": "blocks"}),
}  # fmt: skip
"""What is given beside a configuration, by the class in cache_dit.caching."""

SCRIPTS: Mapping[str, Published] = {
    "FORA": Published("FORA", {"cache_threshold": "cache_threshold"}),
    "ToCa": Published("ToCa", {
        "fresh_threshold": "fresh_threshold", "fresh_ratio": "fresh_ratio",
        "ratio_scheduler": "ratio_scheduler", "cache_type": SCORES,
        "soft_fresh_weight": "soft_fresh_weight",
        "force_fresh": LOCAL,
    }),
    "DuCa": Published("DuCa", {
        "fresh_threshold": "fresh_threshold", "fresh_ratio": "fresh_ratio",
        "ratio_scheduler": "ratio_scheduler", "cache_type": SCORES,
        "soft_fresh_weight": "soft_fresh_weight",
        "force_fresh": LOCAL,
    }),
    "TaylorSeer": Published("TaylorSeer", {
        "interval": "interval", "max_order": "max_order", "first_enhance": "first_enhance",
    }),
    "SpeCa": Published("SpeCa", {
        "max_order": "max_order", "base_threshold": "base_threshold", "decay_rate": "decay_rate",
        "min_taylor_steps": "min_taylor_steps", "max_taylor_steps": "max_taylor_steps",
        "error_metric": "error_metric",
    }),
    "TeaCache": Published("TeaCache", {
        "rel_l1_thresh": "threshold", "coefficients": "coefficients",
        "use_ret_steps": "use_ret_steps", "num_steps": STEPS,
    }),
    "EasyCache": Published("EasyCache", {
        "thresh": "threshold",
        "ret_steps": Elsewhere("`ret_steps`; there the program's constant is taken"),
        "alpha": Absent("its program does not read it"),
    }),
    "SmoothCache": Published("SmoothCache", {
        "threshold": "threshold", "lookback": "lookback", "errors": "errors",
    }),
    "GOC": Published("GOC", {"eta": Elsewhere("`rt.correctors.Goc(eta, steps)`")}),
    "HiCache": Published("HiCache", {
        "interval": "interval", "max_order": "max_order", "sigma": "sigma",
    }),
    "Delta-DiT": Published("DeltaDiT", {"N": "interval", "Nc": "num_cached", "b": "boundary"}),
    "Block Caching": Published("BlockCaching", {"delta": "delta"}),
}  # fmt: skip
"""Of methods without a package: the options of their programs, or the symbols of their papers."""


def page(text: str) -> str:
    """The page with its tables written again."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


def table() -> str:
    """Whatever has another name or place here, or none."""
    lines = ["| published | field | here |", "| --- | --- | --- |"]
    for source in (DIFFUSERS, CACHE_DIT, ARGUMENTS, SCRIPTS):
        for name, entry in source.items():
            if isinstance(entry, Absent):
                lines.append(f"| {name} | all | none: {entry.why} |")
                continue
            others = {k: v for k, v in entry.fields.items() if k != v}
            lines += [f"| {name} | {k} | {_told(entry.method, v)} |" for k, v in others.items()]
            if not others:
                lines.append(f"| {name} | | all as in `rt.methods.{entry.method}` |")
    return "\n".join(lines) + "\n"


def _told(method: str, ours: str | Elsewhere | Absent) -> str:
    if isinstance(ours, str):
        return f"`{method}.{ours}`"
    return ours.what if isinstance(ours, Elsewhere) else f"none: {ours.why}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
