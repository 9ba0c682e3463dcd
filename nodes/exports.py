"""Lists as files: CSV for spreadsheets, JSON for programs. Plain values, times as ISO 8601 in UTC, never a secret.

A file has the rows that the list's address asks for, in its order. Its columns are named here, apart from what the
page shows, so that a page can be made prettier without breaking anybody's program.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from html import unescape
from typing import Any

import tablib
from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponse
from django.utils.html import strip_tags

from nodes import words
from nodes.models import Audit, Node
from nodes.templatetags.kubespan import audit_sentence, transition_sentence

PARAMETER = "_export"
WHICH = "list"
"""The parameter that says which list of a page with several; without it, the first."""
LIMIT = 10_000
"""Rows of one file, which is made in memory; of a longer list, the first: filters and sorting say which those are."""
TOTAL = "X-Total-Count"
"""The header that says how many rows there are in all."""

KINDS = {"csv": "text/csv; charset=utf-8", "json": "application/json"}
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Export:
    """What a list's file is called, and its columns, each with how a row gives it."""

    name: str
    columns: Mapping[str, Callable[[Any], Value]]

    def dump(self, rows: Iterable[object], kind: str) -> str:
        """The file's text."""
        plain = [[read(row) for read in self.columns.values()] for row in rows]
        if kind == "csv":
            plain = [[defuse(value) for value in row] for row in plain]
        return str(tablib.Dataset(*plain, headers=list(self.columns)).export(kind)) if plain else self._empty(kind)

    def _empty(self, kind: str) -> str:
        return ",".join(self.columns) + "\r\n" if kind == "csv" else "[]"


def wanted(request: HttpRequest) -> str | None:
    """The kind of file that is asked for; none where it is the page. Raises BadRequest for a kind there is not."""
    kind = request.GET.get(PARAMETER)
    if kind is None or kind in KINDS:
        return kind
    raise BadRequest(f"A list is exported as {' or '.join(KINDS)}.")


def answer(export: Export, rows: Iterable[object], total: int, kind: str, now: datetime) -> HttpResponse:
    """The file, to be kept; `rows` are at most LIMIT of the `total`."""
    response = HttpResponse(export.dump(rows, kind), content_type=KINDS[kind])
    response.headers["Content-Disposition"] = f'attachment; filename="{export.name}-{now:%Y-%m-%d}.{kind}"'
    response.headers["Cache-Control"] = "no-store"
    response.headers[TOTAL] = str(total)
    return response


