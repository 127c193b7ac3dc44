"""The four published Learning-to-Cache schedules, thresholded, as package data.

Made from the published router files by `Router.load(file).schedule()`; each says in `source` which.
"""

from __future__ import annotations

from importlib.resources import files

from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.files import parse

SUFFIX = ".json"


def names() -> tuple[str, ...]:
    """The names that `load` takes: method/model/loop."""
    file_names = (entry.name for entry in files(__name__).iterdir())
    stems = (name.removesuffix(SUFFIX) for name in file_names if name.endswith(SUFFIX))
    return tuple(sorted(stem.replace("__", "/") for stem in stems))


def load(name: str) -> CacheSchedule:
    """The schedule of that name; ValueError lists the names where there is none."""
    if name not in names():
        raise ValueError(f"{name!r:.100} is not a preset; there are {', '.join(names())}")
    file = files(__name__) / (name.replace("/", "__") + SUFFIX)
    return CacheSchedule(**parse(file.read_bytes()))
