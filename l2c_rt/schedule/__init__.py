"""What is computed and what is reused at each step: a table, its checks and its files."""

from l2c_rt.schedule.cache_schedule import CacheSchedule

__all__ = ["CacheSchedule"]
