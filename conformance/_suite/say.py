"""
How whatever is under way tells the user of it.
"""

from __future__ import annotations

from collections.abc import Callable

Say = Callable[[str], None]
"""What takes one line for the user."""
