"""The enrolment dialog."""

from __future__ import annotations

import time

from django.utils import timezone

from nodes import live
from nodes.consumers.base import LEASE_SECONDS, PACE_SECONDS, Gone, MeshConsumer, Sent, those
from nodes.fanout import Watch
from nodes.models import Node, Token
from nodes.pages import Enrolled, EnrolmentDelta, EnrolmentSnapshot, Flushed


class EnrolmentConsumer(MeshConsumer):
    """The enrolment dialog: who came by this token, and how far each is."""

    permission = "create_token"

    def find(self) -> set[int | None]:
        """The cluster of the token of the address."""
        self._uuid = self.scope["url_route"]["kwargs"]["token"]
        self._enrolled: Sent[int, Enrolled] = Sent()
        self._use: Sent[str, tuple[int, str | None]] = Sent()
        return those(Token.objects.filter(uuid=self._uuid).values_list("cluster_id", flat=True))

    def read(self) -> None:
        """Three queries, and two calls to Redis."""
        token = Token.objects.filter(uuid=self._uuid).first()
        if token is None:
            raise Gone
        self._uses = token.uses
        self._use.now = {"use": (token.used, token.worthless(timezone.now()))}
        nodes = list(token.nodes.order_by("pk"))
        summaries = live.read_summaries_of(node.pk for node in nodes)
        tables = dict(live.read_matrix(summaries))
        peers = Node.objects.approved().filter(cluster=token.cluster_id).count()
        self._enrolled.now = {
            node.pk: _enrolled(node, summaries.get(node.pk), tables.get(node.pk), peers) for node in nodes
        }

    def take(self, flushed: Flushed) -> bool:
        """A report of one that is not up yet may say that it is."""
        waiting = {pk for pk, enrolled in self._enrolled.now.items() if enrolled.stage != "up"}
        if any(pk in waiting for pk, _ in flushed.nodes):
            self.look_again()
        return False

    def snapshot(self) -> EnrolmentSnapshot:
        """All of it."""
        nodes, _ = self._enrolled.news()
        self._use.news()
        used, worthless = self._use.now["use"]
        return EnrolmentSnapshot(self.number, time.time(), nodes, used, self._uses, worthless)  # type: ignore[arg-type]

    def delta(self) -> EnrolmentDelta | None:
        """What changed."""
        nodes, _ = self._enrolled.news()
        use, _ = self._use.news()
        if not (nodes or use):
            return None
        used, worthless = self._use.now["use"]
        return EnrolmentDelta(self.number, time.time(), nodes, used if use else None, (worthless or "") if use else "")

    def watch(self) -> Watch:
        """Whoever comes reports fast, so that the first handshake is seen when it happens."""
        return Watch(tuple(self._enrolled.now), PACE_SECONDS, LEASE_SECONDS)


def _enrolled(node: Node, summary: live.Summary | None, table: live.Table | None, members: int) -> Enrolled:
    handshakes = [seen.handshake for _, seen in table.links(live.UP) if seen.handshake] if table else []
    approved = node.status == Node.Status.APPROVED
    if node.status != Node.Status.APPROVED:
        stage = node.status
    elif summary is None:
        stage = "enrolled"
    else:
        stage = "up" if handshakes else "connected"
    first = max(0.0, min(handshakes) - node.enrolled.timestamp()) if handshakes else None
    return Enrolled(node.pk, node.name, stage, first, max(0, members - 1) if approved else members)  # type: ignore[arg-type]
