"""The category of every warning of this package, for `warnings.filterwarnings`."""

from __future__ import annotations


class L2CWarning(UserWarning):
    """Something runs, but perhaps not as was meant; under `strict=True` it raises instead."""
