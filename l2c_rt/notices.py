"""The category of this package's own warnings."""


class L2CWarning(UserWarning):
    """Something does not run as it might be thought to; `summary()` says the same."""
