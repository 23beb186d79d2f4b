"""
Logs, exec's frames, port-forward's frames, the egress' requests, metrics, and the configuration file.
"""

from __future__ import annotations

import asyncio
import json
import struct
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from infra.simulated.model.container import Container, ContainerLog, ContainerSpec
from infra.simulated.model.eras import ERAS
from infra.simulated.model.host import Host
from infra.simulated.node import clock, config, egress, logs, portforward, streaming
from infra.simulated.node.api import Api, ApiError, refusal, retry_after
from infra.simulated.node.events import SIMILAR, Combiner, Recorder
from infra.simulated.node.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@dataclass(frozen=True)
class Line:
    time: str
    stream: str
    text: str


LINES = [
    Line("2026-01-01T00:00:01.000000001Z", "stdout", "one"),
    Line("2026-01-01T00:00:02.000000001Z", "stderr", "two"),
    Line("2026-01-01T00:00:03.000000001Z", "stdout", "three"),
]
NOW = datetime(2026, 1, 1, 0, 0, 4, tzinfo=UTC)


@pytest.mark.parametrize(
    ("query", "sent"),
    [
        ({}, b"one\ntwo\nthree\n"),
        ({"tailLines": "2"}, b"two\nthree\n"),
        ({"tailLines": "0"}, b""),
        ({"tailLines": "9"}, b"one\ntwo\nthree\n"),
        ({"sinceSeconds": "2"}, b"two\nthree\n"),
        ({"sinceTime": "2026-01-01T00:00:03Z"}, b"three\n"),
        ({"stream": "Stderr"}, b"two\n"),
        ({"tailLines": "1", "timestamps": "true"}, b"2026-01-01T00:00:03.000000001Z three\n"),
    ],
)
def test_log_selections(query: dict[str, str], sent: bytes) -> None:
    assert b"".join(logs.selected(LINES, logs.options(query, NOW))) == sent


@pytest.mark.parametrize("query", [{"tailLines": "x"}, {"tailLines": "-1"}, {"sinceTime": "yesterday"}])
def test_log_parameters_that_make_no_sense_are_refused(query: dict[str, str]) -> None:
    with pytest.raises(logs.LogOptionsError):
        logs.options(query)


def test_a_limit_in_bytes_cuts_and_ends() -> None:
    allowance = logs.Allowance(5)
    assert allowance.cut(b"abc") == b"abc"
    assert not allowance.spent()
    assert allowance.cut(b"defg") == b"de"
    assert allowance.spent()
    assert logs.Allowance(None).cut(b"abc") == b"abc"


def test_why_there_is_no_log() -> None:
    assert logs.unavailable("p", "c", "ContainerCreating", previous=False) == (
        'container "c" in pod "p" is waiting to start: ContainerCreating'
    )
    assert logs.unavailable("p", "c", "ErrImagePull", previous=False).endswith("to start: image can't be pulled")
    assert logs.unavailable("p", "c", "ImagePullBackOff", previous=False).endswith(": trying and failing to pull image")
    assert logs.unavailable("p", "c", None, previous=True) == 'previous terminated container "c" in pod "p" not found'


def test_times_of_every_length() -> None:
    assert clock.parse("2026-01-01T00:00:00.123456789Z") == datetime(2026, 1, 1, microsecond=123456, tzinfo=UTC)
    assert clock.parse("2026-01-01T01:00:00+01:00") == datetime(2026, 1, 1, tzinfo=UTC)
    assert clock.parse("2026-01-01T00:00:00.5+00:00") == datetime(2026, 1, 1, microsecond=500000, tzinfo=UTC)


def test_exec_frames() -> None:
    assert streaming.frame(streaming.STDOUT, b"x") == b"\x01x"
    assert streaming.split(b"\x00abc") == (streaming.STDIN, b"abc", None)
    assert streaming.split(b"\xff\x00") == (-1, b"", streaming.STDIN)
    assert streaming.split(b"") == (-1, b"", None)


