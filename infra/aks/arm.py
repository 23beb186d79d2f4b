"""
The connection to Azure Resource Manager, and what its refusals mean to a user.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from conformance._suite.addresses import is_loopback
from conformance._suite.errors import SuiteError, TargetError, UsageError
from conformance._suite.redact import redact
from conformance._suite.waiting import let_connections_close

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from azure.core.exceptions import AzureError
    from azure.core.pipeline import PipelineRequest, PipelineResponse
    from azure.identity.aio import DefaultAzureCredential
    from azure.mgmt.containerservice.aio import ContainerServiceClient
    from azure.mgmt.resource.resources.aio import ResourceManagementClient

    from infra.aks.plan import Plan

POLL_SECONDS = 20.0
"""Between looks at an operation that is under way, where Azure's Retry-After says nothing else."""
RETRIES = 30
"""For what passes: 429, 5xx, resets. Half an hour is long enough to meet a lot of them; the cap on time bounds all."""
LONGEST_BACKOFF = 30.0
_FIRST_CONNECT_RETRIES = 2
_ANSWER_SECONDS = 30.0
_LONGEST_MESSAGE = 400

# Azure has no room here, or gives this subscription none: another region may. Compute calls an exceeded quota
# OperationNotAllowed, as AKS calls an operation that has to wait for another one.
_NO_ROOM = re.compile(
    r"SkuNotAvailable|AllocationFailed|Overconstrained\w*AllocationRequest|QuotaExceeded|InsufficientVCPUQuota"
    r"|AKSCapacity\w+|NotAvailableForSubscription|VMSizeNotSupported|exceeding (approved|quota)"
    r"|is not allowed in your subscription in location",
    re.IGNORECASE,
)
_BUSY_CODES = {"OperationNotAllowed", "AnotherOperationInProgress", "Conflict", "OperationPreempted"}
_LOCKED = re.compile(r"ScopeLocked|RequestDisallowedByPolicy")
_OTHER_VERSION = "name another --aks-kubernetes"
_USAGE_CODES = {
    "InvalidOSSKU": "name another --aks-os-sku, or another --aks-kubernetes",
    "K8sVersionNotSupported": _OTHER_VERSION,
    "AgentPoolK8sVersionNotSupported": _OTHER_VERSION,
    "SubscriptionNotFound": "name one with --aks-subscription that `az account list` shows",
    "InvalidSubscriptionId": "name one with --aks-subscription that `az account list` shows",
    "LocationNotAvailableForResourceGroup": "name another region with --aks-region",
    "InvalidLocation": "name another region with --aks-region",
    "NoRegisteredProviderFound": "name another region with --aks-region",
}
_NETWORK = "is there a network, or a proxy to name?"
_NO_LOGIN = re.compile(
    r"(Cannot connect to host|Connection (timeout|timed out)|Timeout on reading|Server disconnected)[^\n]*"
)
_LOGIN = "`az login`, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"


@dataclass(frozen=True, slots=True)
class Arm:
    """
    The two clients, with one credential.
    """

    resources: ResourceManagementClient
    containers: ContainerServiceClient


def credential() -> DefaultAzureCredential:
    """
    Azure's own search for a credential: environment, workload identity, managed identity, `az login`, …
    """
    from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415 - an optional extra

    return DefaultAzureCredential()


@contextlib.asynccontextmanager
async def connected(plan: Plan) -> AsyncIterator[Arm]:
    """
    Open the clients. Everything that Azure refuses while the block runs comes out as a SuiteError of one line.
    """
    from azure.core.exceptions import AzureError  # noqa: PLC0415
    from azure.mgmt.containerservice.aio import ContainerServiceClient  # noqa: PLC0415
    from azure.mgmt.resource.resources.aio import ResourceManagementClient  # noqa: PLC0415

    # The SDK's warnings would come between the lines of progress, in many lines; its exceptions say the same.
    logging.getLogger("azure").addHandler(logging.NullHandler())
    try:
        async with (
            credential() as token,
            ResourceManagementClient(token, plan.subscription, **_settings(plan)) as resources,
            ContainerServiceClient(token, plan.subscription, **_settings(plan)) as containers,
        ):
            yield Arm(resources, containers)
    except AzureError as error:
        raise explained(error) from error
    finally:
        await let_connections_close()


def _settings(plan: Plan) -> dict[str, Any]:
    """
    What both clients are made with; each has to have its own policies, which know the next one in their pipeline.
    """
    return {
        "base_url": plan.endpoint,
        "credential_scopes": [f"{plan.endpoint}/.default"],
        "connection_verify": True if plan.ca_file is None else str(plan.ca_file),
        # Proxies in the environment are for what is outside, never for a server on this machine.
        "use_env_settings": not is_loopback(urlsplit(plan.endpoint).hostname or ""),
        "polling_interval": POLL_SECONDS,
        "retry_total": RETRIES,
        "retry_connect": RETRIES,
        "retry_read": RETRIES,
        "retry_status": RETRIES,
        "retry_backoff_max": LONGEST_BACKOFF,
        "per_call_policies": [_renewing()],
        "per_retry_policies": [_landing()],
    }


