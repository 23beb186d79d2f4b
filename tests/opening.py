"""
How long a report's page takes to open in headless Chromium, with every other host out of reach.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import tempfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

TIMES = 5
LIMIT = 60
"""Seconds after which a page counts as one that does not open."""
# The page's list of results is there when its first row is drawn.
_NOTE = """
(() => {
  const look = () => {
    if (document.querySelector('[data-testid^="tree-"]'))
      requestAnimationFrame(() => setTimeout(() => { window.opened ??= performance.now(); }, 0));
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})()
"""

_AWAIT = f"""
new Promise((done) => {{
  const look = () => window.opened ? done(window.opened) : setTimeout(look, 50);
  look();
  setTimeout(() => done(null), {LIMIT * 1000});
}})
"""


class _Browser:
    """
    One headless Chromium, spoken to over a pipe: JSON messages, each ended by a NUL byte.
    """

    def __init__(self, program: str, profile: str) -> None:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        command = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1280,900", "--remote-debugging-pipe", "about:blank",
        ]  # fmt: skip
        # Chromium reads its descriptor 3 and writes to 4.
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", *command],
            pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._rest = b""
        self._number = 0

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        os.write(self._out, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                self._rest += os.read(self._in, 1 << 20)
            one, _, self._rest = self._rest.partition(b"\0")
            answer = json.loads(one)
            if answer.get("id") == self._number:
                result: dict[str, Any] = answer["result"]
                return result

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        os.close(self._out)
        os.close(self._in)


def opening_seconds(page: Path) -> float | None:
    """
    The median of the seconds from navigation to the list of results; None without a browser, infinity for a page that
    does not open.
    """
    program = shutil.which("chromium") or shutil.which("google-chrome")
    return statistics.median(_once(program, page) for _ in range(TIMES)) if program else None


def _once(program: str, page: Path) -> float:
    # The page keeps what was opened in the profile, so each time has its own.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = _Browser(program, profile)
        try:
            targets = browser.call("Target.getTargets")["targetInfos"]
            target = next(one["targetId"] for one in targets if one["type"] == "page")
            session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            browser.call("Page.enable", session)
            browser.call("Page.addScriptToEvaluateOnNewDocument", session, source=_NOTE)
            browser.call("Page.navigate", session, url=page.absolute().as_uri())
            found = browser.call("Runtime.evaluate", session, expression=_AWAIT, awaitPromise=True)
            opened = found["result"].get("value")
            return float("inf") if opened is None else float(opened) / 1000
        finally:
            browser.close()