def test_exec_statuses() -> None:
    assert streaming.exit_status(0)["status"] == "Success"
    failed = streaming.exit_status(3)
    assert failed["reason"] == "NonZeroExitCode"
    assert failed["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]
    assert streaming.failure("no such program")["code"] == 500


@pytest.mark.parametrize(
    ("head", "where"),
    [
        (b"CONNECT 10.240.0.4:10250 HTTP/1.1\r\nHost: x", ("10.240.0.4", 10250)),
        (b"CONNECT [::1]:80 HTTP/1.1", ("::1", 80)),
        (b"GET / HTTP/1.1", None),
        (b"CONNECT nowhere HTTP/1.1", None),
        (b"", None),
    ],
)
def test_connect_requests(head: bytes, where: tuple[str, int] | None) -> None:
    assert egress.target(head) == where


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", True),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab", False),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", True),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", False),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", True),
    ],
)
def test_when_a_request_has_arrived(data: bytes, whole: bool) -> None:
    assert egress.complete(data) == whole


def test_frames_are_cut_wherever_the_bytes_were() -> None:
    sent = portforward.control(portforward.PING, b"\0\0\0\1") + portforward.data_frame(5, b"hello", last=True)
    frames = portforward.Frames()
    got = [frame for byte in sent for frame in frames.feed(bytes([byte]))]
    assert got == [
        portforward.Frame(portforward.PING, 0, 0, b"\0\0\0\1"),
        portforward.Frame(0, 5, 1, b"hello"),
    ]


def forwarded(era: str, port: int) -> list[portforward.Frame]:
    """
    What is answered to one connection on which ``hello`` is said, while something listens on port 8080.
    """
    deflate = zlib.compressobj(zdict=portforward.DICTIONARY)

    def opened(stream: int, kind: str) -> bytes:
        pairs = {"streamtype": kind, "port": str(port), "requestid": "0"}
        block = struct.pack("!I", len(pairs))
        for text in (part for pair in pairs.items() for part in pair):
            block += struct.pack("!I", len(text)) + text.encode()
        packed = deflate.compress(block) + deflate.flush(zlib.Z_SYNC_FLUSH)
        return portforward.control(portforward.SYN_STREAM, struct.pack("!IIBB", stream, 0, 0, 0) + packed)

    host = Host(ERAS[era], "win", "10.240.0.4")
    host.network.listen("127.0.0.1", 8080, lambda data: b"heard " + data)
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    forwarder = portforward.Forwarder(host, "sandbox", queue)
    forwarder.feed(opened(1, "error") + opened(3, "data") + portforward.data_frame(3, b"hello", last=True))
    frames = portforward.Frames()
    return [frame for _ in range(queue.qsize()) for frame in frames.feed(queue.get_nowait())]


def test_a_forwarded_connection() -> None:
    got = forwarded("1.7", 8080)
    assert [frame.kind for frame in got] == [portforward.SYN_REPLY, portforward.SYN_REPLY, 0, 0]
    assert got[2:] == [portforward.Frame(0, 3, 1, b"heard hello"), portforward.Frame(0, 1, 1, b"")]


@pytest.mark.parametrize(
    ("era", "port", "said"),
    [
        ("1.6", 8080, "failed to execute port forward in sandbox: : failed to exec in sandbox: "),
        ("2.2", 8081, "failed to connect to localhost:8081 for pod"),
    ],
)
def test_a_connection_that_cannot_be_forwarded(era: str, port: int, said: str) -> None:
    data, error = forwarded(era, port)[2:]
    assert data.body == b""
    assert error.body.decode().startswith(f"error forwarding port {port} to pod sandbox, uid : ")
    assert said in error.body.decode()


def test_metrics_are_absent_until_used_and_count_starts_before_they_fail() -> None:
    metrics = Metrics()
    assert "host_process" not in metrics.text({})
    metrics.container_starting("containers", host_process=True)
    metrics.container_failed("containers", "RunContainerError", host_process=True)
    metrics.container_starting("initContainers", host_process=False)
    said = metrics.text({"kubelet_running_pods": 1}).splitlines()
    assert 'kubelet_started_host_process_containers_total{container_type="container"} 1' in said
    assert (
        'kubelet_started_host_process_containers_errors_total{code="RunContainerError",container_type="container"} 1'
        in said
    )
    assert 'kubelet_started_containers_total{container_type="init_container"} 1' in said
    assert "kubelet_running_pods 1" in said


