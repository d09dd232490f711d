"""The grammar of discovery URLs."""

from __future__ import annotations

import pytest

from resilient.discovery import Location


def test_a_url_is_taken_apart() -> None:
    location = Location.parse("etcd://a:1,b:2/services/my%20orders?ttl=5&mode=x%26y")
    assert (location.scheme, location.authority, location.path) == ("etcd", "a:1,b:2", "/services/my orders")
    assert location.options == {"ttl": "5", "mode": "x&y"}


def test_authority_path_and_options_may_be_missing() -> None:
    location = Location.parse("dns+srv://_http._tcp.name")
    assert (location.scheme, location.authority) == ("dns+srv", "_http._tcp.name")
    assert (location.path, location.options) == ("", {})
    assert Location.parse("file:///x?").authority == ""


@pytest.mark.parametrize("url", ["", "orders", "a:1,b:2", "//a", "HTTP://a", "1x://a", "a://b#c", "a://b/c#d"])
def test_what_is_no_url_is_refused_with_the_grammar(url: str) -> None:
    with pytest.raises(ValueError, match="a discovery URL is scheme://authority/path"):
        Location.parse(url)


def test_options_are_name_and_value() -> None:
    with pytest.raises(ValueError, match="options are name=value"):
        Location.parse("file:///x?grace")


def test_an_option_is_given_once() -> None:
    with pytest.raises(ValueError, match="each option is given once"):
        Location.parse("file:///x?grace=1&grace=2")


def test_an_unknown_option_is_refused_with_those_that_exist() -> None:
    location = Location.parse("x://a?grcae=1")
    with pytest.raises(ValueError, match="unknown option 'grcae'; the options of x:// are grace, interval"):
        location.allow("grace", "interval")
    with pytest.raises(ValueError, match="x:// has none"):
        location.allow()
    location.allow("grcae")


def test_seconds_are_read() -> None:
    location = Location.parse("x://a?grace=1.5")
    assert location.seconds("grace", 9.0) == 1.5
    assert location.seconds("interval", 9.0) == 9.0


@pytest.mark.parametrize("value", ["0", "-1", "inf", "nan", "soon", ""])
def test_seconds_that_are_none_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match="a finite number of seconds, more than 0"):
        Location.parse(f"x://a?grace={value}").seconds("grace", 1.0)


def test_a_choice_is_one_of_its_words() -> None:
    location = Location.parse("x://a?on_empty=keep")
    assert location.choice("on_empty", "grace", ["keep", "grace"]) == "keep"
    assert location.choice("other", "grace", ["keep", "grace"]) == "grace"
    with pytest.raises(ValueError, match="on_empty=keep: one of fail, grace"):
        location.choice("on_empty", "grace", ["fail", "grace"])


def test_endpoints_are_host_and_port() -> None:
    location = Location.parse("x://a.b-c:80,[::1]:8080,10.0.0.1:65535")
    assert location.endpoints() == (("a.b-c", 80), ("::1", 8080), ("10.0.0.1", 65535))


@pytest.mark.parametrize(
    "authority", ["", "a", "a:", ":80", "a:80,", "a:x", "::1:80", "a:80 b:80", "[::1]", "a:123456"]
)
def test_what_is_no_endpoint_is_named(authority: str) -> None:
    with pytest.raises(ValueError, match="is no host:port"):
        Location.parse(f"x://{authority}").endpoints()


def test_a_plus_is_a_plus() -> None:
    location = Location.parse("x://a?one=dns+srv://b%2Bc")
    assert location.options == {"one": "dns+srv://b+c"}


def test_servers_have_a_port_of_their_own_or_the_usual_one() -> None:
    location = Location.parse("x://a?nameserver=10.0.0.1:5353,10.0.0.2,[::1],[::1]:54")
    assert location.servers("nameserver", 53) == (("10.0.0.1", 5353), ("10.0.0.2", 53), ("::1", 53), ("::1", 54))
    assert location.servers("other", 53) == ()
    with pytest.raises(ValueError, match="is no host:port"):
        Location.parse("x://a?nameserver=::1").servers("nameserver", 53)


def test_credentials_stand_before_the_endpoints() -> None:
    location = Location.parse("etcd://user:p%40ss%3Aw%2Ford@a:1,[::1]:2/x")
    assert location.credentials() == ("user", "p@ss:w/ord")
    assert location.endpoints(credentials=True) == (("a", 1), ("::1", 2))
    with pytest.raises(ValueError, match="no host:port"):
        location.endpoints()
    assert Location.parse("etcd://a:1/x").credentials() is None


@pytest.mark.parametrize("before", ["user", ":password", ""])
def test_half_of_credentials_is_refused(before: str) -> None:
    with pytest.raises(ValueError, match="credentials are user:password@"):
        Location.parse(f"etcd://{before}@a:1/x").credentials()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("etcd://user:secret@a:1/x", "etcd://***@a:1/x"),
        ("consul://a:1/x?token=secret&dc=b", "consul://a:1/x?token=***&dc=b"),
        ("consul://a:1/x?dc=b&token=secret", "consul://a:1/x?dc=b&token=***"),
        ("consul://a:1/x?token_file=/t", "consul://a:1/x?token_file=/t"),
    ],
)
def test_secrets_are_not_shown(url: str, shown: str) -> None:
    location = Location.parse(url)
    assert location.shown == shown
    with pytest.raises(ValueError, match="why") as caught:
        location.refuse("why")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["ETCD://user:secret@a:1", "etcd://user:secret@a:1?x", "etcd://user:secret@a:1?x=1&x=2"]
)
def test_secrets_in_a_url_that_cannot_be_understood_are_not_shown_either(url: str) -> None:
    with pytest.raises(ValueError, match=r"url=") as caught:
        Location.parse(url)
    assert "secret" not in str(caught.value)
