"""
What the node process is told when it is started.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class ConfigError(Exception):
    """
    The configuration file cannot be used; the text says why.
    """


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """
    One node: ``era`` is a name of the model's eras, ``address`` its InternalIP, ``deviations`` what is wrong with it;
    with ``service_unreachable`` its processes do not reach the ``kubernetes`` service.
    """

    name: str
    era: str
    address: str
    certificate: Path
    key: Path
    deviations: frozenset[str]
    taints: tuple[dict[str, str], ...]
    service_unreachable: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """
    ``api`` is the API server's URL, ``ca`` the cluster's CA, ``kubelet_client_ca`` signs the client certificate that
    the API server shows to a kubelet, ``egress_socket`` the unix socket on which the API server dials nodes and pods.
    """

    api: str
    ca: Path
    egress_socket: Path
    kubelet_client_ca: Path
    service_network: str
    nodes: tuple[NodeConfig, ...]


def load(path: Path) -> Config:
    """
    Read the file. Raises ConfigError with one line that names what is missing or wrong.
    """
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        ca = Path(data["ca"])
        config = Config(
            api=data["api"].rstrip("/"),
            ca=ca,
            egress_socket=Path(data["egressSocket"]),
            kubelet_client_ca=Path(data.get("kubeletClientCa", ca)),
            service_network=data.get("serviceNetwork", "10.0.0.0/24"),
            nodes=tuple(
                NodeConfig(
                    name=node["name"],
                    era=node["era"],
                    address=node["address"],
                    certificate=Path(node["certificate"]),
                    key=Path(node["key"]),
                    deviations=frozenset(node.get("deviations", ())),
                    taints=tuple(node.get("taints", ())),
                    service_unreachable=bool(node.get("serviceUnreachable")),
                )
                for node in data["nodes"]
            ),
        )
        for file in (
            config.ca,
            config.kubelet_client_ca,
            *(f for node in config.nodes for f in (node.certificate, node.key)),
        ):
            if not file.is_file():
                raise ConfigError(f"{path}: there is no file {file}")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error
    except KeyError as error:
        raise ConfigError(f"{path}: {error} is missing") from error
    except (AttributeError, TypeError) as error:
        raise ConfigError(f"{path}: not of the expected shape: {error}") from error
    return config
