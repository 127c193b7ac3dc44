"""What was measured of a method: one record for each seed, and its row of the comparison."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from torch import Tensor

FULL = "full"


@dataclass(frozen=True, slots=True)
class SeedResult:
    """One seed's run of a method, against the full run from the same noise.

    `macs` are per image.  `error` is |cached - full| / |full| of the latents after every
    evaluation; `psnr` (dB), `ssim` and `lpips` have a value per image, none where the metric is not
    there; `seconds` and `full_seconds` are those of runs timed in turn; `cache_bytes` are slots and
    tables, `peak_bytes` all that a GPU had allocated at most.
    """

    seed: int
    macs: int
    full_macs: int
    error: tuple[float, ...]
    psnr: tuple[float, ...]
    ssim: tuple[float, ...]
    lpips: tuple[float, ...]
    seconds: tuple[float, ...]
    full_seconds: tuple[float, ...]
    cache_bytes: int
    peak_bytes: int | None
    features: Tensor | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; numbers that are not finite are None."""
        plain: dict[str, Any] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            plain[name] = [_plain(v) for v in value] if isinstance(value, tuple) else value
        plain["features"] = None if self.features is None else _text_of(self.features)
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> SeedResult:
        """The record that `as_dict` gave.  Raises ValueError where it is none such."""
        if not isinstance(plain, dict) or plain.keys() != set(cls.__slots__):
            raise ValueError("this is not the result of a seed")
        values = dict(plain)
        for name in ("error", "psnr", "ssim", "lpips", "seconds", "full_seconds"):
            infinite = math.nan if name == "error" else math.inf
            values[name] = tuple(infinite if v is None else float(v) for v in plain[name])
        if plain["features"] is not None:
            values["features"] = _features_of(plain["features"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Row:
    """One setting of a method, which it was given for a `share` of the full run's arithmetic.

    `share` is None where it was run as it is.
    """

    method: str
    setting: str
    share: float | None
    results: tuple[SeedResult, ...]
    fid: float | None = None

    @property
    def computed(self) -> float:
        """Its own share of the full run's multiply-accumulates."""
        return fmean(result.macs / result.full_macs for result in self.results)

    @property
    def error(self) -> float:
        """Of the final latents, over the seeds."""
        return fmean(result.error[-1] for result in self.results)

    @property
    def speedup(self) -> float | None:
        """The median of full over own seconds, of runs that followed each other; None untimed."""
        pairs = [
            full / own
            for result in self.results
            for full, own in zip(result.full_seconds, result.seconds, strict=True)
        ]
        return median(pairs) if pairs else None

    @property
    def seconds(self) -> float | None:
        """The median of all timed runs."""
        samples = [second for result in self.results for second in result.seconds]
        return median(samples) if samples else None

    def mean(self, values: Callable[[SeedResult], tuple[float, ...]]) -> float | None:
        """Over all images of all seeds; None where the metric is not there."""
        all_values = [value for result in self.results for value in values(result)]
        return fmean(all_values) if all_values else None

    @property
    def cache_bytes(self) -> int:
        return max(result.cache_bytes for result in self.results)

    @property
    def peak_bytes(self) -> int | None:
        peaks = [r.peak_bytes for r in self.results if r.peak_bytes is not None]
        return max(peaks, default=None)

    def as_dict(self) -> dict[str, Any]:
        """The means and every seed's record; no features, which only FID is computed from."""
        plain: dict[str, Any] = {"method": self.method, "setting": self.setting}
        for name in ("share", "computed", "error", "speedup", "seconds", "fid"):
            plain[name] = _plain(getattr(self, name))
        for name in ("psnr", "ssim", "lpips"):
            plain[f"mean_{name}"] = _plain(self.mean(lambda r, name=name: getattr(r, name)))  # type: ignore[misc]
        results = [result.as_dict() for result in self.results]
        for result in results:
            del result["features"]
        return plain | {"cache_bytes": self.cache_bytes, "peak_bytes": self.peak_bytes,
                        "seeds": results}  # fmt: skip


def _plain(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None


def _text_of(features: Tensor) -> dict[str, Any]:
    values = features.numpy().astype("<f4")
    return {"shape": list(values.shape), "float32": base64.b64encode(values.tobytes()).decode()}


def _features_of(plain: Mapping[str, Any]) -> Tensor:
    content = base64.b64decode(plain["float32"], validate=True)
    values = np.frombuffer(content, "<f4").reshape(plain["shape"])
    return torch.from_numpy(values.copy())