def defuse(value: Value) -> Value:
    """A text that no spreadsheet runs: machines choose their own names, and a name may be a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def moment(at: datetime | float | None) -> str | None:
    """A time, or Unix time, if there is one."""
    if at is None:
        return None
    return words.moment(datetime.fromtimestamp(at, UTC) if isinstance(at, (int, float)) else at)


def _plain(sentence: str) -> str:
    return unescape(strip_tags(sentence))


def joined(values: Iterable[object]) -> str:
    """Several values in one cell."""
    return " ".join(map(str, values))


def _agent(node: Node) -> str:
    return ("in discovery" if node.is_here else "left") if node.is_talos else "connected" if node.session else "away"


def _configuration(node: Node) -> str | None:
    if node.is_talos or node.status != Node.Status.APPROVED:
        return None
    return "fault" if node.fault else "behind" if node.behind(node.cluster) else "applied"


NODES = Export(
    "nodes",
    {
        "name": lambda node: node.name,
        "cluster": lambda node: node.cluster.name,
        "kind": lambda node: "talos" if node.is_talos else "agent",
        "membership": lambda node: node.status,
        "address": lambda node: node.address,
        "endpoints": lambda node: joined(candidate.endpoint for candidate in node.candidates.all()),
        "networks": lambda node: joined(node.advertised_networks),
        "links_up": lambda node: node.links and node.links.up,
        "links_unknown": lambda node: node.links and node.links.unknown,
        "links_down": lambda node: node.links and node.links.down,
        "agent": _agent,
        "last_seen": lambda node: moment(node.last_seen),
        "configuration": _configuration,
        "applied_revision": lambda node: f"{node.applied_epoch}.{node.applied_number}" if node.applied_epoch else None,
        "revisions_behind": lambda node: node.behind(node.cluster) if node.status == Node.Status.APPROVED else None,
        "fault": lambda node: node.fault or None,
        "version": lambda node: node.agent_version or None,
        "operating_system": lambda node: node.operating_system or None,
        "public_key": lambda node: node.public_key,
        "node_id": lambda node: node.node_id,
        "enrolled": lambda node: moment(node.enrolled),
    },
)

CLUSTERS = Export(
    "clusters",
    {
        "name": lambda cluster: cluster.name,
        "uuid": lambda cluster: str(cluster.uuid),
        "nodes": lambda cluster: cluster.standing.size,
        "connected": lambda cluster: cluster.standing.connected,
        "pending": lambda cluster: cluster.standing.pending,
        "links_up": lambda cluster: cluster.standing.links and cluster.standing.links.up,
        "links_unknown": lambda cluster: cluster.standing.links and cluster.standing.links.unknown,
        "links_down": lambda cluster: cluster.standing.links and cluster.standing.links.down,
        "revision": lambda cluster: str(cluster.current),
        "secret_generation": lambda cluster: cluster.secret_generation,
        "prefix": lambda cluster: cluster.prefix,
        "kubespan": lambda cluster: cluster.kubespan.enabled,
        "discovery": lambda cluster: cluster.kubespan.discovery,
        "created": lambda cluster: moment(cluster.created),
    },
)
"""Without the cluster id, which pages mask."""


def tokens(now: datetime) -> Export:
    """Enrolment tokens, and whether each is worth anything now; the token itself is not kept anywhere."""
    return Export(
        "tokens",
        {
            "name": lambda token: token.name,
            "cluster": lambda token: token.cluster.name,
            "state": lambda token: token.worthless(now) or "usable",
            "used": lambda token: token.used,
            "uses": lambda token: token.uses,
            "expires": lambda token: moment(token.expires),
            "approval_required": lambda token: token.approval_required,
            "created": lambda token: moment(token.created),
            "created_by": lambda token: token.created_by.get_username() if token.created_by else None,
            "last_used": lambda token: moment(token.last_used),
            "revoked": lambda token: moment(token.revoked_at),
        },
    )


TRANSITIONS = Export(
    "transitions",
    {
        "at": lambda row: moment(row.at),
        "cluster": lambda row: row.cluster.name,
        "kind": lambda row: row.kind,
        "node": lambda row: row.node.name if row.node else None,
        "peer": lambda row: row.peer.name if row.peer else None,
        "before": lambda row: row.before or None,
        "after": lambda row: row.after or None,
        "text": lambda row: row.text or None,
        "sentence": lambda row: _plain(transition_sentence(row)),
        "count": lambda row: row.count,
    },
)

AUDITS = Export(
    "audit",
    {
        "at": lambda row: moment(row.at),
        "actor": lambda row: row.actor_name,
        "verb": lambda row: row.verb,
        "object": lambda row: row.target,
        "cluster": lambda row: row.cluster.name if row.cluster else None,
        "node": lambda row: row.node.name if row.node else None,
        "sentence": lambda row: _plain(audit_sentence(row)),
        "details": lambda row: json.dumps(row.details, ensure_ascii=False, sort_keys=True),
    },
)

ACTIVITY = Export(
    "activity",
    {
        "at": lambda row: moment(row.at),
        "actor": lambda row: row.actor_name if isinstance(row, Audit) else None,
        "sentence": lambda row: _plain(audit_sentence(row) if isinstance(row, Audit) else transition_sentence(row)),
    },
)
"""Both kinds together, of one node; nobody is the actor of what changed by itself."""

SERVED = Export(
    "discovery",
    {
        "cluster": lambda kept: kept.cluster.name if kept.cluster else f"Cluster {kept.row.pk}",
        "ours": lambda kept: kept.cluster is not None,
        "affiliates": lambda kept: kept.affiliates,
        "last_used": lambda kept: moment(kept.row.used) if kept.row else None,
    },
)

AFFILIATES = Export(
    "affiliates",
    {
        "id": lambda row: row.id,
        "node": lambda row: row.node.name if row.node else None,
        "seal": lambda row: row.seal.value,
        "bytes": lambda row: row.size,
        "endpoints": lambda row: row.endpoints,
        "speaks_from": lambda row: row.address or None,
        "expires": lambda row: moment(row.expires),
    },
)
"""What the service sees of them; what they say is on the page alone, where each look leaves a row."""