class FakeApi(Api):
    """
    Answers from a script; opens nothing.
    """

    def __init__(self, answers: list[Any]) -> None:
        self._name = "node"
        self._url = ""
        self.answers = answers
        self.asked: list[tuple[str, str, Any]] = []

    async def _ask(
        self, method: str, path: str, body: Any, patch: str | None, query: dict[str, str] | None
    ) -> tuple[int, str, float | None]:
        self.asked.append((method, path, query if method == "GET" else body))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        code, text = answer
        return code, text if isinstance(text, str) else json.dumps(text), 0.0

    async def _events(self, path: str, query: dict[str, str]) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        self.asked.append(("WATCH", path, query["resourceVersion"]))
        if not self.answers:
            raise asyncio.CancelledError
        events = self.answers.pop(0)
        if isinstance(events, Exception):
            raise events
        for kind, item in events:
            yield kind, item


def _object(version: int) -> dict[str, Any]:
    return {"metadata": {"uid": "u", "resourceVersion": str(version)}}


def test_requests_go_on_through_resets_and_refusals_for_now() -> None:
    api = FakeApi([ConnectionResetError(), (429, "Too many requests, please try again later."), (503, ""), (200, {})])
    assert asyncio.run(api.request("GET", "/x")) == {}
    assert len(api.asked) == 4


def test_other_refusals_are_told_at_once() -> None:
    api = FakeApi([(403, {"reason": "Forbidden", "message": "no relationship found"})])
    with pytest.raises(ApiError, match="no relationship found") as raised:
        asyncio.run(api.request("GET", "/x"))
    assert (raised.value.code, raised.value.reason) == (403, "Forbidden")


def test_refusals_in_plain_text() -> None:
    assert str(refusal(429, "Too many requests\n")) == "Too many requests"
    assert retry_after("1") == 1
    assert retry_after("soon") is None
    assert retry_after(None) is None


def test_a_watch_goes_on_where_it_was_cut_and_lists_again_when_it_is_too_old() -> None:
    api = FakeApi(
        [
            (200, {"metadata": {"resourceVersion": "1"}, "items": [_object(1)]}),
            [("ADDED", _object(5)), ("BOOKMARK", _object(7))],
            refusal(410, json.dumps({"code": 410, "reason": "Expired", "message": "too old"})),
            (200, {"metadata": {"resourceVersion": "20"}, "items": []}),
        ]
    )
    seen: list[Any] = []

    async def on_list(items: list[dict[str, Any]]) -> None:
        seen.append(len(items))

    async def on_event(kind: str, item: dict[str, Any]) -> None:
        seen.append((kind, item["metadata"]["resourceVersion"]))

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(api.watch("/pods", {}, on_list, on_event))
    assert seen == [1, ("ADDED", "5"), 0]
    assert [said for verb, _, said in api.asked if verb == "WATCH"] == ["1", "7", "20"]


def test_an_event_that_repeats_itself_is_counted() -> None:
    api = FakeApi([(201, {}), (200, {}), (200, {})])
    recorder = Recorder(api, "node")
    about = {"kind": "Pod", "namespace": "n", "name": "p", "uid": "u"}

    async def write() -> None:
        for _ in range(3):
            recorder.record(about, "Warning", "BackOff", "Back-off restarting")
        task = asyncio.create_task(recorder.run())
        while api.answers:
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(write())
    assert [verb for verb, _, _ in api.asked] == ["POST", "PATCH", "PATCH"]
    assert api.asked[0][2]["source"] == {"component": "kubelet", "host": "node"}
    assert [body["count"] for _, _, body in api.asked] == [1, 2, 3]


def _recorded(messages: list[str]) -> list[tuple[str, str, Any]]:
    api = FakeApi([(201, {})] * len(messages))
    recorder = Recorder(api, "node")

    async def write() -> None:
        for message in messages:
            recorder.record({"kind": "Pod", "namespace": "n", "name": "p", "uid": "u"}, "Warning", "Failed", message)
        task = asyncio.create_task(recorder.run())
        while api.answers:
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(write())
    return api.asked


