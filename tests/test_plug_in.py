"""
Credentials that do not last, of an exec plug-in, against the real API server: behind a proxy that takes a token for two
seconds and then says 401, as EKS, GKE and Entra do after their quarter of an hour, or hour.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import sys
import time
from typing import TYPE_CHECKING

import aiohttp
import pytest
import yaml
from aiohttp import web

from infra.simulated.api_defects import ApiDefect, DefectProxy
from infra.simulated.certificates import Authority
from tests.conftest import run_program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Finished, Matrix

PLUG_INS = ("expires", "refused", "certificate")
Runs = tuple[dict[str, "Finished"], dict[str, int], dict[str, int]]
LIFE = 2
"""Seconds that a token is good for."""
PLUG_IN = """
import json, pathlib, sys, time
what, folder = sys.argv[1], pathlib.Path(sys.argv[2])
with (folder / f"{what}.calls").open("a") as calls:
    calls.write("called\\n")
now = time.time()
status = {}
if what != "refused":
    status["expirationTimestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + LIFE))
if what == "certificate":
    status["clientCertificateData"] = (folder / "crt").read_text() + f"# {now}\\n"
    status["clientKeyData"] = (folder / "key").read_text()
else:
    status["token"] = f"{what}/{now}"
print(json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}))
"""


class Gate:
    """
    A proxy before the API server; ``refused`` counts the requests whose token had expired, by plug-in.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._proxy = DefectProxy(url, session, ApiDefect("none"))
        self.refused = dict.fromkeys(PLUG_INS, 0)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        what, _, made = request.headers["Authorization"].removeprefix("Bearer ").partition("/")
        if time.time() - float(made) < LIFE:
            return await self._proxy.handle(request)
        self.refused[what] += 1
        status = {"kind": "Status", "code": 401, "message": "Unauthorized", "reason": "Unauthorized"}
        return web.json_response(status, status=401)


@pytest.fixture(scope="module")
def runs(matrix: Matrix, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """
    What three runs under such plug-ins ended with, how often each was called, how many requests of each were refused.
    One says when its token expires, one does not, one gives a certificate.
    """
    folder = tmp_path_factory.mktemp("plug-in")
    config = yaml.safe_load(matrix.kubeconfig.read_text(encoding="utf-8"))
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    for name, text in {
        "crt": user["client-certificate-data"], "key": user["client-key-data"],
        "api.crt": cluster["certificate-authority-data"],
    }.items():  # fmt: skip
        (folder / name).write_bytes(base64.b64decode(text))
    (folder / "plug-in.py").write_text(PLUG_IN.replace("LIFE", str(LIFE)), encoding="utf-8")
    authority = Authority(folder)
    identity = authority.issue("gate", "gate", addresses=["127.0.0.1"])

    def run(what: str, port: int) -> Finished:
        leads = {"server": f"https://127.0.0.1:{port}", "certificate-authority": str(authority.certificate)}
        plug_in = {
            "apiVersion": "client.authentication.k8s.io/v1", "command": sys.executable,
            "args": [str(folder / "plug-in.py"), what, str(folder)], "interactiveMode": "Never",
        }  # fmt: skip
        mine = {
            **config,
            "clusters": [{"name": "x", "cluster": cluster if what == "certificate" else leads}],
            "users": [{"name": "x", "user": {"exec": plug_in}}],
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
            "current-context": "x",
        }
        kubeconfig = folder / f"{what}.json"
        kubeconfig.write_text(json.dumps(mine), encoding="utf-8")
        existing = ("--target", "existing", "--kubeconfig", str(kubeconfig), "--node", matrix.faithful["2.3"])
        return run_program(folder / f"{what}.out" / "out", *existing, "--no-allure", "-k", "volumes or pod_security")

    async def all_of_them() -> tuple[list[Finished], dict[str, int]]:
        trust = ssl.create_default_context(cafile=str(folder / "api.crt"))
        trust.load_cert_chain(folder / "crt", folder / "key")
        inwards = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        inwards.load_cert_chain(identity.certificate, identity.key)
        connector = aiohttp.TCPConnector(ssl=trust, limit=0)
        async with aiohttp.ClientSession(connector=connector, headers={"Accept-Encoding": "identity"}) as session:
            gate = Gate(cluster["server"], session)
            application = web.Application(client_max_size=2**26)
            application.router.add_route("*", "/{path:.*}", gate.handle)
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
            await runner.setup()
            try:
                await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=inwards).start()
                port = runner.addresses[0][1]
                ended = await asyncio.gather(*(asyncio.to_thread(run, what, port) for what in PLUG_INS))
            finally:
                await runner.cleanup()
        return ended, gate.refused

    ended, refused = asyncio.run(all_of_them())
    calls = {what: len((folder / f"{what}.calls").read_text().splitlines()) for what in PLUG_INS}
    return dict(zip(PLUG_INS, ended, strict=True)), calls, refused


@pytest.mark.cluster
@pytest.mark.parametrize("what", PLUG_INS)
def test_a_credential_that_lives_two_seconds_lasts_a_run(runs: Runs, what: str) -> None:
    ended, calls, _ = runs
    seen = ended[what]
    rows = {
        found for (one, _), found in seen.verdicts().items() if one.startswith(("storage/volumes", "admission/pod-s"))
    }
    assert rows == {"conformant"}, seen.output
    # A selection is partial; what was created is gone, which takes longer than any of them lives.
    assert (seen.code, "left behind" in seen.output) == (4, False), seen.output
    assert calls[what] > 3


@pytest.mark.cluster
def test_a_token_that_says_when_it_expires_is_never_refused(
    runs: Runs,
) -> None:
    _, calls, refused = runs
    assert refused["expires"] == 0
    # Once for all who wait.
    assert calls["refused"] <= refused["refused"] + 1


def _kubeconfig(folder: Path, script: str) -> Path:
    plug_in = {"apiVersion": "client.authentication.k8s.io/v1", "command": sys.executable, "args": ["-c", script]}
    config = {
        "clusters": [{"name": "x", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "x", "user": {"exec": plug_in}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "current-context": "x",
    }
    (folder / "kubeconfig").write_text(json.dumps(config), encoding="utf-8")
    return folder / "kubeconfig"


def test_what_a_plug_in_fails_with_is_told(tmp_path: Path) -> None:
    script = "import sys; sys.exit('az login comes first')"
    seen = run_program(tmp_path / "out", "--target", "existing", "--kubeconfig", str(_kubeconfig(tmp_path, script)))
    assert seen.code == 3
    assert "exec plug-in" in seen.output
    assert "az login comes first" in seen.output
