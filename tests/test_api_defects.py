"""
The proxies that play defects of the API server's side. The last tests open loopback sockets: a small API server of
their own behind the real proxies.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from conformance import Defect, Observation, Scope, Unknown
from conformance._suite import workload
from conformance._suite.facts import ClusterFacts
from conformance._suite.observation import Evidence
from conformance.admission import test_host_network, test_mixed_pods, test_pod_security
from conformance.admission.validation import ALL_OR_NONE, DOCUMENTED, IDENTICAL
from conformance.admission.validation import HOST_NETWORK as UNSHARED
from infra.simulated.api_defects import ADMITTED, API_DEFECTS, Answer, Asked, is_host_process, proxies
from infra.simulated.certificates import Authority

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PODS = "/api/v1/namespaces/main/pods"
ON = {"windowsOptions": {"hostProcess": True}}
MIXED = (
    'Invalid value: "": If pod contains any hostProcess containers then all containers must be HostProcess containers'
)
DIFFER = "Invalid value: false: pod hostProcess value must be identical if both are specified, was true"
HOST_NETWORK = "Invalid value: false: hostNetwork must be true if pod contains any hostProcess containers"


def pod(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}], **spec}}


def creation(body: dict[str, Any], **query: str) -> Asked:
    return Asked("POST", PODS, query, body)


def invalid(**causes: str) -> Answer:
    listed = [{"field": field.replace("_", "."), "message": text} for field, text in causes.items()]
    return Answer(422, {"message": 'Pod "p" is invalid: whatever', "details": {"causes": listed}, "reason": "Invalid"})


def forbidden(level: str) -> Answer:
    return Answer(403, {"message": f'pods "p" is forbidden: violates PodSecurity "{level}:latest": hostProcess (…)'})


def test_every_cluster_defect_of_the_pages_is_played_and_no_other() -> None:
    pages = [test_mixed_pods, test_host_network, test_pod_security]
    declared = {value.name: value.on for page in pages for value in vars(page).values() if isinstance(value, Defect)}
    assert declared == dict.fromkeys(API_DEFECTS, Scope.CLUSTER)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("mixed-pod-admitted", MIXED),
        ("disagreeing-values-admitted", DIFFER),
        ("host-network-not-required", HOST_NETWORK),
    ],
)
def test_a_forgotten_rule_is_the_only_one_forgotten(name: str, rule: str) -> None:
    answer = API_DEFECTS[name].answer
    asked = creation(pod())
    assert answer(asked, invalid(spec=rule)) is ADMITTED
    others = invalid(**{f"field_{index}": text for index, text in enumerate([MIXED, DIFFER, HOST_NETWORK])})
    left = answer(asked, others)
    assert left.code == 422
    assert [cause["message"] for cause in left.body["details"]["causes"]] == [
        text for text in (MIXED, DIFFER, HOST_NETWORK) if text != rule
    ]
    assert rule not in left.body["message"]
    unconcerned = invalid(name="Required value")
    assert answer(asked, unconcerned) is unconcerned


RULES = {
    "mixed-pod-admitted": (ALL_OR_NONE, test_mixed_pods.test_a_pod_with_some_hostprocess_containers_is_refused),
    "disagreeing-values-admitted": (IDENTICAL, test_mixed_pods.test_pod_and_container_cannot_disagree),
    "host-network-not-required": (UNSHARED, test_host_network.test_host_network_has_to_be_set),
}
"""The defects of validation: the rule that each forgets, and the check that is to turn red."""


def validated(said: list[str]) -> Answer:
    """
    An API server's answer to a request that it has all of this against.
    """
    if not said:
        return Answer(201, pod())
    listed = [dict(zip(("field", "message"), one.split(": ", 1), strict=True)) for one in said]
    message = f'Pod "p" is invalid: {said[0] if len(said) == 1 else "[" + ", ".join(said) + "]"}'
    return Answer(422, {"message": message, "details": {"causes": listed}, "reason": "Invalid"})


def observed(answers: dict[str, Answer]) -> Observation:
    """
    What a check is given when the API server has answered so.
    """
    api = [
        {
            "name": name,
            "code": answer.code or 201,
            "reason": answer.body.get("reason"),
            "message": answer.body.get("message"),
            "causes": answer.body.get("details", {}).get("causes", []),
            "changed": answer.body.get("changed"),
        }
        for name, answer in answers.items()
    ]
    evidence = Evidence({"steps": [{"name": "requests", "met": True, "api": api}]})
    return Observation({"admission": evidence}, ClusterFacts("simulated", "v1.37.2", simulated=True))


def red(observation: Observation) -> set[str]:
    found = set()
    for name, (_, judge) in RULES.items():
        try:
            judge(observation)
        except AssertionError:
            found.add(name)
    return found


def test_each_request_to_validation_is_in_the_table() -> None:
    admission = workload.load("admission")
    placeholders = dict.fromkeys(("nonce", "namespace", "image"), "x")
    asked = admission.requests(admission.steps[0], placeholders)
    # Pod Security is asked with what is valid already.
    assert {one["name"] for one in asked if "namespace" not in one} == set(DOCUMENTED)


def test_a_faithful_api_server_is_green() -> None:
    assert red(observed({name: validated(said) for name, said in DOCUMENTED.items()})) == set()


@pytest.mark.parametrize("name", RULES)
def test_of_several_causes_the_forgotten_one_is_missing_and_one_check_turns_red(name: str) -> None:
    rule, _ = RULES[name]
    answers = {}
    for request, said in DOCUMENTED.items():
        answers[request] = answer = API_DEFECTS[name].answer(creation(pod()), validated(said))
        left = [one for one in said if rule not in one]
        expected = ADMITTED if said and not left else validated(left)
        assert answer == expected, request
    assert red(observed(answers)) == {name}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("request_name", ["pod-level", "mixed-container-unset", "differ-only-container"])
def test_a_cause_too_many_is_red(name: str, request_name: str) -> None:
    """
    Also where the request is refused anyway.
    """
    rule, _ = RULES[name]
    said = {
        **DOCUMENTED,
        request_name: [*DOCUMENTED[request_name], f"spec.containers[7]: Invalid value: false: {rule}"],
    }
    assert red(observed({one: validated(causes) for one, causes in said.items()})) == {name}


MIXED_SPEC = f"spec: {MIXED}"
KYVERNO = (
    'admission webhook "validate.kyverno.svc-fail" denied the request: resource Pod/x was blocked: Validation rule '
    "'baseline' failed. It violates PodSecurity \"baseline:latest\": hostProcess (pod must not set it)"
)
QUOTES = (
    'admission webhook "guard.example" denied the request: pods "p" is forbidden: violates PodSecurity '
    '"baseline:latest": hostProcess (pod must not set it)'
)
POLICY = "ValidatingAdmissionPolicy 'owners' with binding 'owners' denied request: a DaemonSet needs an owner"
WEBHOOK = 'admission webhook "guard.example" denied the request: [spec.hostNetwork: not here]'


def denial(message: str, **cause: str) -> Answer:
    """
    An Invalid that is not validation's.
    """
    causes = [{"message": message, **cause}]
    return Answer(422, {"message": message, "reason": "Invalid", "details": {"causes": causes}})


@pytest.mark.parametrize(
    "answer",
    [
        Answer(403, {"message": "a webhook"}),
        Answer(403, {"message": KYVERNO}),
        Answer(403, {"message": QUOTES}),
        Answer(404, {"reason": "NotFound"}),
        denial(f'daemonsets.apps "x" is forbidden: {POLICY}'),
        denial("in other words"),
        denial(WEBHOOK, field="spec.hostNetwork"),
        Answer(422, {"message": "nothing more", "reason": "Invalid"}),
    ],
)
def test_an_answer_of_somebody_else_proves_nothing(answer: Answer) -> None:
    answers = {name: validated(said) for name, said in DOCUMENTED.items()} | {"ephemeral": answer}
    for _, judge in RULES.values():
        with pytest.raises(Unknown, match="ephemeral: neither validated nor admitted"):
            judge(observed(answers))


def test_what_is_made_of_another_object_proves_nothing() -> None:
    """
    A webhook that leaves pods with the host's network alone shows where a pod without it passes: in the others it may
    have put a container of another kind, for which they are refused.
    """
    changed = {"changed": ["adds spec.initContainers[istio-init]"]}
    answers = {name: validated(said) for name, said in DOCUMENTED.items()}
    answers |= {"off-everywhere": Answer(201, changed), "no-host-network-pod-level": validated([MIXED_SPEC])}
    for _, judge in RULES.values():
        with pytest.raises(Unknown, match=r"off-everywhere: .*adds spec.initContainers\[istio-init\]") as unknown:
            judge(observed(answers))
        assert unknown.value.code == "pod-changed"


@pytest.mark.parametrize("level", ["baseline", "restricted"])
@pytest.mark.parametrize("version", ["v1.23", "v1.24", "latest"])
def test_an_ordinary_pod_that_is_refused_is_a_control_that_failed(level: str, version: str) -> None:
    judge = getattr(test_pod_security, f"test_{level}_refuses")
    violates = f'pods "p" is forbidden: violates PodSecurity "{level}:{version}": '
    host_process = Answer(403, {"message": f"{violates}hostProcess (pod must not set it)"})
    answers = {f"{level}-{where}-level": host_process for where in ("pod", "container")}
    judge(observed({**answers, f"{level}-ordinary": Answer(201, {})}))
    refused = Answer(403, {"message": f"{violates}allowPrivilegeEscalation != false"})
    with pytest.raises(Unknown, match="an ordinary pod is refused") as unknown:
        judge(observed({**answers, f"{level}-ordinary": refused}))
    assert unknown.value.code == "control-refused"


@pytest.mark.parametrize("said", [KYVERNO, QUOTES])
def test_who_knows_the_same_standards_is_not_pod_security(said: str) -> None:
    answers = {f"baseline-{where}-level": Answer(403, {"message": said}) for where in ("pod", "container")}
    with pytest.raises(Unknown, match="neither admitted nor refused by Pod Security") as unknown:
        test_pod_security.test_baseline_refuses(observed({**answers, "baseline-ordinary": Answer(201, {})}))
    assert unknown.value.code == "other-refusal"


VIOLATES = 'Error creating: pods "p-x" is forbidden: violates PodSecurity "{}:latest": host namespaces (a), '
FAILED = VIOLATES.format("baseline") + "hostProcess (pod must not set it)"
EARLIER = 'Error creating: pods "p-" is forbidden: error looking up service account n/default: not found'


@pytest.mark.parametrize(
    ("events", "verdict"),
    [
        ([("FailedCreate", FAILED)], None),
        ([("FailedCreate", f"(combined from similar events): {FAILED}")], None),
        ([("FailedCreate", EARLIER), ("FailedCreate", FAILED)], None),
        ([("FailedCreate", VIOLATES.format("baseline") + "hostPo"), ("FailedCreate", FAILED)], None),
        ([("FailedCreate", VIOLATES.format("baseline") + "hostPo")], Unknown),
        ([("FailedCreate", EARLIER)], Unknown),
        ([("FailedCreate", f"Error creating: {KYVERNO}")], Unknown),
        ([("FailedCreate", VIOLATES.format("restricted") + "hostProcess (pod must not set it)")], AssertionError),
        ([("FailedCreate", VIOLATES.format("baseline") + "hostPort (it)")], AssertionError),
        ([("FailedCreate", FAILED), ("SuccessfulCreate", "Created pod: p-x")], AssertionError),
        ([("FailedCreate", EARLIER), ("SuccessfulCreate", "Created pod: p-x")], AssertionError),
        ([], AssertionError),
    ],
)
def test_of_a_daemonsets_events_the_one_of_pod_security_counts(
    events: list[tuple[str, str]], verdict: type[Exception] | None
) -> None:
    said = [{"reason": reason, "message": message} for reason, message in events]
    step = {"name": "daemonset", "met": True, "trouble": None, "kubernetes": {"events": said}}
    evidence = {"admission": Evidence({"steps": [step]})}
    observation = Observation(evidence, ClusterFacts("simulated", "v1.37.2", simulated=True))
    with pytest.raises(verdict) if verdict else contextlib.nullcontext():
        test_pod_security.test_a_daemonset_hears_that_its_pods_are_refused(observation)


@pytest.mark.parametrize("level", ["baseline", "restricted"])
def test_only_hostprocess_pods_pass_and_only_that_level(level: str) -> None:
    answer = API_DEFECTS[f"{level}-admits"].answer
    asked = creation(pod(securityContext=ON))
    assert answer(asked, forbidden(level)) is ADMITTED
    other = forbidden({"baseline": "restricted", "restricted": "baseline"}[level])
    assert answer(asked, other) is other
    ordinary = forbidden(level)
    assert answer(creation(pod()), ordinary) is ordinary


def test_privileged_refuses_dry_runs_of_hostprocess_pods_only() -> None:
    answer = API_DEFECTS["privileged-refuses"].answer
    created = Answer(201, pod(securityContext=ON))
    refused = answer(creation(pod(securityContext=ON), dryRun="All"), created)
    assert refused.code == 403
    assert "violates PodSecurity " in refused.body["message"]
    assert answer(creation(pod(securityContext=ON)), created) is created
    assert answer(creation(pod(), dryRun="All"), created) is created
    stands = forbidden("baseline")
    assert answer(creation(pod(securityContext=ON), dryRun="All"), stands) is stands


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, False),
        ({"securityContext": None}, False),
        ({"securityContext": ON}, True),
        ({"containers": [{"name": "c", "securityContext": ON}]}, True),
        ({"initContainers": [{"name": "i", "securityContext": ON}]}, True),
        ({"securityContext": {"windowsOptions": {"hostProcess": False}}}, False),
    ],
)
def test_what_a_hostprocess_pod_is(spec: dict[str, Any], expected: bool) -> None:
    assert is_host_process(pod(**spec)) is expected


def test_only_the_baseline_label_is_dropped() -> None:
    request = API_DEFECTS["enforce-label-dropped"].request
    label = "pod-security.kubernetes.io/enforce"

    def labels(value: str, path: str = "/api/v1/namespaces") -> Any:
        told = request(Asked("POST", path, {}, {"metadata": {"name": "n", "labels": {label: value, "run": "1"}}}))
        return told and told["metadata"]["labels"]

    assert labels("baseline") == {"run": "1"}
    assert labels("restricted") == {label: "restricted", "run": "1"}
    assert labels("baseline", PODS) == {label: "baseline", "run": "1"}
    assert request(Asked("DELETE", "/api/v1/namespaces/n", {}, None)) is None


def test_a_refused_pod_is_told_as_a_created_one() -> None:
    event = API_DEFECTS["failed-create-not-reported"].event
    told = event({"type": "Warning", "reason": "FailedCreate", "message": "forbidden", "metadata": {"name": "e"}})
    assert told == {"type": "Normal", "reason": "SuccessfulCreate", "message": "Created pod", "metadata": {"name": "e"}}
    assert event({"reason": "FailedCreate", "note": "forbidden"})["note"] == "Created pod"
    other = {"reason": "Scheduled", "message": "m"}
    assert event(other) is other


# -- Through real proxies.


class Api:
    """
    An API server of a few answers, that remembers what it was asked.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.go_on = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        self.asked.append((request.method, request.raw_path, json.loads(text) if text else None))
        assert request.transport is not None
        assert request.transport.get_extra_info("peercert"), "the proxy shows no certificate"
        assert "Authorization" not in request.headers
        if "watch" in request.query:
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            await response.prepare(request)
            for reason in ("FailedCreate", "Scheduled"):
                change = {"type": "ADDED", "object": {"reason": reason, "type": "Warning", "message": reason}}
                await response.write(json.dumps(change).encode() + b"\n")
                await self.go_on.wait()
            return response
        if request.path.endswith("/events"):
            return web.json_response({"kind": "EventList", "items": [{"reason": "FailedCreate", "message": "m"}]})
        if request.path.endswith("/log"):
            return web.Response(text="a log")
        if request.method in {"POST", "PATCH"}:
            answer = invalid(spec=MIXED)
            return web.json_response(answer.body, status=answer.code, headers={"Warning": '299 - "w"'})
        return web.json_response({"kind": "Pod", "metadata": {"name": "as-it-is"}})


