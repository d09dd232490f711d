"""Which records of a registry are alive, by what a reader has seen of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.discovery.records import Record, RecordFile, Records, read_records
from resilient.errors import DiscoveryError
from resilient.instance import Instance

A = Instance(id="a", host="10.0.0.1", port=80, weight=2.0, zone="x", metadata={"version": "1"})
B = Instance(id="b", host="10.0.0.2", port=80)
TTL = 10.0


def record(instance: Instance = A, renewed_at: float = 0.0, ttl: float = TTL, owner: str = "me") -> bytes:
    return Record(instance=instance, ttl=ttl, renewed_at=renewed_at, owner=owner).encode()


def ids(instances: tuple[Instance, ...]) -> list[str]:
    return sorted(instance.id for instance in instances)


def watch(records: Records, found: dict[str, bytes | None], start: float, end: float, step: float = 0.5) -> list[str]:
    """Look again and again; return who is alive at the end."""
    alive: tuple[Instance, ...] = ()
    now = start
    while now <= end:
        alive = records.update(found, now, wall=now)
        now += step
    return ids(alive)


def test_a_record_says_everything_about_its_instance() -> None:
    assert Record.decode(record()) == Record(instance=A, ttl=TTL, renewed_at=0.0, owner="me")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ttl": "10"}, "ttl='10' is not a number of seconds"),
        ({"ttl": True}, "ttl=True is not a number of seconds"),
        ({"ttl": 0}, "ttl=0.0 is not between"),
        ({"ttl": 1e9}, "ttl=1000000000.0 is not between"),
        ({"renewed_at": None}, "renewed_at=None is not a number of seconds"),
        ({"renewed_at": float("nan")}, "renewed_at=nan is not a number of seconds"),
        ({"port": 0}, "port=0: "),
        ({"colour": "red"}, "unknown key 'colour'"),
    ],
)
def test_a_record_that_is_wrong_is_refused(change: dict[str, object], reason: str) -> None:
    content = json.dumps({**json.loads(record()), **change}).encode()
    with pytest.raises(DiscoveryError, match=reason):
        Record.decode(content)


def test_a_record_is_alive_for_its_time_after_it_was_last_seen_to_change() -> None:
    records = Records(longest_step=1.0)
    assert watch(records, {"a": record()}, 0.0, 10.0) == ["a"]
    assert watch(records, {"a": record()}, 10.5, 11.0) == []
    assert watch(records, {"a": record(renewed_at=3.0)}, 11.5, 21.5) == ["a"]


def test_a_record_that_was_withdrawn_is_gone_at_once() -> None:
    records = Records(longest_step=1.0)
    assert watch(records, {"a": record(), "b": record(B)}, 0.0, 1.0) == ["a", "b"]
    assert watch(records, {"b": record(B)}, 1.5, 1.5) == ["b"]


@pytest.mark.parametrize("skew", [-86_400.0, 86_400.0])
def test_a_clock_that_is_wrong_expires_nobody_who_is_seen_to_renew(skew: float) -> None:
    records = Records(longest_step=1.0)
    for second in range(1, 100):
        content = record(renewed_at=skew + second - second % 3)
        alive = records.update({"a": content}, float(second), wall=float(second))
        assert second < 4 or ids(alive) == ["a"]


def test_a_reader_that_just_began_believes_the_time_in_the_record() -> None:
    found: dict[str, bytes | None] = {
        "left": record(renewed_at=900.0),
        "there": record(B, renewed_at=995.0),
    }
    records = Records(longest_step=1.0)
    assert ids(records.update(found, 0.0, wall=1000.0)) == ["b"]
    assert watch(records, found, 0.5, 5.0) == ["b"]
    assert watch(records, found, 5.5, 6.0) == []  # five seconds of its ten were over before


def test_a_record_from_the_future_is_as_good_as_new_and_no_better() -> None:
    records = Records(longest_step=1.0)
    found: dict[str, bytes | None] = {"a": record(renewed_at=5000.0)}
    assert ids(records.update(found, 0.0, wall=1000.0)) == ["a"]
    assert watch(records, found, 0.5, 11.0) == []


def test_one_that_comes_later_is_new_whatever_its_clock_says() -> None:
    records = Records(longest_step=1.0)
    records.update({}, 0.0, wall=1000.0)
    assert ids(records.update({"a": record(renewed_at=10.0)}, 0.5, wall=1000.5)) == ["a"]


def test_time_in_which_nobody_looked_counts_against_no_one() -> None:
    """The reader was suspended, or its file system hung: the writers could not be seen, and maybe could not write."""
    records = Records(longest_step=1.0)
    watch(records, {"a": record()}, 0.0, 1.0)
    assert ids(records.update({"a": record()}, 3600.0, wall=3600.0)) == ["a"]
    assert watch(records, {"a": record()}, 3600.5, 3607.0) == ["a"]
    assert watch(records, {"a": record()}, 3607.5, 3609.0) == []


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"id": "a"}', b"\xff"])
def test_a_record_that_cannot_be_read_keeps_its_content_until_it_expires(content: bytes | None) -> None:
    records = Records(longest_step=1.0)
    watch(records, {"a": record()}, 0.0, 1.0)
    assert watch(records, {"a": content}, 1.5, 10.0) == ["a"]
    assert watch(records, {"a": content}, 10.5, 11.0) == []


@pytest.mark.parametrize("content", [None, b"{}"])
def test_a_record_that_never_could_be_read_is_ignored(content: bytes | None) -> None:
    assert watch(Records(longest_step=1.0), {"a": content, "b": record(B)}, 0.0, 1.0) == ["b"]


def test_of_two_records_of_one_id_the_one_renewed_last_counts() -> None:
    moved = Instance(id="a", host="10.9.9.9", port=80)
    old, new = record(A, renewed_at=1.0), record(moved, renewed_at=2.0)
    for found in ({"x": old, "y": new}, {"x": new, "y": old}):
        (instance,) = Records(longest_step=1.0).update(found, 2.0, wall=2.0)
        assert instance.host == "10.9.9.9"


@given(
    renewals=st.lists(st.floats(0.05, TTL / 2), min_size=1, max_size=30),
    skew=st.floats(-1e6, 1e6),
    first=st.floats(0.0, 3.0),
)
def test_who_renews_in_time_is_never_expired_and_who_stops_always_is(renewals, skew, first) -> None:
    """Polled at intervals, with any skew between the two clocks; from the first renewal that was seen."""
    records = Records(longest_step=1.0)
    renewed = [first]
    for gap in renewals:
        renewed.append(renewed[-1] + gap)
    end = renewed[-1]
    now, seen = 0.0, 0
    alive: tuple[Instance, ...] = ()
    while now < end + TTL + 2.0:
        times = [at for at in renewed if at <= now]
        found = {"a": record(renewed_at=skew + times[-1])} if times else {}
        alive = records.update(found, now, wall=now)
        seen = max(seen, len(times))
        if first > 0.0 and first <= now <= end + TTL / 2:
            assert ids(alive) == ["a"]
        now += 0.5
    assert alive == ()


# Files


def test_a_record_file_is_written_read_and_removed(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "registry", A, TTL, "me")
    file.create(5.0)
    (content,) = read_records(tmp_path / "registry").values()
    assert content is not None
    assert Record.decode(content) == Record(instance=A, ttl=TTL, renewed_at=5.0, owner="me")
    file.withdraw()
    assert list((tmp_path / "registry").iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "..", ".", "a/b", ".hidden", "ä ö\n", "x" * 5000, "CON", "a.json"]
)
def test_any_id_is_a_file_in_its_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "registry"
    file = RecordFile(folder, Instance(id=name, host="h", port=1), TTL, "me")
    file.create(5.0)
    (content,) = read_records(folder).values()
    assert content is not None
    assert Record.decode(content).instance.id == name
    assert [path.name for path in tmp_path.iterdir()] == ["registry"]


def test_a_withdrawn_record_stays_away_whatever_was_on_its_way(tmp_path: Path) -> None:
    file = RecordFile(tmp_path, A, TTL, "me")
    file.create(5.0)
    file.withdraw()
    file.write(6.0)
    assert read_records(tmp_path) == {}
    file.withdraw()


def test_a_record_of_another_owner_is_left_alone(tmp_path: Path) -> None:
    """A new process registered under the id before the old one withdrew."""
    old, new = RecordFile(tmp_path, A, TTL, "old"), RecordFile(tmp_path, A, TTL, "new")
    old.create(5.0)
    new.create(6.0)
    old.withdraw()
    assert len(read_records(tmp_path)) == 1
    new.withdraw()
    assert read_records(tmp_path) == {}


def test_what_others_left_long_ago_is_cleared_away(tmp_path: Path) -> None:
    RecordFile(tmp_path, A, TTL, "crashed").create(0.0)
    RecordFile(tmp_path, B, TTL, "crashed a moment ago").create(9_000.0)
    (tmp_path / "broken.json").write_text("{")
    RecordFile(tmp_path, Instance(id="c", host="c", port=1), TTL, "me").create(10_000.0)
    assert sorted(read_records(tmp_path)) == ["b.json", "broken.json", "c.json"]


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    file = RecordFile(tmp_path, A, TTL, "me")
    file.path.mkdir()  # a file cannot replace a folder
    with pytest.raises(OSError, match="directory"):
        file.write(5.0)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_only_records_are_read(tmp_path: Path) -> None:
    RecordFile(tmp_path, A, TTL, "me").create(5.0)
    (tmp_path / ".b.json").write_bytes(record(B))
    (tmp_path / "README").write_text("about this folder")
    (tmp_path / "large.json").write_text(" " * 100_000)
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "withdrawn.json").symlink_to("nowhere")  # as if it went between the list and the read
    found = read_records(tmp_path)
    assert sorted(found) == ["a.json", "folder.json", "large.json"]
    assert found["folder.json"] is found["large.json"] is None


def test_a_folder_with_far_too_many_records_is_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resilient.discovery.records._MOST", 3)
    for number in range(4):
        (tmp_path / f"{number}.json").write_text("{}")
    with pytest.raises(DiscoveryError, match="more than 3 records"):
        read_records(tmp_path)
