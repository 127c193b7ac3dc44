"""Classes on the command line."""

from __future__ import annotations

import click
import pytest

from l2c_rt.cli.labels import check_labels, parse_labels


def test_labels_are_numbers_and_ranges() -> None:
    assert parse_labels("3") == [3]
    assert parse_labels("0, 7-9,2") == [0, 7, 8, 9, 2]
    for wrong in ("", "-1", "3-", "9-8", "a", "1,,2", "0-99999999999", "0-4096", "\u0663"):
        with pytest.raises(click.BadParameter, match="label"):
            parse_labels(wrong)


def test_labels_are_classes_of_the_model_unless_it_has_none() -> None:
    check_labels([0, 9], classes=10)
    check_labels([0, 10], classes=0)
    with pytest.raises(click.BadParameter, match=r"10 is not within 0\.\.9"):
        check_labels([0, 10], classes=10)