def test_events_are_named_in_the_order_they_came() -> None:
    names = [body["metadata"]["name"] for _, _, body in _recorded(["one", "two", "three"])]
    assert names == sorted(names)
    assert len(set(names)) == 3
    assert all(int(name.removeprefix("p."), 16) for name in names)


def test_many_similar_events_become_one() -> None:
    asked = _recorded([f"message {number}" for number in range(SIMILAR + 3)])
    assert [verb for verb, _, _ in asked] == ["POST"] * (SIMILAR + 1) + ["PATCH"] * 2
    assert asked[SIMILAR][2]["message"] == f"(combined from similar events): message {SIMILAR}"
    assert asked[-1][1].endswith(asked[SIMILAR][2]["metadata"]["name"])
    assert asked[-1][2]["count"] == 3
    assert asked[-1][2]["message"] == f"(combined from similar events): message {SIMILAR + 2}"


def test_what_is_similar_is_forgotten_in_time_and_with_its_object() -> None:
    combiner = Combiner()
    kind = ("u", "", "Warning", "Failed")
    for number in range(SIMILAR):
        assert not combiner.combines(kind, str(number), number)
    assert not combiner.combines(("u", "", "Warning", "Unhealthy"), "other", SIMILAR)
    assert combiner.combines(kind, "new", SIMILAR)
    assert not combiner.combines(kind, "0", SIMILAR)
    assert not combiner.combines(kind, "late", SIMILAR + 601)
    for number in range(SIMILAR):
        combiner.combines(kind, str(number), 700)
    combiner.forget("u")
    assert not combiner.combines(kind, "new", 700)


def test_a_log_keeps_what_is_new_and_its_followers_go_on() -> None:
    log = ContainerLog(limit=1000)
    seen: list[str] = []

    async def run() -> None:
        async for line in log.follow(2):
            seen.append(line.text)
            if len(seen) == 3:
                log.write(1, b"".join(b"later %d\n" % number for number in range(100)))
                log.close()

    log.write(1, b"".join(b"line %d\n" % number for number in range(5)))
    asyncio.run(run())
    assert seen[:3] == ["line 2", "line 3", "line 4"]
    assert seen[-1] == "later 99"
    assert log.dropped + len(log.lines) == 105
    assert seen[3:] == [line.text for line in log.lines]
    assert log.size <= 1000
    assert log.size == sum(len(line.time) + len(line.stream) + len(line.text) + 5 for line in log.lines)


def test_a_line_without_end_does_not_grow_for_ever() -> None:
    log = ContainerLog(limit=100)
    for _ in range(30):
        log.write(1, b"x" * 10)
    assert sum(len(line.text) for line in log.lines) + len(log._partial[1]) <= 220


@pytest.mark.parametrize("once", [True, False])
def test_what_is_typed_reaches_the_program(once: bool) -> None:
    async def run() -> tuple[bool, list[str]]:
        host = Host(ERAS["1.7"], "win", "10.240.0.4")
        image = host.image("windows-host-process-containers-base-image:v1.0.0")
        user = "NT AUTHORITY\\SYSTEM"
        container: Container = host.create(
            ContainerSpec("a" * 64, "c", "p", "n", "u", image, command=("cmd",), user=user, stdin=True)
        )
        await container.start()
        typed = asyncio.StreamReader()
        typed.feed_data(b"echo hello\n")
        typed.feed_eof()
        await asyncio.wait_for(streaming.type_in(typed, container, once=once), 5)
        ended = not container.running
        await container.stop(0)
        return ended, [line.text for line in container.log.lines]

    ended, lines = asyncio.run(run())
    assert ended is once
    assert any(line.endswith(">hello") for line in lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "not JSON"), ("{}", "'ca' is missing"), ("[]", "not of the expected shape")],
)
def test_a_configuration_that_cannot_be_used(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(config.ConfigError, match=said):
        config.load(path)
    with pytest.raises(config.ConfigError, match="No such file"):
        config.load(tmp_path / "none.json")
