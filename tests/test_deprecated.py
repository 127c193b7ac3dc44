from __future__ import annotations

from dataclasses import dataclass

import pytest

from l2c_rt._deprecated import renamed_keyword, warn_renamed


@renamed_keyword(lanes="calls_per_step")
def called(model: str, *, calls_per_step: int = 1) -> tuple[str, int]:
    """Documented."""
    return model, calls_per_step


@renamed_keyword(lanes="calls_per_step")
@dataclass(frozen=True, slots=True)
class Record:
    calls_per_step: int = 1


def test_the_new_name_and_the_default_warn_of_nothing():
    assert called("m") == ("m", 1)
    assert called("m", calls_per_step=2) == ("m", 2)
    assert Record(2).calls_per_step == Record(calls_per_step=2).calls_per_step == 2


@pytest.mark.parametrize("target", [lambda **names: called("m", **names)[1], Record])
def test_the_old_name_works_with_a_warning_that_says_the_new_one(target):
    with pytest.warns(DeprecationWarning, match="lanes= is now calls_per_step=") as caught:
        result = target(lanes=2)
    assert getattr(result, "calls_per_step", result) == 2
    assert caught[0].filename == __file__


def test_both_names_at_once_are_an_error():
    with pytest.raises(TypeError, match="calls_per_step= is given twice: lanes= is its old name"):
        called("m", lanes=2, calls_per_step=2)


def test_the_decorated_keep_their_name_and_documentation():
    assert (called.__name__, called.__doc__) == ("called", "Documented.")
    assert isinstance(Record(), Record)
    assert repr(Record(3)) == "Record(calls_per_step=3)"


def test_a_warning_is_of_the_line_that_used_the_old_name():
    class Owner:
        @property
        def lanes(self) -> int:
            warn_renamed("Owner.lanes", "calls_per_step", stacklevel=2)
            return 2

    with pytest.warns(DeprecationWarning, match="Owner.lanes is now calls_per_step") as caught:
        assert Owner().lanes == 2
    assert caught[0].filename == __file__
