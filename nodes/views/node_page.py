"""One node: its tabs, each of which reads what it shows and no more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, NamedTuple

from django.http import HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.views import View

from nodes import configuration, exports, live
from nodes.forms import NetworksForm, NodeOptionsForm, RenameForm, TypedNameForm
from nodes.history import reading
from nodes.live import Seen
from nodes.models import Audit, Candidate, Change, Node, Transition
from nodes.services import revisions
from nodes.views.common import RoleMixin, add_links, read_live
from nodes.views.history import answer, history_context
from nodes.views.lists import export_one, export_rows, paginate

SHOWN_LATELY = 5
SHOWN_ACTIVITY = 100


class NodePage(RoleMixin, View):
    """Whatever concerns one node."""

    permission = "view_cluster"

    tab = ""
    template = ""
    follows = "/rows"
    """What its socket tells: that rows changed, whereupon the page fetches itself anew; or else the links."""

    @cached_property
    def node(self) -> Node:
        """The node that the address names."""
        nodes = Node.objects.visible_to(self.request.user)
        return get_object_or_404(nodes.select_related("cluster", "token"), pk=self.kwargs["pk"])

    @property
    def subject(self) -> Node:
        return self.node

    def show(self, status: int = 200, **context) -> HttpResponse:
        """The tab in the node's frame; `context` may have forms that were refused, and `open`, the dialog to open."""
        node = self.node
        removed = node.status == Node.Status.REMOVED
        context = {
            "node": node,
            "cluster": node.cluster,
            "tab": self.tab,
            "live_path": f"/live/removal/{node.pk}" if removed else f"/live/node/{node.pk}{self.follows}",
            "options_form": NodeOptionsForm(initial=chosen(node)),
            "rename_form": RenameForm(initial={"name": node.name}),
            "remove_form": TypedNameForm(),
        } | context
        return render(self.request, self.template, context, status=status)


def chosen(node: Node) -> dict[str, str | list[str]]:
    """What an operator has set for it."""
    return {
        "site": node.site,
        "extra_endpoints": node.extra_endpoints,
        "advertised_networks": node.networks,
        "excluded_networks": node.excluded_networks,
    }


class NodeOverviewPage(NodePage):
    """The first tab, and what is sent from any: a refused form is shown here."""

    tab = "overview"
    template = "nodes/overview.html"

    def show(self, status: int = 200, **context) -> HttpResponse:
        node = self.node
        add_links([node])
        lately = {
            "obstacles": list(node.obstacles.all()),
            "waiting": [network for network in node.claimed_networks if network not in node.networks],
            "lately": activity_of(node, SHOWN_LATELY),
            "networks_form": NetworksForm(node),
            "not_cut_off": paginate(self.request, not_cut_off(node)),
            "shut_out": is_shut_out(node),
            **history_context(self.request),
        }
        return super().show(status, **(lately | context))


NOT_CUT_OFF = exports.Export(
    "not-cut-off",
    {name: exports.NODES.columns[name] for name in ("name", "agent", "last_seen", "configuration", "revisions_behind")},
)


class NodeView(NodeOverviewPage):
    """How it stands, in cards of labels and values; its list is of those who may still have it once it is removed."""

    def get(self, request, pk):
        if kind := exports.wanted(request):
            return export_rows(NOT_CUT_OFF, not_cut_off(self.node), kind)
        return self.show(open=request.GET.get("open"))


def activity_of(node: Node, number: int) -> list[Transition | Audit]:
    """What last happened to it, by itself and by people, the newest first."""
    transitions = node.transitions.select_related("cluster", "node", "peer")[:number]
    audits = node.audits.select_related("cluster", "node")[:number]
    return sorted([*transitions, *audits], key=lambda row: row.at, reverse=True)[:number]


def not_cut_off(node: Node) -> list[Node]:
    """Of a removed node: who may still have it as a peer."""
    tombstone = getattr(node, "tombstone", None) if node.status == Node.Status.REMOVED else None
    return list(Node.objects.not_cut_off(tombstone).select_related("cluster")) if tombstone else []


def is_shut_out(node: Node) -> bool:
    """Whether a removed node knows no secret that the cluster still uses."""
    tombstone = getattr(node, "tombstone", None)
    return tombstone is not None and node.cluster.secret_generation != tombstone.secret_generation


class Link(NamedTuple):
    """A peer, and the link with it as either end last reported it."""

    peer: Node
    seen: Seen | None
    back: Seen | None
    """As the peer sees it."""


def _state(seen: Seen | None) -> str:
    return seen.state if seen else "not said"


