"""What `l2c-rt bench` prints."""

from __future__ import annotations

from statistics import median
from typing import Any


def bench_text(facts: dict[str, Any]) -> str:
    """The facts of a benchmark, as `--json` has them, in lines."""
    per_round, device = facts["ratios"], dict(facts["device"])
    spread = f"{min(per_round):.3f} to {max(per_round):.3f} over {len(per_round)} rounds"
    readings = [device.pop("name"), *(f"{name} {value}" for name, value in device.items())]
    lines = [
        f"{facts['model']}; {facts['schedule']}",
        f"batch {facts['images']} with guidance, {facts['steps']} steps, "
        f"{facts['backend']} backend, {facts['dtype']}, {facts['threads']} threads, "
        f"torch {facts['torch']}",
        f"  device    {', '.join(readings)}",
        f"  full      {_spell(facts['full_seconds'])}",
        f"  cached    {_spell(facts['cached_seconds'])}",
        f"  speed-up  {facts['speedup']:.3f}x ({spread})",
        f"  limit     at most {facts['limit']:.3f}x by arithmetic; measured is "
        f"{facts['share_of_limit']:.3f} of it",
    ]
    if "floor_seconds" in facts:
        floor, least = facts["floor_seconds"], median(facts["cached_seconds"])
        rates = facts["ceilings"]
        lines.append(
            f"  floor     {floor * 1e3:.3f} ms at {2e-12 * rates['macs_per_second']:.3g} TFLOP/s "
            f"and {1e-12 * rates['bytes_per_second']:.3g} TB/s; measured is {least / floor:.2f}x"
        )
    return "\n".join(lines)


def _spell(seconds: list[float]) -> str:
    return f"{median(seconds):.3f} s median, {min(seconds):.3f} to {max(seconds):.3f}"
