"""
Run the simulated nodes of a configuration file, until SIGTERM.

Prints one JSON line: ``{"ready": true}`` when every node is Ready, or ``{"error": "…"}`` and ends with 1.
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import json
import signal
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

from infra.simulated.model.eras import ERAS
from infra.simulated.node.api import Anonymous, Api, ApiError, client_context
from infra.simulated.node.config import Config, ConfigError, NodeConfig, load
from infra.simulated.node.egress import Egress, Kubelet
from infra.simulated.node.node import Services, SimulatedNode
from infra.simulated.node.server import KubeletServer

if TYPE_CHECKING:
    from collections.abc import Callable

# asyncio gives each TLS connection a buffer of 256 KiB; with hundreds of nodes that is most of the memory.
_TLS_BUFFER = 16 * 1024
_READY_WITHIN = 90.0


def server_context(config: NodeConfig, client_ca: Path) -> ssl.SSLContext:
    """
    TLS as a node serves it: its own certificate, and only the API server is let in.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(client_ca))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(config.certificate, config.key)
    return context


class Nodes:
    """
    All nodes of the process, and the socket through which they are reached.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._services = Services()
        self._outside: Anonymous | None = None
        self._nodes: list[SimulatedNode] = []
        self._kubelets: dict[str, Kubelet] = {}
        self._by_address: dict[str, SimulatedNode] = {}
        self._background: list[asyncio.Task[None]] = []
        self._egress = Egress(self._kubelets.get, self._connect)

    async def start(self) -> None:
        """
        Serve, register every node, and wait until pods may come. Raises ApiError, OSError or TimeoutError.
        """
        self._outside = Anonymous(self._config.api, self._config.ca)
        for index, config in enumerate(self._config.nodes):
            api = Api(self._config.api, client_context(self._config.ca, config.certificate, config.key), config.name)
            node = SimulatedNode(config, index, api, self._services)
            node.host.api_server = self._outside
            own = urlsplit(self._config.api)
            node.host.api_address = (own.hostname or "", own.port or 443)
            node.host.service_unreachable = config.service_unreachable
            handler = web.Server(KubeletServer(node).handle, handler_cancellation=True, access_log=None)
            context = server_context(config, self._config.kubelet_client_ca)
            self._kubelets[config.address] = Kubelet(context, handler)
            self._by_address[config.address] = node
            self._nodes.append(node)
        await self._egress.listen(self._config.egress_socket)
        if self._nodes:
            first = self._nodes[0].api
            await self._services.replace((await first.request("GET", "/api/v1/services")).get("items") or [])
            self._background.append(asyncio.create_task(self._services.watch(first)))
        async with asyncio.timeout(_READY_WITHIN):
            await asyncio.gather(*(self._bring_up(node) for node in self._nodes))

    async def close(self) -> None:
        """
        End everything.
        """
        self._egress.close()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await asyncio.gather(*(node.close() for node in self._nodes), return_exceptions=True)
        if self._outside is not None:
            await self._outside.close()

    @staticmethod
    async def _bring_up(node: SimulatedNode) -> None:
        await node.register()
        while not await node.schedulable():
            await asyncio.sleep(0.1)

    def _connect(self, address: str, port: int) -> Callable[[bytes], bytes]:
        return self._by_address[address].host.network.connect_from_outside(address, port)


async def serve(config: Config) -> int:
    """
    Run until SIGTERM or SIGINT; the exit code.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    nodes = Nodes(config)
    starting = asyncio.create_task(nodes.start())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            print(json.dumps({"ready": True}), flush=True)
            await stopping
    except TimeoutError:
        return _refuse(f"the nodes were not ready within {_READY_WITHIN:.0f} s")
    except (ApiError, OSError, ValueError) as error:
        # A ValueError is the model's word about deviations that do not fit.
        return _refuse(str(error))
    finally:
        starting.cancel()
        stopping.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)
        await nodes.close()
    return 0


def _refuse(text: str) -> int:
    print(json.dumps({"error": text}), flush=True)
    return 1


def main(arguments: list[str]) -> int:
    """
    The program.
    """
    if len(arguments) != 1:
        return _refuse("usage: python -m infra.simulated.node CONFIG.json")
    try:
        config = load(Path(arguments[0]))
    except ConfigError as error:
        return _refuse(str(error))
    unknown = sorted({node.era for node in config.nodes} - ERAS.keys())
    if unknown:
        return _refuse(f"unknown era {', '.join(unknown)}; there are {', '.join(ERAS)}")
    asyncio.sslproto.SSLProtocol.max_size = _TLS_BUFFER
    return asyncio.run(serve(config))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
