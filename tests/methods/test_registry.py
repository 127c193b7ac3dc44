"""The methods by name, and what all of them have in common."""

from __future__ import annotations

import dataclasses

import pytest

import l2c_rt as rt
from l2c_rt import methods
from l2c_rt.policies import DeepCache
from l2c_rt.resolve import resolve_schedule

BRANCHES = ("attn-0", "mlp-0", "attn-1", "mlp-1")


@pytest.mark.parametrize("name", methods.names())
def test_every_method_is_a_frozen_dataclass_with_a_source(name):
    kind = getattr(methods, methods._HOMES[name][0])
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen
    assert len(kind.__doc__ or "") > 200


def test_a_name_stands_for_the_published_defaults():
    expected = methods.FORA().schedule(10, BRANCHES)
    assert resolve_schedule("fora", steps=10, branches=BRANCHES) == expected
    assert methods.named("pab") == methods.PAB()


def test_a_name_that_is_none_lists_those_that_are():
    with pytest.raises(ValueError, match=r"'foraa' is not a preset .*or a method .*fora"):
        resolve_schedule("foraa", steps=10, branches=BRANCHES)
    with pytest.raises(ValueError, match=r"'x' is not a method; there are .*fora"):
        methods.named("x")


def test_a_method_without_defaults_says_which_fields_to_give():
    with pytest.raises(ValueError, match=r"'smoothcache'.*no defaults.*'errors'.*SmoothCache\("):
        methods.named("smoothcache")
    with pytest.raises(ValueError, match="argument 'every'; its fields are cache_threshold"):
        methods.named("fora", every=3)


def test_a_method_that_is_a_policy_has_one_home():
    assert rt.methods.DeepCache is DeepCache
    with pytest.raises(AttributeError, match="has no attribute 'Foo'"):
        _ = methods.Foo
