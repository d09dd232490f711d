"""Where the API server is: a pod's service account, or a kubeconfig."""

from __future__ import annotations

import base64
import json
import ssl
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import trustme

from resilient.backends.kubernetes import Access, find_access
from resilient.errors import DiscoveryError

POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "6443"}


@pytest.fixture
def account(tmp_path: Path) -> Path:
    """A service account, as it is mounted into a pod."""
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "ca.crt").write_bytes(trustme.CA().cert_pem.bytes())
    (tmp_path / "namespace").write_text("shop")
    return tmp_path


def test_a_pod_finds_its_service_account(account: Path) -> None:
    access = find_access(environment=POD, service_account=account)
    assert (access.server, access.namespace) == ("https://10.96.0.1:6443", "shop")
    assert isinstance(access.tls(), ssl.SSLContext)
    assert access.bearer() == "first"  # without the line break


def test_a_token_is_read_anew_each_time(account: Path) -> None:
    access = find_access(environment=POD, service_account=account)
    assert access.bearer() == "first"
    (account / "token").write_text("second\n")
    assert access.bearer() == "second"


def test_an_address_of_ipv6_gets_its_brackets(account: Path) -> None:
    access = find_access(environment={"KUBERNETES_SERVICE_HOST": "fd00::1"}, service_account=account)
    assert access.server == "https://[fd00::1]:443"


def test_a_missing_or_empty_token_is_said_clearly(account: Path) -> None:
    """Without one the server would call us anonymous, and forbid everything."""
    access = find_access(environment=POD, service_account=account)
    (account / "token").write_text("\n")
    with pytest.raises(DiscoveryError, match="token is empty"):
        access.bearer()
    (account / "token").write_bytes(b"a\x00\xff")
    with pytest.raises(DiscoveryError, match="token holds no token"):
        access.bearer()
    (account / "token").unlink()
    with pytest.raises(DiscoveryError, match="token cannot be read: No such file"):
        access.bearer()
    with pytest.raises(DiscoveryError, match=r"token is missing: the pod needs a service account"):
        find_access(environment=POD, service_account=account)


def test_nothing_secret_is_shown() -> None:
    access = Access(server="https://a", token="secret", ca=b"secret", certificate=b"secret", key=b"secret")  # noqa: S106
    assert "secret" not in repr(access)


@pytest.mark.parametrize(
    "server", ["", "a:443", "ftp://a", "https://", "https://a:x", "https://a b:c@d", "https://a?b"]
)
def test_a_server_has_a_url(server: str) -> None:
    with pytest.raises(DiscoveryError, match="is not the URL of an API server: https://host:port"):
        Access(server=server)


def test_without_tls_only_a_proxy_on_this_machine_is_spoken_to() -> None:
    for host in ("127.0.0.1:8001", "localhost:8001", "[::1]:8001"):
        assert Access(server=f"http://{host}").tls() is None
    for host in ("10.0.0.1", "example.com", "127.0.0.1.example.com"):
        with pytest.raises(DiscoveryError, match="anybody could read the token"):
            Access(server=f"http://{host}")


def test_a_certificate_needs_its_key() -> None:
    with pytest.raises(DiscoveryError, match="needs its key"):
        Access(server="https://a", certificate=b"x")


def test_what_is_no_certificate_is_said_clearly() -> None:
    with pytest.raises(DiscoveryError, match="cannot be read"):
        Access(server="https://a", ca=b"x").tls()
    with pytest.raises(DiscoveryError, match="cannot be read"):
        Access(server="https://a", ca=b"\xff").tls()
    with pytest.raises(DiscoveryError, match="cannot be read"):
        Access(server="https://a", certificate=b"x", key=b"y").tls()


# -- kubeconfig -------------------------------------------------------------------------------------------------------


def config(**changes: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "dev",
        "clusters": [
            {"name": "d", "cluster": {"server": "https://dev:6443"}},
            {"name": "p", "cluster": {"server": "https://prod", "tls-server-name": "kubernetes.default"}},
        ],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [
            {"name": "dev", "context": {"cluster": "d", "user": "u"}},
            {"name": "prod", "context": {"cluster": "p", "user": "u", "namespace": "shop"}},
        ],
        **changes,
    }


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "config"
    path.write_text(json.dumps(config(**changes)))
    return path


def test_a_kubeconfig_has_contexts(tmp_path: Path) -> None:
    path = written(tmp_path)
    dev = find_access(path)
    assert (dev.server, dev.namespace, dev.bearer(), dev.server_name) == ("https://dev:6443", "default", "t", None)
    prod = find_access(path, "prod")
    assert (prod.server, prod.namespace, prod.server_name) == ("https://prod", "shop", "kubernetes.default")