@contextlib.asynccontextmanager
async def proxied(
    folder: Path, defects: list[str], *, down: bool = False
) -> AsyncIterator[tuple[Api, aiohttp.ClientSession, dict[str, str]]]:
    authority = Authority(folder)
    server = authority.issue("server", "server", addresses=["127.0.0.1"])
    admin = authority.issue("admin", "admin", "system:masters")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.certificate))
    context.load_cert_chain(server.certificate, server.key)
    context.verify_mode = ssl.CERT_OPTIONAL
    api = Api()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", api.answer)
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    port = runner.addresses[0][1]
    if down:
        await runner.cleanup()
    trust = ssl.create_default_context(cafile=str(authority.certificate))
    config = {
        "api": f"https://127.0.0.1:{port}",
        "ca": authority.certificate,
        "adminCertificate": admin.certificate,
        "adminKey": admin.key,
        "serverCertificate": server.certificate,
        "serverKey": server.key,
        "defects": defects,
    }
    try:
        async with (
            asyncio.timeout(20),
            proxies(config) as ports,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as session,
        ):
            yield api, session, {name: f"https://127.0.0.1:{port}" for name, port in ports.items()}
    finally:
        if not down:
            await runner.cleanup()


@pytest.mark.sockets
def test_each_proxy_has_its_defect_and_passes_everything_else_on(tmp_path: Path) -> None:
    async def run() -> None:
        async with proxied(tmp_path, ["mixed-pod-admitted", "host-network-not-required"]) as (api, session, urls):
            url, other = urls.values()
            sent = pod()
            async with session.post(url + PODS, params={"dryRun": "All"}, json=sent) as answer:
                assert (answer.status, await answer.json()) == (201, sent)
                assert answer.headers["Warning"] == '299 - "w"'
            async with session.post(other + PODS, json=sent) as answer:
                assert answer.status == 422
            path = f"{PODS}/p/ephemeralcontainers"
            async with session.patch(url + path, json={}, headers={"Authorization": "Bearer mine"}) as answer:
                assert (answer.status, (await answer.json())["metadata"]["name"]) == (200, "as-it-is")
            async with session.get(URL(f"{url}{PODS}/a%2Fb/log?container=c%20d", encoded=True)) as answer:
                assert await answer.text() == "a log"
            async with session.get(url + PODS, headers={"Connection": "Upgrade", "Upgrade": "websocket"}) as answer:
                assert answer.status == 501
        assert api.asked == [
            ("POST", f"{PODS}?dryRun=All", sent),
            ("POST", PODS, sent),
            ("PATCH", path, {}),
            ("GET", f"{PODS}/p", None),
            ("GET", f"{PODS}/a%2Fb/log?container=c%20d", None),
        ]

    asyncio.run(run())


