"""The table of published options against the packages that are installed."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import pytest
from published_fields import (
    ARGUMENTS,
    CACHE_DIT,
    DIFFUSERS,
    PAGE,
    SCRIPTS,
    Absent,
    Published,
    page,
)

from l2c_rt import methods


def configurations(package: ModuleType) -> dict[str, type]:
    """Every class of a package that is named a configuration, by its name."""
    found: dict[str, type] = {}
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        module = importlib.import_module(info.name)
        found |= {
            name: kind
            for name, kind in inspect.getmembers(module, inspect.isclass)
            if name.endswith("Config") and kind.__module__ == info.name
        }
    return found


def mapped(name: str, kind: type, entry: Published) -> Iterator[tuple[str, Any, Any]]:
    """Field, its default and ours, of those that are a field here."""
    ours = {field.name: field for field in dataclasses.fields(getattr(methods, entry.method))}
    for field in dataclasses.fields(kind):
        place = entry.fields.get(field.name, field.name)
        if isinstance(place, str):
            assert place in ours, f"{name}.{field.name} is not in {entry.method}"
            default = field.default
            if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
                default = tuple(field.default_factory())
            yield field.name, default, ours[place].default


def check(package: ModuleType, table: Mapping[str, Published | Absent]) -> None:
    found = configurations(package)
    assert set(found) == set(table)
    for name, entry in table.items():
        if isinstance(entry, Absent):
            continue
        names = {field.name for field in dataclasses.fields(found[name])}
        assert set(entry.fields) <= names
        for field, published, ours in mapped(name, found[name], entry):
            if ours is dataclasses.MISSING:
                continue
            dtype = str(published).removeprefix("torch.")
            same = ours in (published, dtype)
            assert same or field.startswith("_"), f"{name}.{field}: {published!r}, ours {ours!r}"


def test_every_field_of_diffusers_hooks_has_its_place() -> None:
    check(pytest.importorskip("diffusers.hooks"), DIFFUSERS)


def test_every_field_of_cache_dit_has_its_place() -> None:
    pytest.importorskip("cache_dit")
    check(importlib.import_module("cache_dit.caching"), CACHE_DIT)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_what_cache_dit_takes_beside_a_configuration_has_its_place(name: str) -> None:
    kind = getattr(pytest.importorskip("cache_dit"), name)
    taken = inspect.signature(kind).parameters
    assert set(ARGUMENTS[name].fields) <= set(taken)
    # What it keeps of older names is in a configuration.
    assert name != "ParamsModifier" or set(taken) - {"kwargs"} == set(ARGUMENTS[name].fields)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_option_of_a_program_without_a_package_is_a_field(name: str) -> None:
    entry = SCRIPTS[name]
    ours = {place for place in entry.fields.values() if isinstance(place, str)}
    if ours:
        fields = dataclasses.fields(getattr(methods, entry.method))
        assert ours <= {field.name for field in fields}


def test_a_field_that_a_release_adds_is_missed() -> None:
    added = dataclasses.make_dataclass("FirstBlockCacheConfig", ["threshold", "new_in_a_release"])
    with pytest.raises(AssertionError, match="new_in_a_release is not in FirstBlockCache"):
        list(mapped("FirstBlockCacheConfig", added, Published("FirstBlockCache", {})))


def test_the_page_is_what_the_table_says() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "write it again: python tests/support/published_fields.py"
