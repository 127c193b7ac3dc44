"""The counts of an engine as metrics of prometheus-client, read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from l2c_rt.serving.counts import EngineStats, Histogram
from l2c_rt.serving.engine import Engine


class EngineCollector(Collector):
    """Costs an engine nothing between two readings.

    The names are l2c_rt_requests_total{outcome}, l2c_rt_requests_refused_total,
    l2c_rt_requests_waiting and _running, l2c_rt_ticks_total, l2c_rt_evaluations_total{kind},
    l2c_rt_batches_total{size}, l2c_rt_reuse_share, l2c_rt_memory_bytes, l2c_rt_graphs; of results
    served again l2c_rt_results_total{event}, l2c_rt_results_bytes, l2c_rt_results_mean_error and
    _largest_error; and the histograms l2c_rt_request_seconds, l2c_rt_begin_seconds and
    l2c_rt_wait_ticks.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats()
        yield from _counters(stats)
        for name, text, value in (
            ("requests_waiting", "Requests that have not begun", stats.waiting),
            ("requests_running", "Requests that have begun", stats.running),
            ("reuse_share", "Share of branch calls reused or predicted", stats.reuse_share),
            ("memory_bytes", "Memory of slots and tables", stats.nbytes),
            ("graphs", "CUDA graphs of the current weights", stats.graphs),
            ("results_bytes", "Memory of results that may be served again", stats.results.nbytes),
            ("results_mean_error", "Mean error found by refreshes", stats.results.mean_error),
            ("results_largest_error", "Largest of these errors", stats.results.largest_error),
        ):
            yield GaugeMetricFamily(f"l2c_rt_{name}", text, value=value)
        for name, text, histogram in (
            ("request_seconds", "From submit to the end", stats.total_seconds),
            ("begin_seconds", "From submit to the first evaluation", stats.begin_seconds),
            ("wait_ticks", "Ticks between evaluations of a request", stats.tick_waits),
        ):
            yield _histogram(f"l2c_rt_{name}", text, histogram)


def watch(engine: Engine, registry: CollectorRegistry) -> EngineCollector:
    """Register an engine's metrics; `registry.unregister` takes the result."""
    collector = EngineCollector(engine)
    registry.register(collector)
    return collector


def _counters(stats: EngineStats) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "l2c_rt_requests", "Requests that have ended", labels=["outcome"]
    )
    for outcome, count in stats.outcomes.items():
        requests.add_metric([outcome], count)
    evaluations = CounterMetricFamily(
        "l2c_rt_evaluations", "Evaluations of single requests", labels=["kind"]
    )
    for kind, count in sorted(stats.kinds.items()):
        evaluations.add_metric([str(kind)], count)
    batches = CounterMetricFamily("l2c_rt_batches", "Ticks by size of their batch", labels=["size"])
    for size, count in sorted(stats.batch_sizes.items()):
        batches.add_metric([str(size)], count)
    results = CounterMetricFamily(
        "l2c_rt_results", "Requests by what the cache of results did", labels=["event"]
    )
    for event in ("hits", "misses", "refreshes", "replaced", "evicted"):
        results.add_metric([event], getattr(stats.results, event))
    yield requests
    yield results
    yield evaluations
    yield batches
    yield CounterMetricFamily("l2c_rt_requests_refused", "Queue full", value=stats.refused)
    yield CounterMetricFamily("l2c_rt_ticks", "Ticks", value=stats.ticks)


def _histogram(name: str, text: str, histogram: Histogram) -> HistogramMetricFamily:
    buckets, below = [], 0
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        below += count
        buckets.append(("+Inf" if bound == float("inf") else str(bound), below))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=histogram.total)
