"""Old names that keep working for one release, with a warning that says the new one."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

Target = TypeVar("Target", bound=Callable[..., Any])


def renamed_keyword(**new_names: str) -> Callable[[Target], Target]:
    """A decorator for a function or a class whose keyword arguments were renamed: old="new".

    Raises: TypeError at the call that gives both names of one argument.
    """

    def decorate(target: Target) -> Target:
        if inspect.isclass(target):
            target.__init__ = _accepting(target.__init__, new_names)  # type: ignore[method-assign]
            return target
        return _accepting(target, new_names)

    return decorate


def warn_renamed(old: str, new: str, *, stacklevel: int) -> None:
    """Warn of a use of `old`; `stacklevel` is as for `warnings.warn`, seen from the caller."""
    warnings.warn(f"{old} is now {new}; the old name goes with the next release",
                  DeprecationWarning, stacklevel=stacklevel + 1)  # fmt: skip


def _accepting(function: Target, new_names: dict[str, str]) -> Target:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        for old in new_names.keys() & kwargs.keys():
            new = new_names[old]
            if new in kwargs:
                raise TypeError(f"{new}= is given twice: {old}= is its old name; drop it")
            warn_renamed(f"{old}=", f"{new}=", stacklevel=2)
            kwargs[new] = kwargs.pop(old)
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]
