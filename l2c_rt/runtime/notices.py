"""What a compiled model has to say while it runs: warned of once each, and logged."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterable

from l2c_rt.notices import L2CWarning

logger = logging.getLogger("l2c_rt")


class Notices:
    """Warns of every text once; the log has them at INFO, since a warning is printed already."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def tell(self, texts: Iterable[str]) -> None:
        """Warn, at the user's line, of those that were not told yet."""
        for text in texts:
            if text not in self._told:
                # First, so that a warning that is an error is one only once.
                self._told.add(text)
                logger.info(text)
                warnings.warn(text, L2CWarning, stacklevel=users_level())


def users_level() -> int:
    """The `stacklevel` with which a warning of the calling function is at the user's line."""
    package = __name__.partition(".")[0]
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and _is_ours(frame.f_globals.get("__name__", ""), package):
        level, frame = level + 1, frame.f_back
    return level


def _is_ours(module: str, package: str) -> bool:
    # A call of a compiled model passes through its base class.
    return module in (package, "torch.nn.modules.module") or module.startswith(f"{package}.")
