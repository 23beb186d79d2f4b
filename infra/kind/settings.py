"""
What the command line asks for, checked; and the versions that it is made of.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import ssl
import tomllib
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from conformance._suite.errors import TargetError, UsageError
from conformance._suite.workload import BASE_IMAGE

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

PASSWORD = "WINDOWS_PASSWORD"
OPTIONS = {
    "name": "--kind-name",
    "api_address": "--kind-api-address",
    "api_port": "--kind-api-port",
    "certificate_names": "--kind-certificate-name",
    "host": "--windows-host",
    "port": "--windows-port",
    "user": "--windows-user",
    "transport": "--windows-transport",
    "ca": "--windows-ca",
    "verify": "--windows-no-verify",
    "containerd": "--windows-containerd",
    "containerd_sha256": "--windows-containerd-sha256",
    "versions_sha256": "--kind-versions",
    "images": "--registry-prefix or --images-file",
}
"""The option behind each field of Settings."""
PINNED = Path(__file__).parent / "versions.toml"
_FILES = (
    "containerd", "kubelet", "kubeadm", "kube-log-runner", "kube-proxy", "flanneld", "cni-plugins", "windows-cni",
)  # fmt: skip
_IMAGES = ("node", "flannel", "flannel-cni-plugin", "pause")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CLUSTER = re.compile(r"[a-z0-9]([a-z0-9.-]{0,47}[a-z0-9])?")  # with "-control-plane" it is a host's name
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?")
_GZIP = b"\x1f\x8b"
_FETCH_SECONDS = 30
_LARGEST = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Published:
    """
    A file that its publisher offers, and its digest: known, or to be read from ``digest_from``.
    """

    url: str
    sha256: str = ""
    digest_from: str = ""

    def digest(self) -> str:
        """
        The SHA-256 in hexadecimal. Raises TargetError when the publisher does not tell it.
        """
        if self.sha256:
            return self.sha256
        name = self.url.rpartition("/")[2]
        remedy = "is there a network? --kind-versions takes a file with other places, or with digests"
        try:
            with urllib.request.urlopen(self.digest_from, timeout=_FETCH_SECONDS) as answer:  # noqa: S310 - https, see below
                text: str = answer.read(_LARGEST).decode("utf-8", "replace")
            if text.lstrip().startswith("{"):  # GitHub's description of a release
                (asset,) = (one for one in json.loads(text)["assets"] if one["name"] == name)
                text = str(asset["digest"]).removeprefix("sha256:")
        except OSError as error:
            raise TargetError(f"{self.digest_from} cannot be read: {error}", remedy) from error
        except (ValueError, LookupError, TypeError):
            text = ""
        # A checksum file: the digest alone, or lines of digests and names.
        lines = [line.split() for line in text.splitlines() if line.strip()]
        for words in lines:
            if _DIGEST.fullmatch(words[0].lower()) and (len(lines) == 1 or words[-1].lstrip("*") == name):
                return words[0].lower()
        raise TargetError(f"{self.digest_from} does not tell the digest of {name}", remedy)


@dataclass(frozen=True, slots=True)
class Versions:
    """
    ``versions.toml``. ``sha256`` is its own digest.
    """

    oldest_kind: str
    kubernetes: str
    images: Mapping[str, str]
    files: Mapping[str, Published]
    sha256: str


def load_versions(path: Path | None = None) -> Versions:
    """
    Read the pinned versions, or a changed copy. Raises UsageError that says what is wrong with it.
    """
    path = path or PINNED
    remedy = f"start from a copy of {PINNED}"
    try:
        content = path.read_bytes()
        data = tomllib.loads(content.decode("utf-8"))
        files = {
            name: Published(one["url"], one.get("sha256", "").lower(), one.get("sha256-from", ""))
            for name, one in ((name, data["files"][name]) for name in _FILES)
        }
        images = {name: str(data["images"][name]) for name in _IMAGES}
        versions = Versions(
            data["kind"]["oldest"], data["kubernetes"]["version"], images, files, hashlib.sha256(content).hexdigest()
        )
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", remedy) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not the TOML that is wanted: {error}", remedy) from error
    except KeyError as error:
        raise UsageError(f"{path} lacks {error}", remedy) from error
    for name, file in files.items():
        if not all(url.startswith("https://") for url in (file.url, file.digest_from or file.url)):
            raise UsageError(f"{path}: files.{name} is not fetched by https", remedy)
        if not (_DIGEST.fullmatch(file.sha256) if file.sha256 else file.digest_from):
            raise UsageError(f"{path}: files.{name} has no digest", "give sha256 or sha256-from")
    return versions


@dataclass(frozen=True, slots=True)
class Settings:
    """
    What is brought up, and with which machine: kept in the state file, so it holds no secret.
    """

    name: str
    api_address: str
    api_port: int
    certificate_names: tuple[str, ...]
    host: str
    port: int
    user: str
    transport: Literal["ntlm", "basic"]
    ca: str | None
    verify: bool
    containerd: str
    """A URL, or the absolute path of an archive."""
    containerd_sha256: str
    """Empty where the publisher is asked for it."""
    versions_sha256: str
    images: tuple[str, ...]
    """Where the images come from, resolved."""

    @property
    def api_url(self) -> str:
        """
        The API server as the Windows machine reaches it.
        """
        return f"https://{self.api_address}:{self.api_port}"

    def to_data(self) -> dict[str, Any]:
        """
        As JSON.
        """
        return asdict(self)

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Settings:
        """
        From JSON. Raises TypeError, ValueError or KeyError when it is not what ``to_data`` made.
        """
        made = cls(**{**data, **{name: tuple(data[name]) for name in ("certificate_names", "images")}})
        texts = [made.name, made.api_address, made.host, made.user, made.containerd, made.containerd_sha256]
        texts += [made.versions_sha256, "" if made.ca is None else made.ca, *made.certificate_names, *made.images]
        others = [type(one) for one in (made.api_port, made.port, made.verify)]
        if not all(isinstance(one, str) for one in texts) or others != [int, int, bool]:
            raise TypeError("a text, a port or verify")
        if str(made.transport) not in {"ntlm", "basic"}:
            raise ValueError("transport")
        return made


def read(options: argparse.Namespace, versions: Versions) -> Settings:
    """
    Check all that can be checked without a connection. Raises UsageError for the first thing that is wrong.
    """
    if not _CLUSTER.fullmatch(options.kind_name):
        raise UsageError(f"--kind-name {options.kind_name!r} is no name for a cluster", "a-z, 0-9 and -, at most 49")
    for name in options.kind_certificate_name:
        if not _HOST.fullmatch(name):
            raise UsageError(f"--kind-certificate-name {name!r} is neither a host's name nor an address")
    if not options.windows_host:
        raise UsageError(
            "--target kind needs a Windows machine, for kind has no Windows nodes", "name it with --windows-host"
        )
    if not _HOST.fullmatch(options.windows_host):
        raise UsageError(f"--windows-host {options.windows_host!r} is neither a host's name nor an address")
    for flag, port in (("--kind-api-port", options.kind_api_port), ("--windows-port", options.windows_port)):
        if not 0 < port < 65536:
            raise UsageError(f"{flag} {port} is no port", "1 to 65535")
    if not options.windows_user.strip():
        raise UsageError("--windows-user is empty", "name an administrator of the machine")
    if options.windows_transport not in {"ntlm", "basic"}:
        raise UsageError(f"--windows-transport {options.windows_transport!r} is unknown", "ntlm or basic")
    ca = options.windows_ca
    if ca is not None:
        if options.windows_no_verify:
            raise UsageError("--windows-ca and --windows-no-verify contradict each other", "leave one of them away")
        try:
            ssl.create_default_context(cafile=ca)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"--windows-ca {ca} holds no certificate to trust: {error}", "give a PEM file") from error
    source, digest = _containerd(options, versions)
    return Settings(
        name=options.kind_name,
        api_address=_api_address(options.kind_api_address),
        api_port=options.kind_api_port,
        certificate_names=tuple(options.kind_certificate_name),
        host=options.windows_host,
        port=options.windows_port,
        user=options.windows_user,
        transport=options.windows_transport,
        ca=str(ca.absolute()) if ca is not None else None,
        verify=not options.windows_no_verify,
        containerd=source,
        containerd_sha256=digest,
        versions_sha256=versions.sha256,
        images=tuple(map(resolver(options), images(versions))),
    )


def resolver(options: argparse.Namespace) -> Callable[[str], str]:
    """
    Where an image really comes from: what ``--registry-prefix`` and ``--images-file`` say.
    """
    resolve: Callable[[str], str] | None = getattr(options, "resolve_image", None)
    return resolve or (lambda image: image)


def _api_address(text: str | None) -> str:
    remedy = "give this host's IPv4 address on the network of the Windows machine (`ip -4 address`)"
    if not text:
        raise UsageError("--kind-api-address is missing: where does the Windows machine reach this host?", remedy)
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError as error:
        raise UsageError(f"--kind-api-address {text!r} is no IPv4 address", remedy) from error
    if address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local:
        raise UsageError(f"no other machine reaches this host at --kind-api-address {text}", remedy)
    return str(address)


def _containerd(options: argparse.Namespace, versions: Versions) -> tuple[str, str]:
    """
    Where the build under test is, and its digest.
    """
    given: str | None = options.windows_containerd
    digest = (options.windows_containerd_sha256 or "").lower()
    if digest and not _DIGEST.fullmatch(digest):
        raise UsageError(f"--windows-containerd-sha256 {digest!r} is no SHA-256", "64 hexadecimal digits")
    if given is None:
        if digest:
            raise UsageError("--windows-containerd-sha256 is given without --windows-containerd")
        return versions.files["containerd"].url, versions.files["containerd"].sha256
    if "://" in given:
        if not given.startswith("https://"):
            raise UsageError(f"--windows-containerd {given} is not fetched by https", "use https, or a local file")
        if not digest:
            raise UsageError("--windows-containerd is a URL without a digest", "add --windows-containerd-sha256")
        return given, digest
    path = Path(given).absolute()
    try:
        with path.open("rb") as file:
            start = file.read(2)
            file.seek(0)
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(
            f"--windows-containerd {given} cannot be read: {error.strerror}", "give containerd's release archive"
        ) from error
    if start != _GZIP:
        raise UsageError(f"--windows-containerd {given} is no .tar.gz archive", "give containerd's release archive")
    if digest and digest != found:
        raise UsageError(f"--windows-containerd {given} has the digest {found}, not {digest}", "is it the right build?")
    return str(path), found


def images(versions: Versions) -> list[str]:
    """
    Every image of the target, as documented.
    """
    return [*versions.images.values(), BASE_IMAGE]
