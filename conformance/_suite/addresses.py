"""
What an address says of the machine behind it.
"""

from __future__ import annotations

import ipaddress


def is_loopback(host: str | None) -> bool:
    """
    Whether a URL's host is this machine itself, so that no proxy leads to it. A URL without a host (None) counts as
    one; an empty text does not.
    """
    if host in {None, "localhost"}:
        return True
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False
