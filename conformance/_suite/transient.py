"""
Which answers of an API server may pass when the request is sent again.
"""

from __future__ import annotations

TRANSIENT = frozenset({429, 500, 502, 503, 504})
"""Overload, and trouble on the way or behind the server."""
UNDONE = frozenset({429, 503})
"""Those of them that say that nothing was done, so that any request may be sent again."""
THROTTLED = frozenset({429})
"""All that passes where a 5xx is the answer: what the API server says of a kubelet, or of a pod's port."""
NOT_A_WEBHOOKS = TRANSIENT - {500}
"""Where admission is asked: a 500 is a webhook's answer as well, to be told and not to be tried again."""
