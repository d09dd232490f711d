"""Instances written down."""

from __future__ import annotations

import json

import pytest

from resilient.discovery.documents import decode, instances_in
from resilient.errors import DiscoveryError
from resilient.instance import Instance

TOML = b"""
[[instances]]
host = "10.0.0.7"
port = 8080

[[instances]]
id = "orders-2"
host = "::1"
port = 8081
weight = 2
zone = "a"
metadata = { version = "1.4" }
"""


def read(content: bytes | str, kind: str = "json") -> tuple[Instance, ...]:
    return instances_in(decode(content.encode() if isinstance(content, str) else content, kind))


def test_toml_and_json_say_the_same() -> None:
    first, second = found = read(TOML, "toml")
    assert first == Instance(id="10.0.0.7:8080", host="10.0.0.7", port=8080)
    assert second == Instance(id="orders-2", host="::1", port=8081, weight=2.0, zone="a", metadata={"version": "1.4"})
    document = [
        {"host": "10.0.0.7", "port": 8080},
        {"id": "orders-2", "host": "::1", "port": 8081, "weight": 2, "zone": "a", "metadata": {"version": "1.4"}},
    ]
    assert read(json.dumps(document)) == found
    assert read(json.dumps({"instances": document})) == found


def test_the_address_is_the_id_of_those_that_have_none() -> None:
    (instance,) = read('[{"host": "::1", "port": 80}]')
    assert instance.id == "[::1]:80"


def test_metadata_cannot_be_changed() -> None:
    (instance,) = read('[{"host": "a", "port": 80, "metadata": {"x": "y"}}]')
    with pytest.raises(TypeError):
        instance.metadata["x"] = "z"  # type: ignore[index]  # that is what is tested


def test_what_is_written_twice_counts_once() -> None:
    assert len(read('[{"host": "a", "port": 1}, {"host": "a", "port": 1}]')) == 1


def test_one_id_for_two_instances_is_refused() -> None:
    with pytest.raises(DiscoveryError, match="two different instances have the id 'x'"):
        read('[{"id": "x", "host": "a", "port": 1}, {"id": "x", "host": "b", "port": 1}]')


def test_that_there_are_none_has_to_be_said() -> None:
    assert read("[]") == read('{"instances": []}') == read(b"instances = []\n", "toml") == ()
    for content, kind in ((b"\n", "toml"), (b"{}", "json")):
        with pytest.raises(DiscoveryError, match="said with an empty list"):
            read(content, kind)


def test_no_beginning_of_a_document_is_taken_for_all_of_it_in_json() -> None:
    whole = json.dumps([{"host": "a", "port": 8080}, {"host": "b", "port": 8080}]).encode()
    for length in range(len(whole)):
        with pytest.raises(DiscoveryError):
            read(whole[:length])


def test_a_beginning_is_taken_for_all_of_it_in_toml_only_if_it_ends_with_a_whole_instance() -> None:
    believed = []
    for length in range(len(TOML)):
        try:
            believed.append(read(TOML[:length], "toml"))
        except DiscoveryError:
            continue
    first, second = read(TOML, "toml")
    for found in believed:
        assert found[0] == first  # never half a port
        assert [(one.id, one.host, one.port) for one in found[1:]] in ([], [(second.id, second.host, second.port)])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not valid JSON"),
        (b"\xff\xfe[]", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("3", "instances is not a list"),
        ('{"instances": {}}', "instances is not a list"),
        ('{"instances": [], "other": 1}', "unknown key 'other'"),
        ("[3]", "instance 1 is not a table"),
        ('[{"host": "a", "port": 1}, {"host": "a"}]', "instance 2 has no port"),
        ('[{"port": 1}]', "instance 1 has no host"),
        ('[{"host": "a", "port": 1, "wieght": 2}]', "unknown key 'wieght'; known are id, host"),
        ('[{"host": "a", "port": "80"}]', "port='80' is not a whole number"),
        ('[{"host": "a", "port": true}]', "port=True is not a whole number"),
        ('[{"host": "a", "port": 0}]', "port=0: "),
        ('[{"host": "", "port": 1}]', "an instance needs a host name"),
        ('[{"host": 7, "port": 1}]', "host=7 is not a string"),
        ('[{"host": "a", "port": 1, "id": null}]', "id=None is not a string"),
        ('[{"host": "a", "port": 1, "weight": "1"}]', "weight='1' is not a number"),
        ('[{"host": "a", "port": 1, "weight": true}]', "weight=True is not a number"),
        ('[{"host": "a", "port": 1, "weight": NaN}]', "a weight is a finite number"),
        ('[{"host": "a", "port": 1, "weight": -1}]', "a weight is a finite number"),
        ('[{"host": "a", "port": 1, "zone": 3}]', "zone=3 is not a string"),
        ('[{"host": "a", "port": 1, "metadata": []}]', "is not a table of strings"),
        ('[{"host": "a", "port": 1, "metadata": {"x": 1}}]', "is not a table of strings"),
    ],
)
def test_what_is_wrong_is_said(content: str | bytes, reason: str) -> None:
    with pytest.raises(DiscoveryError, match=reason):
        read(content)


def test_toml_that_does_not_parse_is_refused() -> None:
    with pytest.raises(DiscoveryError, match="not valid TOML"):
        read(b"[[instances]\n", "toml")


def test_toml_without_its_last_line_break_may_have_been_cut_off() -> None:
    with pytest.raises(DiscoveryError, match="may have been cut off"):
        read(TOML.rstrip(), "toml")