def test_yaml_is_read_where_there_is_pyyaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yaml: Any = import_module("yaml")
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config()))
    assert find_access(path).server == "https://dev:6443"
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(
        DiscoveryError, match=r"takes PyYAML: pip install 'resilient-mesh\[kubernetes\]', or write JSON"
    ):
        find_access(path)
    assert find_access(written(tmp_path)).server == "https://dev:6443"


def test_files_are_beside_the_kubeconfig_and_inline_data_come_first(tmp_path: Path) -> None:
    ca = trustme.CA()
    pair = ca.issue_cert("client@example.com")
    chain = b"".join(one.bytes() for one in pair.cert_chain_pems)
    (tmp_path / "ca.pem").write_bytes(ca.cert_pem.bytes())
    (tmp_path / "client.pem").write_bytes(chain)
    user = {
        "client-certificate": "client.pem",
        "client-key": "nowhere",
        "client-key-data": base64.b64encode(pair.private_key_pem.bytes()).decode(),
        "tokenFile": "token",
    }
    path = written(
        tmp_path,
        clusters=[{"name": "d", "cluster": {"server": "https://dev", "certificate-authority": "ca.pem"}}],
        users=[{"name": "u", "user": user}],
    )
    (tmp_path / "token").write_text("from a file\n")
    access = find_access(path)
    assert access.bearer() == "from a file"
    assert access.ca == ca.cert_pem.bytes()
    assert access.certificate == chain
    assert isinstance(access.tls(), ssl.SSLContext)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"current-context": ""}, "has no current-context; name one, with the option context"),
        ({"current-context": "test"}, "has no context 'test'; it has dev, prod"),
        ({"clusters": None}, "has no cluster 'd'; it has none"),
        ({"users": [{"name": "x", "user": {}}, 7]}, "has no user 'u'; it has x"),
        (
            {"users": [{"name": "u", "user": {"exec": {"command": "aws"}}}]},
            r"a plugin that is run \(exec\), which is not",
        ),
        ({"users": [{"name": "u", "user": {"auth-provider": {}, "username": "x"}}]}, "user name and password"),
        ({"users": [{"name": "u", "user": {"as": "admin"}}]}, "impersonation"),
        ({"users": [{"name": "u", "user": {"token": 7}}]}, "has no text for token of the user"),
        ({"users": [{"name": "u", "user": {"client-key-data": "a"}}]}, "has a client-key-data that is not base64"),
        ({"users": [{"name": "u", "user": {"client-key": "nowhere"}}]}, "nowhere cannot be read: No such file"),
        ({"clusters": [{"name": "d", "cluster": {}}]}, "is not the URL of an API server"),
        (
            {"clusters": [{"name": "d", "cluster": {"server": "https://a", "insecure-skip-tls-verify": True}}]},
            "insecure-skip-tls-verify: to trust whoever answers is not supported",
        ),
        ({"clusters": [{"name": "d", "cluster": {"server": "https://a", "proxy-url": "http://p"}}]}, "proxy-url"),
    ],
)
def test_what_is_missing_or_not_supported_is_said_clearly(tmp_path: Path, changes: Any, reason: str) -> None:
    with pytest.raises(DiscoveryError, match=reason):
        find_access(written(tmp_path, **changes))


@pytest.mark.parametrize("content", ["[]", "7", "", "\t- {", "{" * 100_000])
def test_what_is_no_kubeconfig_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config"
    path.write_text(content)
    with pytest.raises(DiscoveryError, match="config is n"):
        find_access(path)


def test_a_file_that_is_missing_or_far_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DiscoveryError, match="nowhere cannot be read"):
        find_access(tmp_path / "nowhere")
    (tmp_path / "config").write_bytes(b" " * 5_000_000)
    with pytest.raises(DiscoveryError, match="is larger than"):
        find_access(tmp_path / "config")


def test_the_environment_leads_to_one_or_the_other(
    account: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path)
    outside = {"KUBECONFIG": str(path)}
    assert find_access(environment=outside).server == "https://dev:6443"
    assert find_access(environment={**outside, **POD}, service_account=account).server == "https://10.96.0.1:6443"
    assert find_access(None, "prod", environment={**outside, **POD}).server == "https://prod"
    with pytest.raises(DiscoveryError, match="names several files"):
        find_access(environment={"KUBECONFIG": f"{path}:{path}"})
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DiscoveryError, match=r"\.kube/config cannot be read"):
        find_access(environment={})
