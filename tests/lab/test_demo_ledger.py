"""The check of the database against what the callers know."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing

import pytest

from resilient.lab.demo.ledger import audit, configure, create, insert, rows


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "orders.db"
    create(path)
    return path


def take(database, *numbers):
    with closing(sqlite3.connect(database)) as connection, connection:
        configure(connection)
        for number in numbers:
            insert(connection, number, "A-1", 500, "orders-1")


def test_every_acknowledged_order_that_is_there_once_is_in_order(database):
    take(database, 0, 1, 2)
    found = audit(rows(database), sent=range(3), acknowledged={0, 1, 2})
    assert (found.lost, found.duplicated, found.surplus, found.unknown) == ((), (), 0, ())


def test_an_acknowledged_order_that_is_absent_is_lost(database):
    take(database, 0, 2)
    assert audit(rows(database), sent=range(3), acknowledged={0, 1, 2}).lost == (1,)


def test_an_order_in_two_rows_is_duplicated(database):
    take(database, 0, 1, 1, 1)
    found = audit(rows(database), sent=range(2), acknowledged={0, 1})
    assert found.duplicated == (1,)
    assert found.surplus == 2


def test_an_order_counts_as_duplicated_although_its_caller_was_never_answered(database):
    take(database, 0, 0)
    found = audit(rows(database), sent=range(1), acknowledged=set())
    assert found.duplicated == (0,)
    assert found.lost == ()


def test_orders_of_unknown_outcome_are_told_apart_by_whether_they_took_effect(database):
    take(database, 0, 1)
    found = audit(rows(database), sent=range(4), acknowledged={0})
    assert found.unknown == (1, 2, 3)
    assert found.unknown_done == (1,)
    assert found.lost == ()


@pytest.mark.parametrize(("found", "acknowledged"), [({7: 1}, set()), ({}, {7})])
def test_an_order_that_nobody_sent_is_refused(found, acknowledged):
    with pytest.raises(ValueError, match=r"found=\[7\]: orders that nobody sent"):
        audit(Counter(found), sent=range(3), acknowledged=acknowledged)