@pytest.mark.sockets
def test_a_watch_comes_line_by_line(tmp_path: Path) -> None:
    async def run() -> None:
        async with proxied(tmp_path, ["failed-create-not-reported", "baseline-admits"]) as (api, session, urls):
            url, other = urls.values()
            path = "/api/v1/namespaces/n/events"
            async with session.get(url + path) as answer:
                assert (await answer.json())["items"][0]["reason"] == "SuccessfulCreate"
            async with session.get(url + path, params={"watch": "true"}) as answer:
                first = json.loads(await answer.content.readline())
                assert first["object"]["reason"] == "SuccessfulCreate"
                async with session.get(other + path, params={"watch": "true"}) as faithful:
                    assert json.loads(await faithful.content.readline())["object"]["reason"] == "FailedCreate"
                api.go_on.set()
                assert json.loads(await answer.content.readline())["object"]["reason"] == "Scheduled"
                assert await answer.content.readline() == b""

    asyncio.run(run())


@pytest.mark.sockets
def test_an_api_server_that_is_gone_is_a_bad_gateway(tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            proxied(tmp_path, ["baseline-admits"], down=True) as (_, session, urls),
            session.get(urls["baseline-admits"] + PODS) as answer,
        ):
            assert answer.status == 502

    asyncio.run(run())
