"""Computes the current day of a collection, by the rule of its scheduler. Used by `unbury`.

Source: rslib/src/scheduler/timing.rs of the official source.
"""

from __future__ import annotations

_DAY_S = 86_400
_HOUR_S = 3_600
_UINT32 = 2**32


def days_elapsed(
    created_s: int, now_s: int, *, created_west_min: int | None, now_west_min: int, rollover_hour: int | None
) -> int:
    """Days since the collection was created, in 32 unsigned bits as the engine counts them.

    Time zones are in minutes west of UTC. `rollover_hour` is None for scheduler 1. If the zone of creation is
    missing, the present one counts.
    """
    if rollover_hour is None:
        return _whole_days(now_s - created_s) % _UINT32
    if created_west_min is None:
        local_day = _local(created_s, now_west_min) // _DAY_S
        rollover_s = local_day * _DAY_S + rollover_hour * _HOUR_S + now_west_min * 60
        return _whole_days(now_s - rollover_s) % _UINT32
    local_now = _local(now_s, now_west_min)
    days = local_now // _DAY_S - _local(created_s, created_west_min) // _DAY_S
    # Until the rollover hour the previous day counts.
    before_rollover = local_now % _DAY_S < rollover_hour * _HOUR_S
    return max(0, days - before_rollover)


def _local(time_s: int, west_min: int) -> int:
    return time_s - west_min * 60


def _whole_days(span_s: int) -> int:
    """Division by a day, rounded towards zero."""
    return span_s // _DAY_S if span_s >= 0 else -(-span_s // _DAY_S)
