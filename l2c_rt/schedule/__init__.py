"""Cache schedules: a table of computed and reused branches, its checks, files and pictures."""

from l2c_rt.schedule.cache_schedule import CacheSchedule

__all__ = ["CacheSchedule"]
