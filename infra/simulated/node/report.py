"""
What the node process says about its own trouble, on stderr.
"""

from __future__ import annotations

import sys
import traceback


def complain(who: str, text: str, error: BaseException | None = None) -> None:
    """
    One line, and the traceback of an error that nobody expected.
    """
    print(f"{who}: {text}", file=sys.stderr, flush=True)
    if error is not None:
        traceback.print_exception(error, file=sys.stderr)
