"""An engine's metrics against what it did."""

from __future__ import annotations

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry, generate_latest
from served import STEPS, compiled, image

import l2c_rt as rt
from l2c_rt.integrations.prometheus import watch
from l2c_rt.serving.results import ExactResults


def test_metrics_say_what_the_engine_did() -> None:
    registry = CollectorRegistry()
    with rt.Engine(compiled()) as engine:
        collector = watch(engine, registry)
        for future in [engine.submit(image(i), i) for i in range(3)]:
            future.result(60)
        engine.submit(image(0), 0).cancel()
        engine.drain(60)
        stats = engine.stats()

        def value(name: str, **labels: str) -> float | None:
            return registry.get_sample_value(f"l2c_rt_{name}", labels)

        assert value("requests_total", outcome="finished") == stats.outcomes["finished"] >= 3
        assert value("requests_waiting") == value("requests_running") == 0
        assert value("ticks_total") == stats.ticks
        assert value("reuse_share") == pytest.approx(stats.reuse_share)
        assert value("request_seconds_count") == 4
        assert value("request_seconds_bucket", le="+Inf") == 4
        assert value("wait_ticks_count") == stats.evaluations >= 3 * STEPS
        kinds = [value("evaluations_total", kind=str(kind)) or 0 for kind in stats.kinds]
        assert sum(kinds) == stats.evaluations
        assert b"l2c_rt_batches_total" in generate_latest(registry)
        registry.unregister(collector)


def test_metrics_say_what_was_served_again() -> None:
    registry = CollectorRegistry()
    with rt.Engine(compiled(), results=ExactResults()) as engine:
        watch(engine, registry)
        for _ in range(3):
            engine.submit(image(0), 0).result(60)
        for event, count in (("hits", 2), ("misses", 1), ("refreshes", 0)):
            value = registry.get_sample_value("l2c_rt_results_total", {"event": event})
            assert value == count
        nbytes = registry.get_sample_value("l2c_rt_results_bytes")
        assert nbytes == engine.stats().results.nbytes > 0


def test_the_reuse_share_is_the_schedules() -> None:
    fast = compiled()
    with rt.Engine(fast) as engine:
        engine.submit(image(0), 0).result(60)
        assert engine.stats().reuse_share == pytest.approx(fast.schedule.reuse_share)
