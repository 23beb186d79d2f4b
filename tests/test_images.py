"""
Where images come from: documented places, a mirror, a file; and what cannot be meant.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from conformance import __main__ as program
from conformance._suite import images, workload
from conformance._suite.images import Images
from conformance._suite.model import UsageError
from conformance._suite.workload import BASE_IMAGE
from tests.conftest import run_program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Matrix

POWERSHELL = "mcr.microsoft.com/powershell:lts-nanoserver-1809"
PINNED = "registry.example/base@sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("reference", "place"),
    [
        (POWERSHELL, "registry.example/mirror/powershell:lts-nanoserver-1809"),
        ("docker.io/flannel/flannel:v1", "registry.example/mirror/flannel/flannel:v1"),
        ("flannel/flannel:v1", "registry.example/mirror/flannel/flannel:v1"),
        ("localhost/x", "registry.example/mirror/x"),
        ("registry:5000/x:1", "registry.example/mirror/x:1"),
        ("registry.example/mirror/x:1", "registry.example/mirror/x:1"),
        (BASE_IMAGE, PINNED),
        (PINNED, PINNED),
    ],
)
def test_a_prefix_stands_for_the_registry_and_a_replacement_for_the_whole(reference: str, place: str) -> None:
    assert Images("registry.example/mirror", {BASE_IMAGE: PINNED}).resolve(reference) == place


def test_what_is_pulled_onto_a_node() -> None:
    everything = [workload.load(name) for name in workload.names()]
    assert Images().pulled_by(everything) == [BASE_IMAGE, POWERSHELL]
    assert Images().pulled_by([workload.load("ping-sample")]) == [BASE_IMAGE]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("garbage: [", "cannot be read"),
        ("- a\n- b", "holds no mapping"),
        ("mcr.microsoft.com/other:1: x", "names mcr.microsoft.com/other:1, which the suite does not use"),
        (f"{BASE_IMAGE}: a b", "'a b' is not an image reference"),
    ],
)
def test_an_images_file_that_cannot_be_meant(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "images.yaml"
    file.write_text(content)
    with pytest.raises(UsageError, match=said):
        images.read("", file, BASE_IMAGE, None, {BASE_IMAGE})


@pytest.mark.parametrize("content", ["secret-word", "[]", '{"secret-word": 1}', '{"auths": "secret-word"}'])
def test_a_pull_secret_that_is_none_is_not_quoted(tmp_path: Path, content: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(content)
    with pytest.raises(UsageError) as caught:
        images.read("", None, BASE_IMAGE, file, ())
    assert "secret-word" not in str(caught.value)
    assert "no Docker configuration" in str(caught.value)


def test_the_list_has_every_image_of_the_suite_with_its_digest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "images.yaml"
    file.write_text(f"{BASE_IMAGE}: {PINNED}\n")
    assert program.main(["images", "--images-file", str(file), "--registry-prefix", "registry.example"]) == 0
    listed = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert PINNED.partition("@")[2] in listed[PINNED]
    assert "digest not pinned" in listed["registry.example/powershell:lts-nanoserver-1809"]
    assert "aks-daemonset" in listed["registry.example/powershell:lts-nanoserver-1809"]
    assert any("--target kind" in line for line in listed.values())
    # Nothing that the suite sends names an image that is not in the list.
    named = {image for name in workload.names() for image in workload.load(name).images}
    assert len([line for line in listed.values() if not line.endswith("  --target kind")]) == len(named)


@pytest.mark.cluster
def test_a_run_with_a_mirror_and_a_pull_secret(matrix: Matrix, tmp_path: Path) -> None:
    """
    Every pod names the mirror and the secret; the report says what was pulled; the secret itself is nowhere.
    """
    docker = {"auths": {"registry.example": {"auth": "bm9ib2R5OnNlY3JldC13b3Jk"}}}
    (tmp_path / "config.json").write_text(json.dumps(docker))
    node = matrix.faithful["2.3"]
    run = run_program(
        tmp_path / "out", "--target", "existing", "--kubeconfig", str(matrix.kubeconfig), "--node", node,
        "--registry-prefix", "registry.example/mirror", "--pull-secret", str(tmp_path / "config.json"),
    )  # fmt: skip
    assert run.code == 0, run.output
    for path in (tmp_path / "out" / "nodes").glob("*/*/evidence.json"):
        text = path.read_text(encoding="utf-8")
        assert "mcr.microsoft.com/" not in text
        assert '"imagePullSecrets"' in text, path
    (subject,) = [one["subject"] for one in run.verdict["nodes"]]
    base = BASE_IMAGE.replace("mcr.microsoft.com", "registry.example/mirror")
    assert set(subject["images"]) == {base, POWERSHELL.replace("mcr.microsoft.com", "registry.example/mirror")}
    assert "@sha256:" in subject["images"][base]
    for file in (tmp_path / "out").rglob("*.*"):
        if file.is_file():
            assert b"bm9ib2R5OnNlY3JldC13b3Jk" not in file.read_bytes(), file
