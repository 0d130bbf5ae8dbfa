"""How a command ends: in order, with a status that tells how, and one line for what its user can mend.

0 well, 2 bad input, 130 Ctrl-C, 143 SIGTERM
"""

from __future__ import annotations

__all__ = ["report_errors"]

import signal
import sys
from collections.abc import Callable

from mvss.runtime.errors import MvssError


def report_errors(target: str, work: Callable[[], int], resumes: bool = True) -> int:
    """The exit status of `work`. Bad input is one line on stderr and status 2; so are Ctrl-C and SIGTERM, with their own.
    resumes: whether the same command goes on where it was interrupted."""
    before = {signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler)}
    before |= {signal.SIGTERM: signal.signal(signal.SIGTERM, _terminated)}
    try:
        return work()
    except MvssError as error:
        print(f"{target}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        ended = isinstance(stop, _Terminated)
        word, status = ("ended by SIGTERM", 143) if ended else ("interrupted", 130)
        print(
            f"\n{target}: {word}; the same command {'goes on where it stopped' if resumes else 'starts anew'}", file=sys.stderr
        )
        return status
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends as Ctrl-C does: what was begun is taken down in order."""


def _terminated(*_: object) -> None:
    raise _Terminated
