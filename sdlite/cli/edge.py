"""Where errors become one line and an exit code, and where logging is switched on."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from sdlite.cli.harmless import harmless
from sdlite.errors import Cancelled, SdliteError, UnknownName

Function = TypeVar("Function", bound=Callable[..., Any])

INTERRUPTED = 130
LOGGERS = ("sdlite", "sdlite_runtimes", "sdlite_export")


@dataclass
class State:
    """What the common options asked for."""

    debug: bool = False
    """Show tracebacks."""
    verbose: int = 0
    """How often ``-v`` was given."""


class Program(click.Group):
    """The outermost command: nothing but one line leaves it when something goes wrong."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = False,
        **extra: Any,
    ) -> Any:
        """Run and exit, as click does; ``windows_expand_args`` would expand the * in a prompt."""
        state = State()

        def call() -> Any:
            return super(Program, self).main(
                args,
                prog_name="sdlite",
                complete_var="_SDLITE_COMPLETE",
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                obj=state,
                **extra,
            )

        if not standalone_mode:
            return call()
        for stream in (sys.stdout, sys.stderr):
            # A path the terminal's encoding lacks is shown escaped; it must not end the run.
            with contextlib.suppress(AttributeError, ValueError):
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        code = run(call, state)
        sys.exit(code)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; an unknown one offers the nearest."""
        name = args[0]
        # While the shell completes, an error would be printed into the line that is being typed.
        if ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            raise UnknownName("command", name, self.list_commands(ctx))
        return super().resolve_command(ctx, args)


def run(call: Callable[[], Any], state: State) -> int:
    """Call, say on standard error what went wrong, and return the exit code."""
    try:
        value = call()
        sys.stdout.flush()
        return value if isinstance(value, int) else 0
    except BrokenPipeError:
        # Nobody reads any more. Python would complain once again while it shuts down.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (click.Abort, KeyboardInterrupt, Cancelled):
        tell("stopped")
        return INTERRUPTED
    except click.ClickException as error:
        fail(error.format_message(), error, state)
        return error.exit_code
    except SdliteError as error:
        fail(str(error), error, state)
        return error.exit_code
    except MemoryError as error:
        fail("out of memory; try a smaller --size, or --memory-mode mapped", error, state)
        return 1
    except BaseExceptionGroup as error:
        reasons = [leaf for leaf in leaves(error) if isinstance(leaf, SdliteError)]
        message = "; ".join(map(str, reasons)) if reasons else _unexpected(error)
        fail(message, error, state)
        return max((reason.exit_code for reason in reasons), default=1)
    except Exception as error:
        fail(_unexpected(error), error, state)
        return 1


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The exceptions in a group, however deep."""
    found: list[BaseException] = []
    for error in group.exceptions:
        found.extend(leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found


def _unexpected(error: BaseException) -> str:
    return f"{type(error).__name__}: {error} (a bug in sdlite: --debug shows where)"


def fail(message: str, error: BaseException, state: State) -> None:
    """One line on standard error; with ``--debug`` the traceback above it."""
    if state.debug:
        click.echo(harmless("".join(traceback.format_exception(error)), True), err=True, nl=False)
    tell(f"error: {message}")


def tell(message: str) -> None:
    """One line on standard error, whatever the message holds."""
    with contextlib.suppress(OSError):
        click.echo("sdlite: " + harmless(" ".join(message.split())), err=True)


def common(function: Function) -> Function:
    """Add the options every command has."""
    verbose = click.option(
        "-v",
        "--verbose",
        count=True,
        expose_value=False,
        callback=_verbose,
        help="Say what is done and why; twice for more.",
    )
    debug = click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_debug,
        help="Log everything, and show the traceback of an error.",
    )
    return verbose(debug(function))


def _debug(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    state = ctx.ensure_object(State)
    if value:
        state.debug = True
        log_to_stderr(logging.DEBUG)


def _verbose(ctx: click.Context, _parameter: click.Parameter, value: int) -> None:
    state = ctx.ensure_object(State)
    state.verbose = max(state.verbose, value)
    if value and not state.debug:
        log_to_stderr(logging.DEBUG if value > 1 else logging.INFO)


def log_to_stderr(level: int) -> None:
    """Send sdlite's own log to standard error; other libraries keep theirs."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False