LINKS = exports.Export(
    "links",
    {
        "peer": lambda link: link.peer.name,
        "state": lambda link: _state(link.seen),
        "state_seen_by_peer": lambda link: _state(link.back),
        "endpoint": lambda link: (link.seen and link.seen.endpoint) or None,
        "last_handshake": lambda link: link.seen and exports.moment(link.seen.handshake),
        "round_trip_seconds": lambda link: link.seen and link.seen.rtt,
        "loss": lambda link: link.seen and link.seen.loss,
        "received": lambda link: link.seen and link.seen.received,
        "sent": lambda link: link.seen and link.seen.sent,
        "reported": lambda link: link.seen and exports.moment(link.seen.at),
    },
)
"""Bytes as WireGuard counts them; loss as a share of 1."""


_RANK = {"down": 0, "unknown": 1, "up": 2, "not said": 3}


def _badness(link: Link) -> tuple[int, ...]:
    """Less is worse: by the end that is worse off, then by the other."""
    return tuple(sorted(_RANK[_state(seen)] for seen in (link.seen, link.back)))


FIGURES = ("handshake", "rtt", "received", "sent")


def arrange(links: Iterable[Link], text: str, sort: str) -> list[Link]:
    """Those whose peer has this in its name, in the order of the page, which a browser makes (live/peers.ts)."""
    turned, by = sort.startswith("-"), sort.removeprefix("-")

    def order(link: Link) -> tuple[Any, str]:
        value = getattr(link.seen, by) if by in FIGURES else () if by == "name" else _badness(link)
        return value, link.peer.name

    def has_none(link: Link) -> bool:
        return by in FIGURES and getattr(link.seen, by, None) is None

    found = [link for link in links if text.strip().lower() in link.peer.name.lower()]
    known = sorted((link for link in found if not has_none(link)), key=order, reverse=turned)
    return [*known, *filter(has_none, found)]


class NodeLinksView(NodePage):
    """Its peers, each link from both ends, live."""

    tab = "links"
    template = "nodes/links.html"
    follows = ""

    def get(self, request, pk):
        if kind := exports.wanted(request):
            asked = request.GET
            return export_rows(LINKS, arrange(self.links(), asked.get("q", ""), asked.get("sort", "")), kind)
        return self.show()

    def links(self) -> list[Link]:
        """With each peer, as both ends said last; the page itself is told the same by its socket."""
        node = self.node
        if node.status != Node.Status.APPROVED:
            return []
        peers = list(Node.objects.approved().filter(cluster=node.cluster_id).exclude(pk=node.pk).order_by("name"))
        seen = read_live(lambda: live.read_links(node), {})
        back = read_live(lambda: live.read_links_to(node, [peer.pk for peer in peers]), {})
        return [Link(peer, seen.get(peer.index), back.get(peer.pk)) for peer in peers]


class Tried(NamedTuple):
    """Where others try the node, and how that goes: peers that have it there now, by what they see."""

    endpoint: str
    candidate: Candidate | None
    """None for an endpoint that peers saw and that nobody told them."""
    up: int
    unknown: int
    down: int
    handshake: datetime | None
    """The last one of all peers there."""

    @property
    def used(self) -> int:
        """How many peers have it there."""
        return self.up + self.unknown + self.down


TRIED = exports.Export(
    "endpoints",
    {
        "endpoint": lambda one: one.endpoint,
        "source": lambda one: one.candidate.source if one.candidate else None,
        "last_seen": lambda one: exports.moment(one.candidate.seen) if one.candidate else None,
        "in_use_by": lambda one: one.used,
        "up": lambda one: one.up,
        "unknown": lambda one: one.unknown,
        "down": lambda one: one.down,
        "last_handshake": lambda one: exports.moment(one.handshake),
    },
)
"""In the order in which others try them; no source stands for what peers alone saw."""


class NodeEndpointsView(NodePage):
    """Where it may be reached, who says so, and at which of them peers have it."""

    tab = "endpoints"
    template = "nodes/endpoints.html"

    def get(self, request, pk):
        node = self.node
        peers = Node.objects.approved().filter(cluster=node.cluster_id).exclude(pk=node.pk)
        pks = list(peers.values_list("pk", flat=True)) if node.status == Node.Status.APPROVED else []
        seen = read_live(lambda: live.read_links_to(node, pks), {})
        tried = count_tries(node.candidates.all(), seen.values())
        if kind := exports.wanted(request):
            return export_rows(TRIED, tried, kind)
        return self.show(tried=paginate(request, tried), reporting=len(seen))


def count_tries(candidates, seen) -> list[Tried]:
    """Endpoints in the order in which others try them, then those at which peers have it all the same."""
    by_endpoint: dict[str, list[Seen]] = {}
    for sight in seen:
        if sight.endpoint:
            by_endpoint.setdefault(sight.endpoint, []).append(sight)
    told = {row.endpoint: row for row in candidates}
    others = sorted(set(by_endpoint) - set(told), key=lambda text: (-len(by_endpoint[text]), text))
    return [_tried(text, told.get(text), by_endpoint.get(text, [])) for text in [*told, *others]]


