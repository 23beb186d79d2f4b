"""
Where images come from: documented places, a mirror, a file; and what cannot be meant.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from conformance._suite import images, workload
from conformance._suite.cli import program
from conformance._suite.errors import UsageError
from conformance._suite.images import Images
from conformance._suite.workload import BASE_IMAGE
from tests.conftest import run_program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Matrix

POWERSHELL = "mcr.microsoft.com/powershell:lts-nanoserver-1809"
NANO_2019, NANO_2022 = (f"mcr.microsoft.com/windows/nanoserver:{tag}" for tag in ("ltsc2019", "ltsc2022"))
PINNED = "registry.example/base@sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("reference", "place"),
    [
        (POWERSHELL, "registry.example/mirror/powershell:lts-nanoserver-1809"),
        ("docker.io/flannel/flannel:v1", "registry.example/mirror/flannel/flannel:v1"),
        ("flannel/flannel:v1", "registry.example/mirror/flannel/flannel:v1"),
        ("localhost/x", "registry.example/mirror/x"),
        ("registry:5000/x:1", "registry.example/mirror/x:1"),
        (BASE_IMAGE, PINNED),
    ],
)
def test_a_prefix_stands_for_the_registry_and_a_replacement_for_the_whole(reference: str, place: str) -> None:
    assert Images("registry.example/mirror", {BASE_IMAGE: PINNED}).resolve(reference) == place


@pytest.mark.parametrize(
    "reference", ["a b", "", "x@sha256:abc", "x/Y", "x:tag:tag", "x/", "https://x", "x" + ":t" * 2]
)
def test_what_is_no_reference(reference: str) -> None:
    with pytest.raises(UsageError, match="is not an image reference"):
        images.require_reference(reference, "--image")


@pytest.mark.parametrize("prefix", ["https://x", "registry:5000/mirror:tag", "x@y", "x//y", "x y"])
def test_what_is_no_registry(prefix: str) -> None:
    with pytest.raises(UsageError, match="is not a registry"):
        images.read(prefix, None, BASE_IMAGE, None, ())


def test_a_base_image_is_said_once(tmp_path: Path) -> None:
    file = tmp_path / "images.yaml"
    file.write_text(f"{BASE_IMAGE}: {PINNED}\n")
    with pytest.raises(UsageError, match="both say where the base image is"):
        images.read("", file, "x:1", None, {BASE_IMAGE})


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


@pytest.mark.parametrize(
    "content",
    [
        "secret-word", "[]", '{"secret-word": 1}', '{"auths": "secret-word"}', '{"auths": {"secret-word": {}}}',
        '{"auths": {"r": {}}, "credsStore": "secret-word"}', '{"auths": {"r": {"username": "secret-word"}}}',
    ],
)  # fmt: skip
def test_a_pull_secret_that_is_none_is_not_quoted(tmp_path: Path, content: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(content)
    with pytest.raises(UsageError) as caught:
        images.read("", None, BASE_IMAGE, file, ())
    assert "secret-word" not in str(caught.value)
    assert "holds no credential" in str(caught.value)


def test_the_list_has_every_image_of_the_suite_with_its_digest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "images.yaml"
    file.write_text(f"{BASE_IMAGE.partition('@')[0]}: {PINNED}\n")
    assert program.main(["images", "--images-file", str(file), "--registry-prefix", "registry.example"]) == 0
    listed = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[1:]}
    assert listed[BASE_IMAGE][:2] == [PINNED, PINNED.partition("@")[2]]
    assert listed[POWERSHELL] == [
        "registry.example/powershell:lts-nanoserver-1809", "not-pinned", "aks-daemonset-older"
    ]  # fmt: skip
    for nano in (NANO_2019, NANO_2022):
        assert listed[nano][1:] == ["not-pinned", "aks-daemonset,aks-daemonset-rights"]
    assert any(users.endswith("target-kind") for *_, users in listed.values())
    # Nothing that the suite sends names an image that is not in the list.
    named = {image for name in workload.names() for image in workload.load(name).images}
    assert {image for image, (*_, users) in listed.items() if users != "target-kind"} == named


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
    mirrored = {image.replace("mcr.microsoft.com", "registry.example/mirror") for image in (POWERSHELL, NANO_2022)}
    assert set(subject["images"]) == {base, *mirrored}
    assert "@sha256:" in subject["images"][base]
    for file in (tmp_path / "out").rglob("*.*"):
        if file.is_file():
            assert b"bm9ib2R5OnNlY3JldC13b3Jk" not in file.read_bytes(), file


@pytest.mark.cluster
def test_an_image_that_only_a_sample_needs_costs_that_sample(matrix: Matrix, tmp_path: Path) -> None:
    missing = "registry.example/nowhere:1"
    (tmp_path / "images.yaml").write_text(f"{NANO_2022}: {missing}\n")
    node = matrix.faithful["2.3"]
    run = run_program(
        tmp_path / "out", "--target", "existing", "--kubeconfig", str(matrix.kubeconfig), "--node", node, "--no-allure",
        "--images-file", str(tmp_path / "images.yaml"), "--time-scale", "0.1", "-k", "operation",
    )  # fmt: skip
    words = "ErrImagePull: rpc error: code = NotFound desc = failed to pull and unpack image"
    assert f"{node}: the image cannot be pulled: " in run.output
    assert f'{words} "{missing}": ' in run.output
    rows = {one["requirement"]: one for one in run.verdict["results"] if one["node"] == node}
    assert run.code == 4, run.output
    assert rows["operation/ping-sample/answered"]["verdict"] == "conformant"
    for name in ("running-on-each-node", "administrator-rights"):
        row = rows[f"operation/aks-daemonset/{name}"]
        assert (row["verdict"], row["reasonCode"]) == ("not-proven", "image-not-pulled")
        assert f'"{missing}"' in row["reason"]
