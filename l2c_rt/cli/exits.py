"""Exit codes that mean something, and errors as one line on stderr."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click


class Failure(click.ClickException):
    """An error that ends the command; 1 is whatever has no code of its own."""

    exit_code = 1

    def __init__(self, error: BaseException) -> None:
        super().__init__(one_line(error))


class BadInput(Failure):
    """A file that cannot be read as what it should be."""

    exit_code = 3


class NoFit(Failure):
    """A model and a schedule that do not fit each other."""

    exit_code = 4


class ExitCodes(click.Group):
    """A group whose commands never end in a traceback, unless --debug asks for it."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, KeyboardInterrupt, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.params["debug"]:
                traceback.print_exc()
            if isinstance(error, click.ClickException):
                raise
            raise Failure(error) from error


@contextmanager
def reading() -> Iterator[None]:
    """What fails in here is a bad input file."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise BadInput(error) from error


@contextmanager
def fitting() -> Iterator[None]:
    """What fails in here is a model and a schedule that do not fit each other."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise NoFit(error) from error


def refuse(option: str, reason: str) -> NoReturn:
    """End with a usage error (2) about one option or argument."""
    raise click.BadParameter(reason, param_hint=repr(option))


def one_line(error: BaseException) -> str:
    """The error's text without line breaks; its type where it has no text."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
