"""How much the database holds, table by table, in one query."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.apps import apps
from django.db import connection, models

from nodes.history.points import MINUTES, QUARTERS
from nodes.models import Console, DiscoveryClock
from nodes.services import alerts, followed, revisions, transitions
from nodes.words import count


def _after(kept: timedelta) -> str:
    return f"after {count(kept.days, 'day')}"


_HISTORY = f"minutes {_after(MINUTES.kept)}, quarters of an hour {_after(QUARTERS.kept)}"

FORGOTTEN = {
    "transition": _after(transitions.TRANSITIONS_KEPT_FOR),
    "delivery": _after(alerts.KEPT_FOR),
    "nodehistory": _HISTORY,
    "linkhistory": _HISTORY,
    "followedlink": f"{_after(followed.LOOKED_FOR)} without a look, where it is up and nobody keeps it",
    "change": f"{_after(revisions.CHANGES_KEPT_FOR)}, but for the newest {revisions.CHANGES_KEPT:,} of a cluster",
    "candidate": "when nobody sees them any more",
}
"""When rows of a table go by themselves; of those that are not named, never."""


SINGLE = (Console, DiscoveryClock)
"""Tables of one row each, which are of no interest here."""


@dataclass(frozen=True)
class Table:
    """A table: what it holds, how many rows, and how many bytes where the database can say."""

    name: str
    rows: int
    estimated: bool
    size: int | None
    forgotten: str


def read_tables() -> list[Table]:
    """Every table of the console, the fullest first."""
    kept = [model for model in apps.get_app_config("nodes").get_models() if model not in SINGLE]
    sizes, estimates = _ask_postgresql(kept) if connection.vendor == "postgresql" else ({}, {})
    exact = _count([model for model in kept if model._meta.db_table not in estimates])
    found = [
        Table(
            name=str(model._meta.verbose_name_plural),
            rows=estimates.get(model._meta.db_table, exact.get(model._meta.db_table, 0)),
            estimated=model._meta.db_table in estimates,
            size=sizes.get(model._meta.db_table),
            forgotten=FORGOTTEN.get(str(model._meta.model_name), "never"),
        )
        for model in kept
    ]
    return sorted(found, key=lambda table: (-table.rows, table.name))


def database_size() -> int:
    """Bytes of the whole database."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT pg_database_size(current_database())")
        else:
            cursor.execute("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()")
        return int(cursor.fetchone()[0])


ESTIMATED_ABOVE = 10_000
"""Rows above which PostgreSQL's own estimate is taken: counting a large history anew for each look would be felt."""


def _ask_postgresql(kept: list[type[models.Model]]) -> tuple[dict[str, int], dict[str, int]]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname, pg_total_relation_size(oid), reltuples::bigint FROM pg_class WHERE relkind = 'r' "
            "AND relnamespace = current_schema()::regnamespace AND relname = ANY(%s)",
            [[model._meta.db_table for model in kept]],
        )
        rows = cursor.fetchall()
    return {name: size for name, size, _ in rows}, {name: n for name, _, n in rows if n > ESTIMATED_ABOVE}


def _count(kept: list[type[models.Model]]) -> dict[str, int]:
    if not kept:
        return {}
    quote = connection.ops.quote_name
    names = [model._meta.db_table for model in kept]
    # Names of tables come from the models, not from outside.
    query = " UNION ALL ".join(f"SELECT %s, COUNT(*) FROM {quote(name)}" for name in names)  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(query, names)
        return {str(name): int(rows) for name, rows in cursor.fetchall()}
