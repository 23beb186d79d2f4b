"""
One pod on its node, from admission to its last status: what a kubelet's pod worker does.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
import uuid
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from infra.simulated.model.container import Container, ContainerSpec, Mount
from infra.simulated.model.errors import CreateError, ImageNotFound, OtherBuild, StartError, WindowsError
from infra.simulated.node import clock, hooks, probes, spec, status, volumes
from infra.simulated.node.api import ApiError
from infra.simulated.node.events import NORMAL, WARNING, container_path, reference
from infra.simulated.node.report import complain
from infra.simulated.node.status import BackOff, ContainerState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from infra.simulated.model.container import ImageConfig
    from infra.simulated.node.node import SimulatedNode

# Changes that come in a burst go out as one status.
_TOGETHER = 0.03
# After a CreateContainer error the kubelet tries again when its worker's back-off is over.
_TRY_AGAIN = 10.0
_MOUNT_RETRY = (0.01, 120.0)
# Retries of a mount that come quicker than this are the authorizer catching up, and not worth an event.
_WORTH_AN_EVENT = 0.5
_TERMINATION_MESSAGE = 4096
# However little of the grace period a preStop hook leaves, a container gets this much (kuberuntime_container.go).
_LEAST_GRACE = 2.0


@dataclass(slots=True)
class Instance:
    """
    One start of a container: what runs and what is kept of it for its log.
    """

    container: Container
    id: str
    began: float
    message_path: str
    end: asyncio.Task[int] | None = None

    @property
    def started(self) -> str:
        """
        When it was started, to the second.
        """
        return f"{self.container.started_at[:19]}Z" if self.container.started_at else clock.seconds()

    async def wait(self) -> int:
        """
        The exit code, once it has ended. Whoever stops waiting does not stop the container.
        """
        if self.end is None:
            self.end = asyncio.create_task(self.container.wait())
        return await asyncio.shield(self.end)


class ConfigRefused(Exception):  # noqa: N818 - the kubelet's own word is CreateContainerConfigError
    """
    A container's configuration cannot be made: waiting with ``CreateContainerConfigError``.
    """


class Pod:
    """
    One pod object, by uid. ``updated`` and ``gone`` tell it what the watch said.
    """

    def __init__(self, node: SimulatedNode, manifest: dict[str, Any]) -> None:
        self._node = node
        self.manifest = manifest
        self.uid: str = manifest["metadata"]["uid"]
        self.states = [ContainerState(kind, c) for kind, c in spec.all_containers(manifest["spec"])]
        self.phase: str = (manifest.get("status") or {}).get("phase", "Pending")
        self.admitted = False
        self._instances: dict[str, deque[Instance]] = {}
        self._back_offs: dict[str, BackOff] = {}
        self._mounts: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._main: asyncio.Task[None] | None = None
        self._end: asyncio.Task[None] | None = None
        self._reporting: asyncio.Task[None] | None = None
        self._dirty = False
        self._progress = asyncio.Event()
        self._finished = False
        self._sent: dict[str, Any] = dict(manifest.get("status") or {})
        self._sandbox = False
        self._over = False
        self._removed = False
        self._reason: tuple[str, str] | None = None
        self._grace: float | None = None
        self._kills: set[str] = set()
        self._noted: set[tuple[str, str]] = set()
        self.addresses = node.pod_addresses(manifest)

    # -- what the watch says

    def start(self) -> None:
        """
        Begin: the pod is this node's and has not ended before.
        """
        if self.manifest["metadata"].get("deletionTimestamp"):
            self._terminate()
        elif self.phase not in {"Succeeded", "Failed"}:
            self._main = asyncio.create_task(self._guarded(self._run()))

    def updated(self, manifest: dict[str, Any]) -> None:
        """
        The object has changed; what matters is a deletion, a shorter grace period, or a new ephemeral container.
        """
        self.manifest = manifest
        if manifest["metadata"].get("deletionTimestamp"):
            self._terminate()
            return
        known = {state.name for state in self.states}
        for container in manifest["spec"].get("ephemeralContainers") or ():
            if container["name"] not in known and self._sandbox and not self._over:
                state = ContainerState("ephemeralContainers", container)
                state.waits(self._not_yet)
                self.states.append(state)
                self._spawn(self._run_container(state))

    def gone(self) -> None:
        """
        The object has been removed: nothing more may be said about it, and nothing of it may stay.
        """
        self._removed = True
        if self._finished:
            self._node.forget(self)
        else:
            self._terminate()

    async def close(self) -> None:
        """
        The process ends: stop working on it, without touching what the API server knows.
        """
        for task in [*self._tasks, self._main, self._end, self._reporting]:
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    # -- what the node and the server ask

    @property
    def takes_room(self) -> bool:
        """
        Whether what it requests counts against the node's resources.
        """
        return self.admitted and not self._over

    def state(self, container: str) -> ContainerState | None:
        """
        The state of a container by name.
        """
        return next((state for state in self.states if state.name == container), None)

    def running(self, container: str) -> Container | None:
        """
        The container that runs under this name, if any.
        """
        state = self.state(container)
        if state is None or state.running_since is None:
            return None
        return self._instances[container][-1].container

    def logged(self, container: str, *, previous: bool) -> Container | None:
        """
        The start of a container whose log is meant: the present or the last one, or the one that is its last state.
        """
        state, kept = self.state(container), self._instances.get(container)
        if state is None or not kept:
            return None
        wanted = state.last if previous else None
        if not previous:
            return kept[-1].container
        wanted_id = (wanted or {}).get("containerID", "")
        return next((i.container for i in kept if wanted_id.endswith(i.id)), None)

    def note_unmodelled(self, container: str, instance: Container) -> None:
        """
        Say in an event which programs the simulation lacks.
        """
        state = self.state(container)
        if state is None:
            return
        for program in instance.unmodelled:
            if (container, program) in self._noted:
                continue
            self._noted.add((container, program))
            text = f"The simulated node has no model of this, and a real node may well have it: {program}"
            self._event(WARNING, "SimulationLacksProgram", text, state)

    def _note_image(self, state: ContainerState, image: str) -> None:
        """
        Say once in an event that an image's absence is the simulation's.
        """
        if (state.name, image) not in self._noted:
            self._noted.add((state.name, image))
            text = f"The simulated registry does not have the image {image}; a real one may well have it"
            self._event(WARNING, "SimulationLacksImage", text, state)

    # -- the pod's life

    @property
    def _spec(self) -> dict[str, Any]:
        made: dict[str, Any] = self.manifest["spec"]
        return made

    @property
    def _not_yet(self) -> str:
        """
        The reason for which a container waits that nothing else is known of.

        Source: kubernetes pkg/kubelet/kubelet_pods.go (convertToAPIContainerStatuses).
        """
        return "PodInitializing" if self._spec.get("initContainers") else "ContainerCreating"

    @property
    def _policy(self) -> str:
        return str(self._spec.get("restartPolicy", "Always"))

    def _event(self, kind: str, reason: str, message: str, state: ContainerState | None = None) -> None:
        if self._removed:
            return
        path = container_path(state.kind, state.name) if state else None
        self._node.events.record(reference(self.manifest, path), kind, reason, message)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - one pod's trouble stays that pod's
            complain(self._node.name, f"pod {status.pod_text(self.manifest)}: {error!r}", error)

    async def _run(self) -> None:
        refusal = spec.admission_refusal(self.manifest) or self._node.resource_refusal(self)
        # Between the two checks others are looked at, for whom this pod counts.
        self.admitted = refusal is None
        refusal = refusal or await self._node.affinity_refusal(self._spec)
        self.admitted = refusal is None
        if refusal is not None:
            reason, message = refusal
            self._event(WARNING, reason, message)
            self._reason = reason, f"Pod was rejected: {message}"
            self._over, self.phase = True, "Failed"
            self.states = []
            self._changed()
            return
        seconds = self._spec.get("activeDeadlineSeconds")
        try:
            async with asyncio.timeout(seconds):
                await self._live()
        except TimeoutError:
            message = "Pod was active on the node longer than the specified deadline"
            self._reason = "DeadlineExceeded", message
            self._event(NORMAL, "DeadlineExceeded", message)
            self.phase = "Failed"
        for task in list(self._tasks):
            await self._drop(task)
        await self._stop_all(self._spec.get("terminationGracePeriodSeconds", 30))
        self._over = True
        self._sandbox = False
        self._changed()

    async def _live(self) -> None:
        inits = [state for state in self.states if state.kind == "initContainers"]
        mains = [state for state in self.states if state.kind == "containers"]
        for state in self.states:
            state.waits(self._not_yet)
        # The API server's authorizer lets the node read what the pod refers to; the first status goes out before.
        await self._send_status()
        await self._mount_all()
        while refusal := spec.sandbox_refusal(self._spec) or self._node.host.rules.sandbox_refusal():
            self._event(WARNING, "FailedCreatePodSandBox", f"Failed to create pod sandbox: {refusal}")
            await asyncio.sleep(_TRY_AGAIN)
        self._sandbox = True
        self._node.metrics.pod_started()
        for state in inits:
            if state.sidecar:
                self._spawn(self._run_container(state))
                while not state.started:
                    await self._progress.wait()
                continue
            await self._run_container(state)
            if state.terminated is None or state.terminated["exitCode"]:
                return
        async with asyncio.TaskGroup() as group:
            for state in mains:
                group.create_task(self._run_container(state))

    async def _mount_all(self) -> None:
        source = volumes.Source(self._node.api, self._node.host, self.manifest, self.addresses, self._node.allocatable)
        used = {m["name"] for _, c in spec.all_containers(self._spec) for m in c.get("volumeMounts") or ()}
        for volume in self._spec.get("volumes") or ():
            delay, longest = _MOUNT_RETRY
            while True:
                try:
                    path = await volumes.set_up(source, volume)
                except (volumes.MountError, WindowsError) as error:
                    if delay >= _WORTH_AN_EVENT:
                        text = f'MountVolume.SetUp failed for volume "{volume["name"]}" : {error}'
                        self._event(WARNING, "FailedMount", text)
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, longest)
                    continue
                if path is not None and volume["name"] in used:
                    self._mounts[volume["name"]] = path
                break

    # -- one container

    async def _run_container(self, state: ContainerState) -> None:
        """
        Run it until it has ended for good.
        """
        back_off = self._back_offs.setdefault(state.name, BackOff())
        while True:
            instance = await self._begin(state)
            if instance is not None:
                self.note_unmodelled(state.name, instance.container)
                async with self._probing(state, instance):
                    code = await instance.wait()
                self._ended(state, instance, code)
            if not self._starts_again(state):
                return
            ran = time.monotonic() - instance.began if instance else 0.0
            if delay := back_off.after(ran):
                await self._wait_out(state, delay)

    def _starts_again(self, state: ContainerState) -> bool:
        end = state.terminated or state.last
        code = end["exitCode"] if end else 1
        if state.sidecar:
            return True
        if state.kind == "ephemeralContainers":
            return False
        if state.kind == "initContainers":
            return code != 0 and self._policy != "Never"
        return spec.restarts(self._policy, code)

    async def _wait_out(self, state: ContainerState, delay: float) -> None:
        state.waits("CrashLoopBackOff", status.back_off_message(delay, state.name, self.manifest))
        text = f"Back-off restarting failed container {state.name} in pod {status.pod_text(self.manifest)}"
        self._event(WARNING, "BackOff", text, state)
        self._changed()
        await asyncio.sleep(delay)

    async def _begin(self, state: ContainerState) -> Instance | None:
        """
        Pull, create and start, for as long as it takes; None when the start (or the hook after it) failed and counts as
        an end.

        Source of the events' texts: kubernetes pkg/kubelet/kuberuntime/kuberuntime_container.go (startContainer), where
        ``Started container <name>`` became ``Container started`` after 1.34.
        """
        host_process = spec.security(self._spec, state.spec).host_process
        first = state.terminated is None and state.last is None
        while True:
            image = await self._pull(state)
            self._node.metrics.container_starting(state.kind, host_process=host_process)
            try:
                instance = await self._create(state, image)
            except (ConfigRefused, CreateError) as error:
                reason = "CreateContainerError" if isinstance(error, CreateError) else "CreateContainerConfigError"
                self._node.metrics.container_failed(state.kind, reason, host_process=host_process)
                state.waits(reason, str(error))
                self._event(WARNING, "Failed", f"Error: {error}", state)
                self._changed()
                await asyncio.sleep(_TRY_AGAIN)
                continue
            break
        self._event(NORMAL, "Created", "Container created", state)
        if state.terminated is not None:
            state.last = state.terminated
        if not first:
            state.restart_count += 1
        state.container_id = f"containerd://{instance.id}"
        self._keep(state.name, instance)
        try:
            await instance.container.start()
        except StartError as error:
            self._start_failed(state, instance, str(error), host_process=host_process)
            return None
        self._event(NORMAL, "Started", "Container started", state)
        handler = (state.spec.get("lifecycle") or {}).get("postStart")
        if handler:
            # Until the hook has ended the kubelet says nothing new of the container.
            try:
                await hooks.run(handler, instance.container)
            except hooks.HookError as error:
                await self._post_start_failed(state, instance, handler, error)
                return None
        state.runs(instance.started)
        self._changed()
        return instance

    async def _post_start_failed(
        self, state: ContainerState, instance: Instance, handler: dict[str, Any], error: hooks.HookError
    ) -> None:
        host_process = spec.security(self._spec, state.spec).host_process
        self._node.metrics.container_failed(state.kind, "PostStartHookError", host_process=host_process)
        self._hook_failed("PostStart", state, error)
        await self._halt(state, instance, self._spec.get("terminationGracePeriodSeconds", 30), "FailedPostStartHook")
        self._ended(state, instance, await instance.wait())
        if self._starts_again(state):
            kind = next(iter(handler)).capitalize()
            where = f'for Container "{state.name}" in Pod "{status.pod_text(self.manifest)}"'
            state.waits("PostStartHookError", f"{kind} lifecycle hook {where} failed - error: {error}")
            self._changed()

    def _hook_failed(self, kind: str, state: ContainerState, error: hooks.HookError) -> None:
        """
        The event, which does not give the reason away: it might be a secret. What the simulation lacks is no secret.
        """
        self._event(WARNING, f"Failed{kind}Hook", f"{kind}Hook failed", state)
        if isinstance(error, hooks.HookLackingError):
            self._event(WARNING, "SimulationLacksHook", f"{kind}: {error}", state)

    def _start_failed(self, state: ContainerState, instance: Instance, text: str, *, host_process: bool) -> None:
        self._node.metrics.container_failed(state.kind, "RunContainerError", host_process=host_process)
        self._event(WARNING, "Failed", f"Error: {text.replace(instance.id, state.name)}", state)
        self.note_unmodelled(state.name, instance.container)
        end = status.terminated(
            status.START_ERROR_CODE,
            status.NEVER,
            clock.seconds(),
            state.container_id,
            reason=status.START_ERROR,
            message=text,
        )
        state.ended(end)
        if self._starts_again(state):
            state.waits("RunContainerError", text)
        self._changed()

    async def _pull(self, state: ContainerState) -> ImageConfig:
        """
        Have the image there, with back-off for as long as it is refused.
        """
        reference_ = str(state.spec["image"])
        policy = state.spec.get("imagePullPolicy", "IfNotPresent")
        delay = BackOff.FIRST
        while True:
            present = reference_ in self._node.images
            if present and policy != "Always":
                text = f'Container image "{reference_}" already present on machine and can be accessed by the pod'
                self._event(NORMAL, "Pulled", text, state)
            elif policy == "Never":
                text = f'Container image "{reference_}" is not present with pull policy of Never'
                self._event(WARNING, "ErrImageNeverPull", text, state)
                self._event(WARNING, "Failed", "Error: ErrImageNeverPull", state)
                state.waits("ErrImageNeverPull", text)
                self._changed()
                await asyncio.sleep(_TRY_AGAIN)
                continue
            else:
                self._event(NORMAL, "Pulling", f'Pulling image "{reference_}"', state)
            began = time.monotonic()
            try:
                image = self._node.host.image(reference_)
            except ImageNotFound as missing:
                if not isinstance(missing, OtherBuild):
                    self._note_image(state, reference_)
                error = f"rpc error: code = NotFound desc = {missing}"
                self._event(WARNING, "Failed", f'Failed to pull image "{reference_}": {error}', state)
                self._event(WARNING, "Failed", "Error: ErrImagePull", state)
                state.waits("ErrImagePull", error)
                self._changed()
                await asyncio.sleep(1)
                self._event(NORMAL, "BackOff", f'Back-off pulling image "{reference_}"', state)
                self._event(WARNING, "Failed", "Error: ImagePullBackOff", state)
                state.waits("ImagePullBackOff", f'Back-off pulling image "{reference_}": ErrImagePull: {error}')
                self._changed()
                await asyncio.sleep(delay)
                delay = min(delay * 2, BackOff.LONGEST)
                continue
            if not present or policy == "Always":
                took = f"{int((time.monotonic() - began) * 1000)}ms"
                text = f'Successfully pulled image "{reference_}" in {took} ({took} including waiting)'
                text += f". Image size: {image.size} bytes."
                self._event(NORMAL, "Pulled", text, state)
                self._node.images.add(reference_)
            digest = hashlib.sha256(reference_.encode()).hexdigest()
            name = reference_.rsplit(":", 1)[0] if ":" in reference_.rsplit("/", 1)[-1] else reference_
            state.image_id = reference_ if "@" in reference_ else f"{name}@sha256:{digest}"
            return image

    async def _create(self, state: ContainerState, image: ImageConfig) -> Instance:
        container = state.spec
        if refusal := spec.non_root_refusal(self.manifest, container, image.user):
            raise ConfigRefused(refusal)
        environment = await self._environment(container)
        known = dict(environment)
        merged = spec.security(self._spec, container)
        mounts = self._container_mounts(container, known)
        message_path = self._termination_file(state)
        target = spec.absolute_path(container.get("terminationMessagePath") or "/dev/termination-log")
        mounts.append(Mount(message_path, target, read_only=False))
        asked = ContainerSpec(
            id=uuid.uuid4().hex + uuid.uuid4().hex,
            name=state.name,
            pod_name=self.manifest["metadata"]["name"],
            namespace=self.manifest["metadata"]["namespace"],
            pod_uid=self.uid,
            image=image,
            command=tuple(spec.expand(part, known) for part in container.get("command") or ()),
            args=tuple(spec.expand(part, known) for part in container.get("args") or ()),
            working_dir=container.get("workingDir") or None,
            env=tuple(environment.items()),
            user=merged.user or image.user or None,
            host_process=merged.host_process,
            pod_host_process=spec.pod_host_process(
                self._spec, of_containers=not self._node.host.deviates("container-level-flag-lost")
            ),
            mounts=tuple(mounts),
            memory_limit=spec.memory_limit(container),
            cpu_maximum=spec.cpu_maximum(container, self._node.host.processors),
            tty=bool(container.get("tty")),
            stdin=bool(container.get("stdin")),
        )
        return Instance(self._node.host.create(asked), asked.id, time.monotonic(), message_path)

    def _termination_file(self, state: ContainerState) -> str:
        directory = f"{volumes.pod_directory(self.uid)}\\containers\\{state.name}"
        self._node.host.files.make_directory(directory)
        path = f"{directory}\\{uuid.uuid4().hex[:8]}"
        self._node.host.files.write(path, b"")
        return path

    def _container_mounts(self, container: dict[str, Any], known: dict[str, str]) -> list[Mount]:
        made = []
        for mount in container.get("volumeMounts") or ():
            path = self._mounts.get(mount["name"])
            if path is None:
                continue
            below = spec.expand(mount["subPathExpr"], known) if mount.get("subPathExpr") else mount.get("subPath", "")
            if below:
                path = f"{path}\\" + below.replace("/", "\\")
                if not self._node.host.files.exists(path):
                    self._node.host.files.make_directory(path)
            made.append(Mount(path, spec.absolute_path(mount["mountPath"]), read_only=bool(mount.get("readOnly"))))
        return made

    async def _environment(self, container: dict[str, Any]) -> dict[str, str]:
        """
        The container's variables in the kubelet's order, expanded. Raises ConfigRefused.
        """
        source = volumes.Source(self._node.api, self._node.host, self.manifest, self.addresses, self._node.allocatable)
        links = self._spec.get("enableServiceLinks", True)
        services = spec.service_environment(self._node.services.all(), source.namespace, links=links)
        made: dict[str, str] = {}
        try:
            for item in container.get("envFrom") or ():
                wanted = item.get("configMapRef") or item["secretRef"]
                what = "configmap" if "configMapRef" in item else "secret"
                found = await source.object(what, wanted["name"], optional=bool(wanted.get("optional")))
                files = volumes.payload(found, None, what)
                made |= {item.get("prefix", "") + key: value.decode() for key, value in files.items()}
            for item in container.get("env") or ():
                value = await self._value(item, container, source, {**services, **made})
                if value is not None:
                    made[item["name"]] = value
        except (volumes.MountError, ValueError) as error:
            raise ConfigRefused(str(error)) from error
        return made | {key: value for key, value in services.items() if key not in made}

    async def _value(
        self, item: dict[str, Any], container: dict[str, Any], source: volumes.Source, known: dict[str, str]
    ) -> str | None:
        origin = item.get("valueFrom")
        if not origin:
            return spec.expand(item.get("value") or "", known)
        if "fieldRef" in origin:
            return spec.field(self.manifest, origin["fieldRef"]["fieldPath"], self.addresses)
        if "resourceFieldRef" in origin:
            selector = origin["resourceFieldRef"]
            named = selector.get("containerName")
            chosen = next((c for _, c in spec.all_containers(self._spec) if c["name"] == named), container)
            return spec.resource(chosen, selector, self._node.allocatable)
        what = "configmap" if "configMapKeyRef" in origin else "secret"
        wanted = origin.get("configMapKeyRef") or origin["secretKeyRef"]
        optional = bool(wanted.get("optional"))
        found = volumes.payload(await source.object(what, wanted["name"], optional=optional), None, what)
        if wanted["key"] not in found:
            if optional:
                return None
            shown = "ConfigMap" if what == "configmap" else "Secret"
            raise ConfigRefused(f"couldn't find key {wanted['key']} in {shown} {source.namespace}/{wanted['name']}")
        return found[wanted["key"]].decode()

    def _keep(self, name: str, instance: Instance) -> None:
        """
        Remember the last two starts; what is older is removed, as the kubelet's garbage collection does.
        """
        kept = self._instances.setdefault(name, deque())
        kept.append(instance)
        while len(kept) > 2:
            kept.popleft().container.remove()

    def _ended(self, state: ContainerState, instance: Instance, code: int) -> None:
        message = ""
        with contextlib.suppress(WindowsError):
            message = self._node.host.files.read(instance.message_path)[:_TERMINATION_MESSAGE].decode(errors="replace")
        if not message and code and state.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            lines = [line.text for line in instance.container.log.lines[-80:]]
            message = "\n".join(lines)[-2048:]
        state.ended(status.terminated(code, instance.started, clock.seconds(), state.container_id, message=message))
        self.note_unmodelled(state.name, instance.container)
        self._changed()

    # -- probes

    @contextlib.asynccontextmanager
    async def _probing(self, state: ContainerState, instance: Instance) -> AsyncIterator[None]:
        if not {"startupProbe", "readinessProbe", "livenessProbe"} & state.spec.keys():
            yield
            return
        task = self._spawn(self._probe(state, instance))
        try:
            yield
        finally:
            task.cancel()

    async def _probe(self, state: ContainerState, instance: Instance) -> None:
        started = asyncio.Event()

        def once(probe: dict[str, Any]) -> Coroutine[Any, Any, str | None]:
            return probes.attempt(probe, state.spec, instance.container, self._node.host, self.addresses["podIP"])

        def alive() -> bool:
            return instance.container.running

        def failed(kind: str, text: str) -> None:
            self._event(WARNING, "Unhealthy", f"{kind} probe {text}", state)

        def watch(kind: str, probe: dict[str, Any], on_change: Callable[[bool], None]) -> Coroutine[Any, Any, None]:
            return probes.watch(probe, partial(once, probe), alive, on_change, partial(failed, kind))

        def on_startup(good: bool) -> None:
            if good:
                state.started = True
                state.ready = "readinessProbe" not in state.spec
                started.set()
                self._changed()
            else:
                self._kill(state, instance, "startup")

        def on_ready(good: bool) -> None:
            state.ready = good
            self._changed()

        def on_alive(good: bool) -> None:
            if not good:
                self._kill(state, instance, "liveness")

        async with asyncio.TaskGroup() as group:
            if probe := state.spec.get("startupProbe"):
                first = group.create_task(watch("Startup", probe, on_startup))
                await started.wait()
                first.cancel()
            if probe := state.spec.get("readinessProbe"):
                group.create_task(watch("Readiness", probe, on_ready))
            if probe := state.spec.get("livenessProbe"):
                group.create_task(watch("Liveness", probe, on_alive))

    def _kill(self, state: ContainerState, instance: Instance, probe: str) -> None:
        """
        Stop a container whose ``startup`` or ``liveness`` probe has failed.

        Source: kubernetes pkg/kubelet/kuberuntime/kuberuntime_manager.go (computePodActions).
        """
        if state.name in self._kills:
            return
        again = "" if self._policy == "Never" and not state.sidecar else ", will be restarted"
        grace = state.spec[f"{probe}Probe"].get("terminationGracePeriodSeconds")
        if grace is None:
            grace = self._spec.get("terminationGracePeriodSeconds", 30)
        self._spawn(self._halt(state, instance, grace, f"Container {state.name} failed {probe} probe{again}"))

    # -- the end

    def _terminate(self) -> None:
        """
        Begin the end, or hurry it.
        """
        metadata = self.manifest["metadata"]
        grace = 0.0 if self._removed else float(metadata.get("deletionGracePeriodSeconds") or 0)
        if self._end is None:
            self._grace = grace
            self._end = asyncio.create_task(self._guarded(self._finish(grace)))
        elif self._grace is None or grace < self._grace or self._removed:
            self._grace = grace
            for name in list(self._kills):
                # This ends a preStop hook too.
                self._spawn(self._instances[name][-1].container.stop(grace))

    async def _finish(self, grace: float) -> None:
        await self._drop(self._main)
        for task in list(self._tasks):
            await self._drop(task)
        try:
            await self._stop_all(grace)
        finally:
            self._over, self._sandbox = True, False
        await self._drop(self._reporting)
        self._reporting = None
        if not self._removed:
            await self._send_status()
        for kept in self._instances.values():
            for instance in kept:
                instance.container.remove()
        with contextlib.suppress(WindowsError):
            self._node.host.files.delete(volumes.pod_directory(self.uid))
        self._finished = True
        if self._removed:
            self._node.forget(self)
        else:
            # It is forgotten when the watch says that it is gone: what comes before that still belongs to it.
            await self._delete()

    @staticmethod
    async def _drop(task: asyncio.Task[None] | None) -> None:
        if task is not None and not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _stop_all(self, grace: float) -> None:
        """
        Stop what runs: the containers together, the sidecars when they have ended.
        """
        # One whose postStart hook is not over runs, though its state does not say so yet.
        running = [state for state in self.states if state.running_since is not None or self._runs(state)]
        for group in ([s for s in running if not s.sidecar], [s for s in running if s.sidecar]):
            await asyncio.gather(*(self._stop(state, grace) for state in group))

    def _runs(self, state: ContainerState) -> bool:
        kept = self._instances.get(state.name)
        return kept is not None and kept[-1].container.running

    async def _stop(self, state: ContainerState, grace: float) -> None:
        instance = self._instances[state.name][-1]
        if instance.container.running:
            await self._halt(state, instance, grace, f"Stopping container {state.name}")
        self._ended(state, instance, await instance.wait())

    async def _halt(self, state: ContainerState, instance: Instance, grace: float, why: str) -> None:
        """
        Run the preStop hook within the grace period, then stop the container with what is left of it.

        Source: kubernetes pkg/kubelet/kuberuntime/kuberuntime_container.go (killContainer, executePreStopHook).
        """
        self._event(NORMAL, "Killing", why, state)
        self._kills.add(state.name)
        left = grace
        try:
            handler = (state.spec.get("lifecycle") or {}).get("preStop")
            if handler and grace > 0:
                began = time.monotonic()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(grace):
                        await self._pre_stop(state, instance, handler)
                left = max(_LEAST_GRACE, grace - (time.monotonic() - began))
            await instance.container.stop(left if self._grace is None else min(left, self._grace))
        finally:
            self._kills.discard(state.name)

    async def _pre_stop(self, state: ContainerState, instance: Instance, handler: dict[str, Any]) -> None:
        try:
            await hooks.run(handler, instance.container)
        except hooks.HookError as error:
            self._hook_failed("PreStop", state, error)

    async def _delete(self) -> None:
        metadata = self.manifest["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        body = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "gracePeriodSeconds": 0,
            "preconditions": {"uid": self.uid},
        }
        try:
            await self._node.api.request("DELETE", path, body, attempts=20)
        except ApiError as error:
            if error.code not in {404, 409}:
                complain(self._node.name, f"pod {metadata['name']} cannot be deleted: {error.code} {error}")

    # -- status

    def _changed(self) -> None:
        """
        Have the status sent soon, together with what changes in the next moment.
        """
        self._dirty = True
        progress, self._progress = self._progress, asyncio.Event()
        progress.set()
        if self._reporting is None and self._end is None:
            self._reporting = asyncio.create_task(self._guarded(self._report()))

    async def _report(self) -> None:
        try:
            while self._dirty:
                await asyncio.sleep(_TOGETHER)
                self._dirty = False
                await self._send_status()
        finally:
            self._reporting = None

    def status(self) -> dict[str, Any]:
        """
        The pod's status as it is now.
        """
        if self._reason is None or self.phase != "Failed":
            self.phase = status.phase(self.states, self._policy, over=self._over)
        metadata = self.manifest["metadata"]
        now = clock.seconds()
        before = self._sent.get("conditions") or []
        scheduled = next((c for c in before if c["type"] == "PodScheduled"), {"type": "PodScheduled", "status": "True"})
        made = status.conditions(self.states, self.phase, sandbox=self._sandbox)
        made = status.timed([*made, {k: v for k, v in scheduled.items() if k != "lastProbeTime"}], before, now)
        if self._reason is not None and not self.admitted:
            # A pod that is refused gets nothing else (kubernetes pkg/kubelet/kubelet.go, rejectPod).
            since = self._sent.get("startTime") or now
            return {"phase": "Failed", "reason": self._reason[0], "message": self._reason[1], "startTime": since}
        generation = metadata.get("generation", 1)
        full: dict[str, Any] = {
            "observedGeneration": generation,
            "phase": self.phase,
            # A strategic merge keeps what is left out, so what a condition has lost is named.
            "conditions": [{"reason": None, "message": None, **c, "observedGeneration": generation} for c in made],
            "startTime": self._sent.get("startTime") or now,
            "hostIP": self.addresses["hostIP"],
            "hostIPs": [{"ip": self.addresses["hostIP"]}],
            "podIP": self.addresses["podIP"],
            "podIPs": [{"ip": self.addresses["podIP"]}],
        }
        if self._reason:
            full["reason"], full["message"] = self._reason
        for kind, name in _STATUS_LISTS.items():
            listed = [status.container_status(state) for state in self.states if state.kind == kind]
            if listed:
                full[name] = listed
        return full

    async def _send_status(self) -> None:
        full = self.status()
        changed = {key: value for key, value in full.items() if self._sent.get(key) != value}
        if not changed or self._removed:
            return
        metadata = self.manifest["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
        body = {"metadata": {"uid": self.uid}, "status": changed}
        try:
            await self._node.api.request("PATCH", path, body, patch="strategic", attempts=20)
        except ApiError as error:
            if error.code not in {404, 409, 422}:
                complain(self._node.name, f"status of pod {metadata['name']}: {error.code} {error}")
            return
        self._sent |= changed


_STATUS_LISTS = {
    "initContainers": "initContainerStatuses",
    "containers": "containerStatuses",
    "ephemeralContainers": "ephemeralContainerStatuses",
}
