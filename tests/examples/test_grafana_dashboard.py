"""The dashboard asks for metrics that an engine has, and shows all of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry
from served import compiled, image

import l2c_rt as rt
from l2c_rt.integrations.prometheus import watch
from l2c_rt.serving.results import ExactResults

DASHBOARD = Path(__file__).parents[2] / "examples" / "grafana-dashboard.json"


@pytest.fixture(scope="module")
def samples() -> dict[str, set[str]]:
    """The labels of every sample that an engine exports."""
    registry = CollectorRegistry()
    with rt.Engine(compiled(), results=ExactResults()) as engine:
        watch(engine, registry)
        engine.submit(image(0), 0).result(60)
        found: dict[str, set[str]] = {}
        for metric in registry.collect():
            for sample in metric.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
        return found


def queries() -> list[tuple[str, str]]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [(t["expr"], t["legendFormat"]) for panel in panels for t in panel["targets"]]


@pytest.mark.parametrize(("query", "legend"), queries())
def test_every_query_names_samples_and_labels_that_there_are(
    query: str, legend: str, samples: dict[str, set[str]]
) -> None:
    names = re.findall(r"l2c_rt_\w+", query)
    assert names
    grouped = re.findall(r"by \((\w+)\)", query)
    for name in names:
        assert set(grouped) <= samples[name]
    assert set(re.findall(r"{{(\w+)}}", legend)) <= set(grouped)


def test_every_metric_is_shown(samples: dict[str, set[str]]) -> None:
    shown = {name for query, _ in queries() for name in re.findall(r"l2c_rt_\w+", query)}
    # Of a histogram its buckets are enough.
    exported = {name for name in samples if not name.endswith(("_count", "_sum"))}
    assert shown == exported


def test_panels_have_their_own_numbers_and_places() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