def first_contact() -> dict[str, Any]:
    """
    Options for the first request: where there is no way to Azure, say so soon.
    """
    return {"retry_connect": _FIRST_CONNECT_RETRIES}


def no_room(error: AzureError) -> bool:
    """
    Whether Azure says that there is no capacity or no quota, which another region may have.
    """
    # The text holds the whole answer: the code that counts is often wrapped in two others.
    return bool(_NO_ROOM.search(str(error)))


def busy(error: AzureError) -> bool:
    """
    Whether Azure says that another operation on the same cluster has to end first.
    """
    status = getattr(error, "status_code", None)
    return status == 409 and _code(error) in _BUSY_CODES and not no_room(error)


def passing(error: AzureError) -> bool:
    """
    Whether a removal that Azure refuses, or has begun and given up, may go well later: something was under way in the
    group, be it its removal, or is gone meanwhile. A lock or a policy stays until somebody takes it away.
    """
    other = getattr(error, "status_code", None) in {404, 409} or _code(error) in _BUSY_CODES
    return other and not _LOCKED.search(str(error))


def explained(error: AzureError, doing: str = "") -> SuiteError:
    """
    What Azure's refusal means: UsageError where the command line is to blame, else TargetError.
    """
    from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError, ServiceResponseError  # noqa: PLC0415

    head = f"{doing}: " if doing else ""
    if isinstance(error, ClientAuthenticationError):
        if unreachable := _NO_LOGIN.search(str(error.message)):
            return TargetError(f"{head}Azure's log-in cannot be reached: {_cut(unreachable[0])}", _NETWORK)
        return TargetError(f"{head}no Azure credential is accepted: {_condensed(str(error.message))}", _LOGIN)
    if isinstance(error, ServiceRequestError | ServiceResponseError):
        return TargetError(f"{head}Azure cannot be reached: {_line(error)}", _NETWORK)
    code, status = _code(error), getattr(error, "status_code", None)
    said = f"{head}{code or 'Azure'}: {_line(error)}"
    if code in _USAGE_CODES:
        return UsageError(said, _USAGE_CODES[code])
    if "RequestDisallowedByPolicy" in str(error):
        return TargetError(said, "a policy of the subscription forbids it: --aks-tag if it asks for tags, or change it")
    if status == 403:
        return TargetError(said, "docs/aks.md lists the rights that are needed")
    if no_room(error):
        return TargetError(said, "name another --aks-region or VM size, or ask Azure for quota")
    if status == 400:
        return TargetError(f"Azure refuses what was asked for: {said}", "--dry-run shows what that is")
    return TargetError(said)


def _renewing() -> Any:
    """
    A policy that sends a request once more when Azure does not take the token: the SDK has dropped it by then and
    asks the credential for a new one. Tokens end early when they are revoked, or by a clock that is wrong.
    """
    from azure.core.pipeline.policies import AsyncHTTPPolicy  # noqa: PLC0415

    class Renewing(AsyncHTTPPolicy[Any, Any]):
        async def send(self, request: PipelineRequest[Any]) -> PipelineResponse[Any, Any]:
            answer = await self.next.send(request)
            return await self.next.send(request) if answer.http_response.status_code == 401 else answer

    return Renewing()


def _landing() -> Any:
    """
    A policy for requests that change something: interrupted while one is on its way, still wait for the answer, but not
    for ever. The removal that follows must not overtake the creation.
    """
    from azure.core.pipeline.policies import AsyncHTTPPolicy  # noqa: PLC0415

    class Landing(AsyncHTTPPolicy[Any, Any]):
        async def send(self, request: PipelineRequest[Any]) -> PipelineResponse[Any, Any]:
            if request.http_request.method not in {"PUT", "DELETE"}:
                return await self.next.send(request)
            sent = asyncio.ensure_future(self.next.send(request))
            try:
                return await asyncio.shield(sent)
            except asyncio.CancelledError:
                await asyncio.wait({sent}, timeout=_ANSWER_SECONDS)
                sent.cancel()
                await asyncio.gather(sent, return_exceptions=True)
                raise

    return Landing()


def _code(error: AzureError) -> str:
    return str(getattr(getattr(error, "error", None), "code", None) or "")


def _line(error: AzureError) -> str:
    """
    What Azure says: of an error in an error the innermost, which names the cause.
    """
    inner = getattr(error, "error", None)
    said = str(getattr(inner, "message", None) or error.message)
    while inner is not None and getattr(inner, "details", None):
        inner = inner.details[0]
        said = f"{inner.code}: {inner.message}"
    return _cut(said)


def _condensed(text: str) -> str:
    """
    The one line of a failed search for a credential that tells why: Entra's own where there is one.
    """
    for line in text.splitlines():
        if "AADSTS" in line:
            return _cut(line[line.index("AADSTS") :])
    tried = re.findall(r"^\s*(\w+Credential):", text, re.MULTILINE)
    return f"none from {', '.join(tried)}" if tried else _cut(text)


def _cut(text: str) -> str:
    """
    One line without secrets. What is too long loses its middle: causes are at the end of what scripts print.
    """
    line = redact(" ".join(text.split()) or "no reason given")
    half = _LONGEST_MESSAGE // 2
    return line if len(line) <= _LONGEST_MESSAGE else f"{line[:half]} […] {line[-half:]}"
