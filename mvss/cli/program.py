"""How commands end and speak: a line on stderr for what is wrong, results on stdout, or one JSON object there.

0 well, 2 bad input, 130 Ctrl-C, 143 SIGTERM
"""

from __future__ import annotations

__all__ = ["Program", "say"]

import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import click

from mvss.runtime.errors import MvssError
from mvss.runtime.exits import report_errors


class Program(click.Group):
    """Commands whose errors are those of the library: one line."""

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        **extra: Any,  # noqa: ANN401 - of click
    ) -> NoReturn:
        """Run a command and end the process."""
        words = list(sys.argv[1:] if args is None else args)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="diffusers|accelerate|huggingface_hub")
            warnings.showwarning = _show
            status = report_errors("mvss", lambda: self._status(words, prog_name, extra), resumes="fit" in words[:1])
        sys.exit(status)

    def _status(self, words: list[str], name: str | None, extra: dict[str, Any]) -> int:
        try:
            status = super().main(words, name, **{**extra, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            return 2
        except click.ClickException as error:
            raise MvssError(" ".join(error.format_message().split())) from error
        except click.Abort as error:
            raise error.__cause__ or KeyboardInterrupt from None
        return status if isinstance(status, int) else 0


def say(as_json: bool, found: Mapping[str, Any], text: str) -> None:
    """A command's result on stdout."""
    click.echo(json.dumps(found, allow_nan=False) if as_json else text)


def _show(message: Warning | str, *_: object, **__: object) -> None:
    """A warning in one line."""
    print(f"mvss: warning: {' '.join(str(message).split())}", file=sys.stderr)
