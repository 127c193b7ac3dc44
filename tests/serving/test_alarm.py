"""The alarm of requests that may be over, and that none is missed."""

from __future__ import annotations

from l2c_rt.serving.alarm import Alarm


def test_it_rings_from_the_earliest_deadline_on_until_it_is_reset() -> None:
    alarm = Alarm()
    alarm.watch([5.0, None, 3.0])
    alarm.watch([4.0])
    assert [alarm.rings(now) for now in (2.9, 3.0, 9.0)] == [False, True, True]
    alarm.reset()
    assert not alarm.rings(9.0)
    alarm.watch([None])
    assert not alarm.rings(1e300)


def test_it_rings_for_a_cancelled_request_at_once() -> None:
    alarm = Alarm()
    alarm.cancel()
    assert alarm.rings(0.0)
    alarm.reset()
    assert not alarm.rings(0.0)
