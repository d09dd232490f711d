"""Statements on a connection that is the user's own, inside the transaction that is open on it.

What has to be committed together with an effect is written through whatever the effect is written through: a
`sqlite3.Connection`, a connection of psycopg, blocking or asynchronous, or a connection or session of SQLAlchemy. None
of these packages is imported here: whoever passes a connection has done that.

A connection that commits each statement by itself is refused: the effect and what is written beside it would be torn.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from resilient.backends.outbox import Plan, Rows, Statement

__all__ = ["is_asynchronous", "perform", "perform_any", "perform_async"]

T = TypeVar("T")

_NAME = re.compile(r"(?<!:):([a-z_]+)")
_BEGIN = "BEGIN IMMEDIATE"
_NO_TRANSACTION = (
    "the connection commits each statement by itself: begin a transaction first, or what is written here is not "
    "committed together with the effect"
)


def perform(connection: Any, plan: Plan[T]) -> T:
    """Carry out a plan through a blocking connection. Raises `TypeError` for anything else."""
    if is_asynchronous(connection):
        raise TypeError(f"{connection!r} is asynchronous: use the method whose name ends in `_async`")
    execute = _execution(connection)
    try:
        statement = next(plan)
        while True:
            statement = plan.send(execute(connection, statement))
    except StopIteration as stop:
        result: T = stop.value
        return result


async def perform_async(connection: Any, plan: Plan[T]) -> T:
    """Carry out a plan through an asynchronous connection. Raises `TypeError` for anything else."""
    if not is_asynchronous(connection):
        raise TypeError(f"{connection!r} is not asynchronous: use the method whose name does not end in `_async`")
    execute = _execute_psycopg_async if _package(connection) == "psycopg" else _execute_sqlalchemy_async
    try:
        statement = next(plan)
        while True:
            statement = plan.send(await execute(connection, statement))
    except StopIteration as stop:
        result: T = stop.value
        return result


def perform_any(connection: Any, plan: Plan[T]) -> T | Awaitable[T]:
    """Carry out a plan through a connection of either kind: the result is to be awaited where the connection is."""
    return perform_async(connection, plan) if is_asynchronous(connection) else perform(connection, plan)


def is_asynchronous(connection: Any) -> bool:
    """Whether the connection's statements have to be awaited."""
    return inspect.iscoroutinefunction(getattr(connection, "execute", None))


def _execution(connection: Any) -> Callable[[Any, Statement], Rows]:
    match _package(connection):
        case "sqlite3":
            return _execute_sqlite
        case "psycopg":
            return _execute_psycopg
        case "sqlalchemy":
            return _execute_sqlalchemy
        case _:
            raise TypeError(
                f"connection={connection!r}: a connection of sqlite3 or psycopg, or a connection or session of "
                "SQLAlchemy"
            )


def _package(connection: Any) -> str:
    """Where the connection's class comes from, whatever class of the user's it was given."""
    packages = [kind.__module__.partition(".")[0] for kind in type(connection).__mro__]
    known = {"psycopg", "sqlalchemy", "sqlite3"}
    return next((package for package in packages if package in known), packages[0])


def _execute_sqlite(connection: Any, statement: Statement) -> Rows:
    if _begins(connection):
        connection.execute(_BEGIN)
    cursor = connection.cursor()
    cursor.row_factory = None  # the user's own is for the user's own rows
    cursor.execute(statement.sql, statement.values)
    return Rows(cursor.fetchall(), cursor.rowcount)


def _begins(connection: Any) -> bool:
    """Whether a transaction is to be begun on a connection of sqlite3, which does that by itself only at an INSERT."""
    if connection.in_transaction:
        return False
    # From 3.12 on there is `autocommit`; where it is False a transaction is always open.
    if connection.isolation_level is None or getattr(connection, "autocommit", False) is True:
        raise RuntimeError(_NO_TRANSACTION)
    return True


def _execute_psycopg(connection: Any, statement: Statement) -> Rows:
    _check_psycopg(connection)
    cursor = connection.cursor(row_factory=_plain_rows())
    cursor.execute(*_for_psycopg(statement))
    return Rows(cursor.fetchall() if cursor.description else (), cursor.rowcount)


async def _execute_psycopg_async(connection: Any, statement: Statement) -> Rows:
    _check_psycopg(connection)
    cursor = connection.cursor(row_factory=_plain_rows())
    await cursor.execute(*_for_psycopg(statement))
    return Rows(await cursor.fetchall() if cursor.description else (), cursor.rowcount)


def _plain_rows() -> Any:
    from psycopg.rows import tuple_row

    return tuple_row


def _check_psycopg(connection: Any) -> None:
    from psycopg.pq import TransactionStatus

    if connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE:
        raise RuntimeError(_NO_TRANSACTION)


def _for_psycopg(statement: Statement) -> tuple[str, Any]:
    return _NAME.sub(r"%(\1)s", statement.sql.replace("%", "%%")), statement.values


def _execute_sqlalchemy(connection: Any, statement: Statement) -> Rows:
    # A session knows its connection.
    connection = connection.connection() if hasattr(connection, "get_bind") else connection
    if _check_sqlalchemy(connection, connection.connection.driver_connection):
        connection.exec_driver_sql(_BEGIN)
    return _read_sqlalchemy(connection.execute(_text(statement), statement.values))


async def _execute_sqlalchemy_async(connection: Any, statement: Statement) -> Rows:
    connection = await connection.connection() if hasattr(connection, "get_bind") else connection
    raw = await connection.get_raw_connection()
    if _check_sqlalchemy(connection.sync_connection, raw.driver_connection):
        await connection.exec_driver_sql(_BEGIN)
    return _read_sqlalchemy(await connection.execute(_text(statement), statement.values))


def _text(statement: Statement) -> Any:
    from sqlalchemy import text

    return text(statement.sql)


def _check_sqlalchemy(connection: Any, driver_connection: Any) -> bool:
    """Whether a transaction has to be begun by hand."""
    if connection.dialect.name == "sqlite":
        return _begins(driver_connection)
    if _package(driver_connection) == "psycopg":
        _check_psycopg(driver_connection)
    elif connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        raise RuntimeError(_NO_TRANSACTION)
    return False


def _read_sqlalchemy(result: Any) -> Rows:
    return Rows([tuple(row) for row in result] if result.returns_rows else (), result.rowcount)