def _tried(endpoint: str, candidate: Candidate | None, sights: list[Seen]) -> Tried:
    states = Counter(sight.state for sight in sights)
    last = max((sight.handshake for sight in sights if sight.handshake is not None), default=None)
    at = None if last is None else datetime.fromtimestamp(last, UTC)
    return Tried(endpoint, candidate, states["up"], states["unknown"], states["down"], at)


LINES = exports.Export(
    "configuration",
    {
        "what": lambda line: line.label,
        "desired": lambda line: line.desired,
        "applied": lambda line: line.applied,
        "differs": lambda line: line.differs,
    },
)

PEERS = exports.Export(
    "peers",
    {
        "peer": lambda peer: peer.name,
        "member": lambda peer: peer.pk is not None,
        "applied": lambda peer: peer.applied,
        "differs": lambda peer: peer.differs,
    },
)


class NodeConfigurationView(NodePage):
    """What it should have beside what it applied."""

    tab = "configuration"
    template = "nodes/configuration.html"

    def get(self, request, pk):
        node = self.node
        kind = exports.wanted(request)
        if node.is_talos or node.status != Node.Status.APPROVED:
            return export_rows(PEERS, [], kind) if kind else self.show()
        since = read_since(node)
        peers = self.compare(since)
        lines = configuration.compare_options(node.cluster, node, since, options_set_since(node, since))
        if kind:
            return export_one(request, {"peers": (PEERS, lambda: peers), "options": (LINES, lambda: lines)}, kind)
        page = paginate(request, peers)
        return self.show(
            lines=lines,
            page=page,
            desired=describe_peers(node, [peer.pk for peer in page if peer.pk]),
            differing=sum(peer.differs for peer in peers),
            known=since.reaches,
        )

    def compare(self, since: configuration.Since) -> list[configuration.Peer]:
        """Each peer as it should be and as it is."""
        node = self.node
        approved = Node.objects.approved().filter(cluster=node.cluster_id)
        members = [configuration.Member(*row) for row in approved.values_list("pk", "index", "name")]
        gone = dict(
            Node.objects.filter(cluster=node.cluster_id, index__in=since.indexes(Change.Kind.GONE))
            .exclude(status=Node.Status.APPROVED)
            .values_list("index", "name")
        )
        links = read_live(lambda: live.read_links(node), {}) if node.session else {}
        return configuration.compare_peers(node, members, gone, since, set(links) or None)


def read_since(node: Node) -> configuration.Since:
    """The changes that it has yet to apply, as far as the log reaches back."""
    cluster = node.cluster
    if node.applied_epoch != cluster.epoch:
        return configuration.Since((), reaches=False)
    changes = list(cluster.changes.filter(number__gt=node.applied_number).order_by("number"))
    missing = cluster.revision - node.applied_number
    return configuration.Since(changes, reaches=len(changes) >= missing)


def options_set_since(node: Node, since: configuration.Since) -> list[Audit]:
    """Who set the cluster's options since then, and to what."""
    times = [change.at for change in since.changes if change.kind == Change.Kind.OPTIONS]
    if not times:
        return []
    return list(Audit.objects.filter(cluster=node.cluster_id, verb="cluster.options-set", at__gte=min(times)))


def describe_peers(node: Node, pks: list[int]) -> dict[int, object]:
    """What the node should know of these peers, by primary key."""
    excluded = node.cluster.kubespan.exclude_advertised_networks
    peers = Node.objects.filter(pk__in=pks).prefetch_related("candidates")
    return {
        peer.pk: revisions.member(peer, [row.endpoint for row in peer.candidates.all()], excluded) for peer in peers
    }


class NodeHistoryView(NodePage):
    """Its history as charts read it."""

    def get(self, request, pk):
        return answer(reading.node_chart(self.node, reading.parse_span(request.GET.get("span")), timezone.now()))


class NodePeerHistoryView(NodePage):
    """The small lines beside its peers' round trips."""

    def get(self, request, pk):
        return answer(reading.peer_trails(self.node, timezone.now()))


class NodeActivityView(NodePage):
    """What happened to it, by itself and by people."""

    tab = "activity"
    template = "nodes/activity.html"

    def get(self, request, pk):
        node = self.node
        if kind := exports.wanted(request):
            total = node.transitions.count() + node.audits.count()
            return exports.answer(exports.ACTIVITY, activity_of(node, exports.LIMIT), total, kind, timezone.now())
        rows = activity_of(node, SHOWN_ACTIVITY)
        return self.show(page=paginate(request, rows), more=len(rows) == SHOWN_ACTIVITY)
