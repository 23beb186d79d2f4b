"""
The program: one command, its exit code, and what ends it from outside.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from typing import TYPE_CHECKING

from conformance._suite import verdict
from conformance._suite.cli.cleanup import cleanup
from conformance._suite.cli.judge import judge
from conformance._suite.cli.prints import catalogue, images, rbac
from conformance._suite.cli.run import conformance
from conformance._suite.cli.up_down import down, up
from conformance._suite.errors import SuiteError
from conformance._suite.hints import of_stop

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run one command and return its exit code.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    # A shell starts what it puts into the background with SIGINT ignored; this program always has to hear it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # SIGTERM and a terminal that goes away end a run as Ctrl-C does: cleaned up, with its evidence.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    _watch_parent()
    commands = {
        "judge": judge, "up": up, "down": down, "catalogue": catalogue, "cleanup": cleanup, "rbac": rbac,
        "images": images,
    }  # fmt: skip
    try:
        if given and given[0] in commands:
            return commands[given[0]](given[1:])
        return conformance(given)
    except SuiteError as error:
        print(f"conformance: {error}", file=sys.stderr)
        if error.exit_code == verdict.EXIT_TARGET and (hint := of_stop(str(error))):
            print(f"likely cause: {hint.cause} {hint.remedy}\n{hint.see[0]} ({hint.sure})", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return verdict.EXIT_TARGET
    except KeyboardInterrupt:
        print("conformance: interrupted", file=sys.stderr)
        return verdict.EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - Python's own exit code for it, 1, would say non-conformant
        traceback.print_exc()
        print(f"conformance: {type(error).__name__}: {error} — this is a bug in the suite", file=sys.stderr)
        return verdict.EXIT_TARGET


def _watch_parent() -> None:
    """
    When nox is killed nobody waits for this run any more: end it as Ctrl-C would.
    """
    parent = os.environ.get("HOSTPROCESS_CONFORMANCE_PARENT")
    if not parent or int(parent) != os.getppid():
        return

    def watch() -> None:
        pause = threading.Event()
        while os.getppid() == int(parent):
            pause.wait(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
