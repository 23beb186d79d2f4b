from __future__ import annotations

import json

import pytest

from conformance._suite.redact import MARK, redact, redact_json

JWT = "eyJhbGciOiJSUzI1NiIsImtpZCI6IngifQ.eyJpc3MiOiJrdWJlcm5ldGVzIiwic3ViIjoieCJ9.c2lnbmF0dXJlLXNpZ25hdHVyZQ"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEAsecret\nAAAA==\n-----END RSA PRIVATE KEY-----"
ENCODED = "LS0tLS1CRUdJTiBSU0EgUFJJVkFURSBLRVktLS0tLQpNSUlFb3dJQkFBS0NBUUVB"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"token {JWT} end", f"token {MARK} end"),
        (f"It ends with {JWT}.", f"It ends with {MARK}."),
        (f"cut short: {JWT[:60]}", f"cut short: {MARK}"),
        (f"Authorization: Bearer {JWT}", f"Authorization: Bearer {MARK}"),
        ("Authorization: Bearer short", f"Authorization: Bearer {MARK}"),
        ("Authorization: Basic dXNlcjpwYXNz", f"Authorization: Basic {MARK}"),
        ('{"Authorization": "Bearer abc"}', f'{{"Authorization": "Bearer {MARK}"}}'),
        ("sent bearer 0123456789abcdef.xyz", f"sent bearer {MARK}"),
        (f"key:\n{PEM}\nafter", f"key:\n{MARK}\nafter"),
        (json.dumps({"pem": PEM, "next": 1}), json.dumps({"pem": MARK, "next": 1})),
        (json.dumps({"pem": PEM[:50], "next": 1}), json.dumps({"pem": MARK, "next": 1})),
        (f"client-key-data: {ENCODED}\nuser: x", f"client-key-data: {MARK}\nuser: x"),
        (f"data {ENCODED} end", f"data {MARK} end"),
        ("password=hunter2&x=1", f"password={MARK}&x=1"),
        ("SA_PASSWORD=hunter2 next", f"SA_PASSWORD={MARK} next"),
        ('{"password": "hun\\\\ter 2", "x": 1}', f'{{"password": "{MARK}", "x": 1}}'),
        ('{\\"adminPassword\\": \\"hunter2\\", \\"x\\": 1}', f'{{\\"adminPassword\\": \\"{MARK}\\", \\"x\\": 1}}'),
        ('{"password": "ab\\"cd", "x": 1}', f'{{"password": "{MARK}", "x": 1}}'),
        ('{"password": "ab\\\\", "x": "y"}', f'{{"password": "{MARK}", "x": "y"}}'),
        ('"password": "cut sho', f'"password": "{MARK}'),
        ("password: 'hunter 2'", f"password: '{MARK}'"),
        ("users:\n  - password: hunter2\n    x: 1", f"users:\n  - password: {MARK}\n    x: 1"),
        ("{user: x, password: hunter2}", f"{{user: x, password: {MARK}}}"),
        ("kubeadm join --token abcdef.0123456789abcdef --x", f"kubeadm join --token {MARK} --x"),
        ("New-LocalUser -Password hunter2", f"New-LocalUser -Password {MARK}"),
        ("net user hpc-user P@ss1word /add", f"net user hpc-user {MARK} /add"),
        ("    token: 31ada4fd-adec-460c-809a-9e56ceb75269", f"    token: {MARK}"),
        ("AccountName=x;AccountKey=abc/def==;Suffix=y", f"AccountName=x;AccountKey={MARK};Suffix=y"),
        ("SharedAccessKey=abcdef", f"SharedAccessKey={MARK}"),
        ("https://x.blob/y?sv=2&sig=abcdefghijklmnop%2Bq%3D&se=1", f"https://x.blob/y?sv=2&sig={MARK}&se=1"),
        ("clientSecret: abc.def", f"clientSecret: {MARK}"),
        ("https://user:pass@registry/x", f"https://user:{MARK}@registry/x"),
    ],
)
def test_secrets_go_and_what_is_around_them_stays(text: str, left: str) -> None:
    assert redact(text) == left
    assert redact(left) == left, "redacting twice is redacting once"


@pytest.mark.parametrize(
    "text",
    [
        "S-1-5-21-1234567890-1234567890-1234567890-500",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        '{"token": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}',
        '{"token": "/var/run/secrets/kubernetes.io/serviceaccount/token"}',
        "token: missing",
        "tokenExpirationSeconds: 3600",
        r"C:\hpc\var\run\secrets\kubernetes.io\serviceaccount\token",
        "eyJzZWVuIjogWyJhIiwgImIiXX0=",
        "H4sIAAAAAAAAA6tWKkktLlGyUlAqLU4tUrJSSisqTVWqBQBV9Y0xGAAAAA==",
        "The user name or password is incorrect.",
        "failed to logon: LogonUserW failed: The user name or password is incorrect.: 0x8007052e",
        "a user with a password: LogonUserW failed: The user name or password is incorrect.",
        "Bearer authentication was refused",
        "authorization: denied by RBAC",
        "authorization mode: Node,RBAC",
        "volumes: [configMap, secret, downwardAPI]",
        '{"secret": "marker-3f2a9c71"}',
        r"PWD=C:\hpc",
        "net user",
        "spec.containers[0].securityContext.windowsOptions.hostProcess: Invalid value: false",
        "certificate-authority-data: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t",
        "containerd://1.7.34 10.0.20348.2762 win-containerd-1-7-1:10250",
        "https://kubernetes.io/docs/tasks/configure-pod-container/create-hostprocess-pod/#volume-mounts",
        "passwordRequired: false",
    ],
)
def test_ordinary_content_is_left_alone(text: str) -> None:
    assert redact(text) == text
    assert redact_json({"seen": text}) == {"seen": text}


def test_json_is_redacted_by_key_by_name_and_by_content() -> None:
    value = {
        "env": [{"name": "ADMIN_PASSWORD", "value": "x"}, {"name": "PATH", "value": "C:\\hpc"}],
        "password": "plain",
        "passwordRequired": True,
        "deep": {"log": f"Bearer {JWT}", "token": {"sid": "S-1-5-18"}},
        "status": {"token": "31ada4fd-adec-460c-809a-9e56ceb75269"},
        "count": 3,
        "nothing": None,
    }
    assert redact_json(value) == {
        "env": [{"name": "ADMIN_PASSWORD", "value": MARK}, {"name": "PATH", "value": "C:\\hpc"}],
        "password": MARK,
        "passwordRequired": True,
        "deep": {"log": f"Bearer {MARK}", "token": {"sid": "S-1-5-18"}},
        "status": {"token": MARK},
        "count": 3,
        "nothing": None,
    }


def test_a_long_text_takes_no_long_time() -> None:
    names = ("password", "password: ", "password='", "token: a", "authorization: ", "bearer a ", "net user a b ")
    signs = ('\\"', "\\", '"', " ", "\n", "a.", "eyJ", "://a:", "-----BEGIN PRIVATE KEY-----", "LS0t", "{,", "- ")
    for text in names + signs:
        redact(text * (200_000 // len(text)))
        redact("password token bearer authorization net user sig= ://" + text * (200_000 // len(text)))
