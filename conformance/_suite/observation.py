"""
What a check reads: the evidence of its workloads on one node (or of the cluster), with accessors that raise Unknown
for what could not be found out. Nothing here judges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conformance._suite import pod_status
from conformance._suite.errors import Unknown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from conformance._suite.facts import ClusterFacts, NodeFacts


class Facts(dict[str, Any]):
    """
    A JSON object out of a probe's output. Reading a fact that is ``{"error": …}`` raises Unknown, and so does reading
    one that is not there: a probe that could not look has not seen anything wrong.
    """

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise Unknown(f"the probe's output has no {name!r}", "evidence-malformed")
        value = super().__getitem__(name)
        if isinstance(value, dict):
            if "error" in value:
                raise Unknown(f"the probe could not find out {name!r}: {value['error']}", "fact-unknown")
            return Facts(value)
        return value

    def known(self, name: str) -> Any:
        """
        A fact that Windows always has: null, an empty list or a null in a list raises Unknown, too.
        """
        value = self[name]
        if value is None or value == [] or (isinstance(value, list) and None in value):
            raise Unknown(f"the probe could not find out {name!r}: it is {value!r}", "fact-unknown")
        return value


@dataclass(frozen=True, slots=True)
class Container:
    """
    One container of a step's pod, as the kubelet reported it.
    """

    name: str
    status: Mapping[str, Any]

    @property
    def ended(self) -> bool:
        """
        Whether it has ended at least once.
        """
        return bool(pod_status.terminated(self.status))

    @property
    def ready(self) -> bool:
        """
        Whether it runs and is ready.
        """
        return "running" in (self.status.get("state") or {}) and bool(self.status.get("ready"))

    @property
    def terminated(self) -> Mapping[str, Any]:
        """
        The ``state.terminated`` object (``reason``, ``exitCode``, ``message``). Raises Unknown when it has not ended.
        """
        ended = pod_status.terminated(self.status)
        if not ended:
            raise Unknown(f"container {self.name} has not ended: {self.status.get('state') or 'no state'}", "not-ended")
        return ended

    @property
    def started(self) -> bool:
        """
        Whether the runtime ever started a process: a container that ended as StartError or ContainerCannotRun, or
        that waits without having run, never did.
        """
        return pod_status.has_started(self.status)

    @property
    def refusal(self) -> str | None:
        """
        The reason and the whole message with which it was not created or not started, the last time that it should
        have been; None where that is not so. What it is about says ``trouble.cause``.
        """
        return pod_status.refusal(self.status)


@dataclass(frozen=True, slots=True)
class Step:
    """
    One step of a workload: what was sent, what the API answered, what Kubernetes and the probes said.
    """

    data: Mapping[str, Any]

    @property
    def pod(self) -> Mapping[str, Any]:
        """
        The pod as last seen (``metadata``, ``spec``, ``status``).
        """
        pod = self.data["kubernetes"].get("pod")
        if not pod:
            raise Unknown(f"step {self.data['name']}: no pod was seen", "no-pod")
        return pod  # type: ignore[no-any-return]

    @property
    def events(self) -> list[Mapping[str, Any]]:
        """
        The events about the step's objects (``reason``, ``message``, ``type``, ``object``), oldest first.
        """
        return list(self.data["kubernetes"].get("events", ()))

    def container(self, name: str) -> Container:
        """
        A container of the pod, init containers included.
        """
        if (status := pod_status.status_of(self.pod, name)) is not None:
            return Container(name, status)
        raise Unknown(f"step {self.data['name']}: the pod has no status for container {name}", "no-container-status")

    def must_be_told(self, container: str) -> Container:
        """
        A container of which is known what became of it: it runs, it ran and ended by itself, or it was refused for a
        cause of its own. Raises Unknown for trouble, which shows nothing: a pod that was stopped, a machine or runtime
        that could not, a container that was not created yet or that the kubelet lost sight of.
        """
        seen = self.container(container)
        if unknown := pod_status.stopped(self.pod) or pod_status.trouble(seen.status):
            raise unknown
        return seen

    def log(self, container: str) -> str:
        """
        What the container wrote, in its last run.
        """
        logs = self.data["kubernetes"].get("logs", {})
        if container not in logs:
            raise Unknown(f"step {self.data['name']}: no log of container {container}", "no-log")
        return str(logs[container])

    def probe(self, container: str) -> Facts:
        """
        The facts that the probe in this container printed. Raises Unknown when it printed none.
        """
        facts = self.data["probe"].get(container)
        if facts is None:
            trouble = self.data["probeTrouble"].get(container) or {"code": "no-output", "message": "it printed nothing"}
            raise Unknown(f"the probe in container {container}: {trouble['message']}", trouble["code"])
        return Facts(facts)

    def answer(self, name: str) -> Mapping[str, Any]:
        """
        The API server's answer to the named request: ``code``, ``reason``, ``message``, ``causes`` (each ``field``,
        ``message``, ``reason``), ``warnings``, ``body`` (text, for proxied answers).
        """
        for answer in self.data["api"]:
            if answer["name"] == name:
                return answer  # type: ignore[no-any-return]
        raise Unknown(f"step {self.data['name']}: no answer to {name!r}", "no-answer")


@dataclass(frozen=True, slots=True)
class Evidence:
    """
    All that one workload saw on one node (``data`` is the evidence file's content).
    """

    data: Mapping[str, Any]

    @property
    def parameters(self) -> Mapping[str, Any]:
        """
        What the engine chose for this run: ``nonce``, ``markers`` (name → text), placeholders.
        """
        return self.data["parameters"]  # type: ignore[no-any-return]

    def step(self, name: str) -> Step:
        """
        A step that was completed: its ``until`` was met. Raises Unknown when it was not, with the reason.
        """
        for step in self.data["steps"]:
            if step["name"] == name:
                if not step["met"]:
                    trouble = step["trouble"] or {"code": "incomplete", "message": "it was not completed"}
                    raise Unknown(f"step {name} of {self.data['workload']}: {trouble['message']}", trouble["code"])
                return Step(step)
        raise Unknown(f"{self.data['workload']} did not come to step {name}", "step-not-reached")


@dataclass(frozen=True, slots=True)
class Observation:
    """
    What a check is given. For a check that reads one workload ``step`` and ``parameters`` are that workload's; one
    that reads several names it: ``observation.of("volumes").step("read")``.
    """

    evidence: Mapping[str, Evidence]
    cluster: ClusterFacts
    node_facts: NodeFacts | None = None

    @property
    def node(self) -> NodeFacts:
        """
        The node that the row is about. Raises Unknown for scope cluster.
        """
        if self.node_facts is None:
            raise Unknown("this row is about the cluster, not about a node", "no-node")
        return self.node_facts

    def of(self, workload: str) -> Evidence:
        """
        The evidence of the named workload.
        """
        return self.evidence[workload]

    @property
    def parameters(self) -> Mapping[str, Any]:
        """
        The parameters of the only workload read.
        """
        return self._only.parameters

    def step(self, name: str) -> Step:
        """
        A completed step of the only workload read.
        """
        return self._only.step(name)

    @property
    def _only(self) -> Evidence:
        (evidence,) = self.evidence.values()
        return evidence
