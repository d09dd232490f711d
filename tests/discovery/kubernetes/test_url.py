"""`kubernetes://namespace/service:port`."""

from __future__ import annotations

import pytest

from resilient.discovery import connect
from resilient.discovery.kubernetes import Kubernetes


def test_a_url_names_namespace_service_and_port() -> None:
    found = connect("kubernetes://shop/orders:http")
    assert repr(found) == (
        "Kubernetes(service='orders', port='http', namespace='shop', context=None, kubeconfig=None, on_empty='grace', "
        "grace=30.0, terminating='fallback', debounce=0.1)"
    )
    assert "port=8080" in repr(connect("kubernetes://shop/orders:8080"))
    assert "namespace=''" in repr(connect("kubernetes:///orders:http"))


def test_options_reach_it() -> None:
    found = connect(
        "kubernetes://shop/orders:http?kubeconfig=/etc/my%20config&context=prod&on_empty=keep&grace=7&terminating=never"
        "&debounce=0.5"
    )
    assert repr(found) == (
        "Kubernetes(service='orders', port='http', namespace='shop', context='prod', kubeconfig='/etc/my config', "
        "on_empty='keep', grace=7.0, terminating='never', debounce=0.5)"
    )


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("kubernetes://shop", "kubernetes://namespace/service:port"),
        ("kubernetes://shop/orders", "kubernetes://namespace/service:port"),
        ("kubernetes://shop/orders:", "kubernetes://namespace/service:port"),
        ("kubernetes://shop/orders:http/x", "kubernetes://namespace/service:port"),
        ("kubernetes://shop/a/orders:http", "kubernetes://namespace/service:port"),
        ("kubernetes://Shop/orders:http", "namespace='Shop': the name of a namespace is at most 63 lower-case"),
        ("kubernetes://shop.prod/orders:http", "namespace='shop.prod'"),
        ("kubernetes://shop/Orders:http", "service='Orders': the name of a service is at most 63 lower-case"),
        ("kubernetes://shop/-orders:http", "service='-orders'"),
        (f"kubernetes://shop/{'o' * 64}:http", "service='ooo"),
        ("kubernetes://shop/orders:0", "port=0: a number between 1 and 65535, or a name of at most 15"),
        ("kubernetes://shop/orders:65536", "port=65536"),
        ("kubernetes://shop/orders:HTTP", "port='HTTP'"),
        ("kubernetes://shop/orders:http-", "port='http-'"),
        ("kubernetes://shop/orders:abcdefghijklmnop", "port='abcdefghijklmnop'"),
        ("kubernetes://shop/orders:http?zone=a", "unknown option 'zone'; the options of kubernetes:// are context"),
        ("kubernetes://shop/orders:http?terminating=no", "terminating=no: one of fallback, never"),
        ("kubernetes://shop/orders:http?on_empty=no", "on_empty=no: one of keep, fail, grace"),
        ("kubernetes://shop/orders:http?debounce=x", "debounce=x: a finite number of seconds"),
        ("kubernetes://shop/orders:http?grace=-1", "grace=-1: a finite number of seconds"),
    ],
)
def test_a_bad_url_is_refused_with_what_is_allowed(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason.replace("?", r"\?")):
        connect(url)


def test_bad_arguments_are_refused_too() -> None:
    with pytest.raises(ValueError, match="terminating='maybe': one of fallback, never"):
        Kubernetes(service="orders", port="http", terminating="maybe")  # type: ignore[arg-type]  # the mistake is the test
    with pytest.raises(ValueError, match=r"debounce=-1"):
        Kubernetes(service="orders", port="http", debounce=-1)
    with pytest.raises(ValueError, match=r"grace=0"):
        Kubernetes(service="orders", port="http", grace=0)
