"""
The HTTP side of a kubelet: logs, exec, attach, metrics and statistics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from infra.simulated.node import clock, logs, portforward, streaming

if TYPE_CHECKING:
    from infra.simulated.node.node import SimulatedNode
    from infra.simulated.node.pod import Pod


def _refusal(text: str, code: int = 400) -> web.Response:
    return web.Response(status=code, text=text)


# The API server falls back to SPDY/3.1 for older clients.
_REMOTE_COMMAND_REMEDY = (
    "the simulated node speaks exec and attach over WebSocket only (v5.channel.k8s.io, v4.channel.k8s.io): use a "
    "client that does, such as kubectl 1.31 or later without KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false"
)
_PORT_FORWARD_REMEDY = (
    "the simulated node speaks port-forward over WebSocket only (SPDY/3.1+portforward.k8s.io): use a client that does, "
    "such as kubectl 1.31 or later without KUBECTL_PORT_FORWARD_WEBSOCKETS=false"
)


def _is_websocket(request: web.BaseRequest) -> bool:
    return request.headers.get("Upgrade", "").lower() == "websocket"


class KubeletServer:
    """
    Answers the requests to one node.
    """

    def __init__(self, node: SimulatedNode) -> None:
        self._node = node

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """
        Answer one request.
        """
        parts = [part for part in request.path.split("/") if part]
        match parts:
            case ["healthz"]:
                return web.Response(text="ok")
            case ["metrics"]:
                return web.Response(text=self._node.metrics_text(), content_type="text/plain")
            case ["stats", "summary"]:
                return web.json_response(self._summary())
            case ["pods"] | ["runningpods"]:
                items = [pod.manifest | {"status": pod.status()} for pod in self._node.pods()]
                return web.json_response({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
            case ["containerLogs", namespace, name, container]:
                return await self._logs(request, namespace, name, container)
            case ["exec" | "attach" as verb, namespace, name, container]:
                return await self._stream(request, verb, self._node.pod(namespace, name), container)
            case ["exec" | "attach" as verb, namespace, name, uid, container]:
                found = self._node.pod(namespace, name)
                return await self._stream(request, verb, found if found and found.uid == uid else None, container)
            case ["portForward", namespace, name, *_]:
                if self._node.pod(namespace, name) is None:
                    return _refusal("pod does not exist", 404)
                if not _is_websocket(request):
                    return _refusal(_PORT_FORWARD_REMEDY)
                return await portforward.serve(request, self._node.host)
        return _refusal("404 page not found", 404)

    async def _logs(self, request: web.BaseRequest, namespace: str, name: str, container: str) -> web.StreamResponse:
        try:
            asked = logs.options(request.query)
        except logs.LogOptionsError as error:
            return web.json_response({"message": str(error)}, status=422)
        pod = self._node.pod(namespace, name)
        state = pod.state(container) if pod else None
        if pod is None or state is None:
            what = f'pod "{name}"' if pod is None else f'container "{container}" in pod "{name}"'
            return _refusal(f"{what} not found", 404)
        instance = pod.logged(container, previous=asked.previous)
        if instance is None:
            waiting = state.waiting[0] if state.waiting else None
            return _refusal(logs.unavailable(name, container, waiting, previous=asked.previous))
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        allowance = logs.Allowance(asked.limit)
        seen = instance.log.dropped + len(instance.log.lines)
        data = allowance.cut(b"".join(logs.selected(instance.log.lines, asked)))
        if data:
            await response.write(data)
        if asked.follow and not allowance.spent():
            async for line in instance.log.follow(seen):
                if logs.wanted(line, asked):
                    await response.write(allowance.cut(logs.formatted(line, asked)))
                if allowance.spent():
                    break
        await response.write_eof()
        return response

    async def _stream(self, request: web.BaseRequest, verb: str, pod: Pod | None, container: str) -> web.StreamResponse:
        if pod is None:
            return _refusal("pod does not exist", 404)
        instance = pod.running(container)
        if instance is None:
            return _refusal(f'container not found ("{container}")', 404)
        if not _is_websocket(request):
            return _refusal(_REMOTE_COMMAND_REMEDY)
        if verb == "attach":
            state = pod.state(container)
            once = state is not None and bool(state.spec.get("stdinOnce"))
            return await streaming.attach(request, instance, once=once)
        response = await streaming.execute(request, instance, request.query.getall("command", []))
        pod.note_unmodelled(container, instance)
        return response

    def _summary(self) -> dict[str, Any]:
        """
        ``/stats/summary``, as far as the model knows: what it does not count is zero.
        """
        now = clock.seconds()
        pods: list[dict[str, Any]] = []
        for pod in self._node.pods():
            shown: list[dict[str, Any]] = []
            for state in pod.states:
                instance = pod.running(state.name)
                if instance is None:
                    continue
                shown.append(
                    {
                        "name": state.name,
                        "startTime": state.running_since,
                        "cpu": {"time": now, "usageNanoCores": 0, "usageCoreNanoSeconds": 0},
                        "memory": {"time": now, "workingSetBytes": instance.job.commit},
                        "rootfs": {"time": now},
                        "logs": {"time": now, "usedBytes": instance.log.size},
                    }
                )
            if shown:
                metadata = pod.manifest["metadata"]
                pods.append(
                    {
                        "podRef": {key: metadata[key] for key in ("name", "namespace", "uid")},
                        "startTime": pod.manifest.get("status", {}).get("startTime", now),
                        "containers": shown,
                        "memory": {"time": now, "workingSetBytes": sum(c["memory"]["workingSetBytes"] for c in shown)},
                    }
                )
        used = sum(pod["memory"]["workingSetBytes"] for pod in pods)
        return {
            "node": {
                "nodeName": self._node.name,
                "startTime": self._node.started,
                "cpu": {"time": now, "usageNanoCores": 0, "usageCoreNanoSeconds": 0},
                "memory": {
                    "time": now,
                    "availableBytes": max(0, self._node.host.memory - used),
                    "usageBytes": used,
                    "workingSetBytes": used,
                },
            },
            "pods": pods,
        }
