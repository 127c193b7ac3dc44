"""Classes on the command line."""

from __future__ import annotations

import click
import pytest

from l2c_rt.cli.labels import parse_labels


def test_labels_are_numbers_and_ranges() -> None:
    assert parse_labels("3", 10) == [3]
    assert parse_labels("0, 7-9,2", 10) == [0, 7, 8, 9, 2]
    for wrong in ("", "-1", "3-", "9-8", "10", "a", "1,,2", "0-99999999999"):
        with pytest.raises(click.BadParameter):
            parse_labels(wrong, 10)
