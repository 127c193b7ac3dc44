"""Ceilings of memory and arithmetic, measured and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from l2c_rt.measure.ceilings import copy_rate, product_rate, read_ceilings


@pytest.mark.parametrize(
    "text",
    ["[]", "1", "{", '{"macs_per_second": 1}',
     '{"macs_per_second": 1' + "0" * 400 + ', "bytes_per_second": 1}',
     '{"macs_per_second": 1e999, "bytes_per_second": 1}'],
    ids=lambda text: text[:24],
)  # fmt: skip
def test_a_file_without_ceilings_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(
        ValueError, match=r"wanted positive numbers|Expecting property name"
    ) as raised:
        read_ceilings(tmp_path / "c.json")
    assert str(raised.value).startswith(f"{tmp_path / 'c.json'}: ")


def test_a_file_of_the_gpu_suite_holds_ceilings(tmp_path: Path) -> None:
    text = '{"id": "x", "ceilings": {"macs_per_second": 2, "bytes_per_second": 3}}'
    (tmp_path / "c.json").write_text(text)
    assert read_ceilings(tmp_path / "c.json").bytes_per_second == 3


def test_rates_are_work_over_time() -> None:
    cpu = torch.device("cpu")

    def half_a_second(call: Any) -> float:
        call()
        return 0.5

    assert copy_rate(half_a_second, cpu, 4096) == 8192
    assert product_rate(half_a_second, cpu, torch.float32, 8) == 1024
