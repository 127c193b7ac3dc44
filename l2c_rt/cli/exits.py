"""Exit codes that mean something, and errors as one line on stderr, in the words of the CLI."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from l2c_rt.cli.wording import in_cli_words, in_one_line
from l2c_rt.notices import L2CWarning


class Failure(click.ClickException):
    """An error that ends the command; 1 is whatever has no code of its own."""

    exit_code = 1

    def __init__(self, error: BaseException) -> None:
        super().__init__(error_text(error))


class BadInput(Failure):
    """A file that cannot be read as what it should be."""

    exit_code = 3


class NoFit(Failure):
    """A model and a schedule that do not fit each other."""

    exit_code = 4


class ExitCodes(click.Group):
    """A group whose commands never end in a traceback, unless --debug asks for it."""

    def make_context(
        self, info_name: str | None, args: list[str], *rest: Any, **extra: Any
    ) -> click.Context:
        words = len(args)  # Parsing takes them off the list.
        try:
            return super().make_context(info_name, args, *rest, **extra)
        except click.UsageError as error:
            if not words:
                raise  # No mistake: the help.
            raise _told(error, self) from error

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _warnings_in_one_line(self):
                return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, KeyboardInterrupt, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.params["debug"]:
                traceback.print_exc()
            command = self.get_command(ctx, ctx.invoked_subcommand or "") or self
            raise _told(error, command) from error


def _told(error: Exception, command: click.Command) -> click.ClickException:
    """The error in one line; a usage error where it names an option, which is the remedy."""
    if isinstance(error, click.UsageError):
        return click.UsageError(in_one_line(error.format_message()))
    failure = error if isinstance(error, Failure) else Failure(error)
    text, names_option = in_cli_words(failure.message, command)
    if names_option:
        return click.UsageError(text)
    return type(failure)(ValueError(text))


@contextmanager
def _warnings_in_one_line(group: click.Group) -> Iterator[None]:
    """Our own warnings are for whoever typed the command, and not about a line of code."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def tell(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
            if not issubclass(category, L2CWarning):
                return show(message, category, *rest, **named)
            text, _ = in_cli_words(in_one_line(str(message)), group)
            return click.echo(f"Warning: {text}", err=True)

        warnings.showwarning = tell
        yield


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


def error_text(error: BaseException) -> str:
    """The error's text without line breaks; its type where it has no text."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return in_one_line(str(error)) or type(error).__name__
