"""Cells of lists: HTML, each a function of its row.

They are functions and no templates because a page of a list has hundreds of them: a template for each cost more than
all else on the page.
"""

from __future__ import annotations

from django.contrib.auth.models import User
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from nodes import access
from nodes.models import Node, Token
from nodes.templatetags import kubespan as tags
from nodes.words import count

NOTHING = SafeString("")


def choose(row: Node | Token) -> SafeString:
    """A box to choose a row by, for the form `chosen`."""
    return format_html(
        '<input class="form-check-input" type="checkbox" name="chosen" value="{}" form="chosen" '
        'aria-label="Choose {}">',
        row.pk, row.name,
    )  # fmt: skip


# Of a node; its candidates, obstacles and cluster have been read with it.


def name(node: Node) -> SafeString:
    """Its name, whether it is here, and what else one must know at once."""
    return format_html(
        '<span class="ks-named"><span class="ks-dotted"><span class="ks-state" data-state="{0}" title="{0}">'
        '<span class="dot" aria-hidden="true"></span><span class="visually-hidden">{0}: </span></span>'
        '<a href="{1}">{2}</a></span> {3}{4}</span>',
        "connected" if node.is_here else "away", node.get_absolute_url(), node.name,
        tags.membership(node, kind=False), _findings(node),
    )  # fmt: skip


def _findings(node: Node) -> SafeString:
    if not (found := len(node.obstacles.all())):
        return NOTHING
    return format_html(
        ' <a class="ks-chip" data-tone="warn" href="{}#findings">{}</a>',
        node.get_absolute_url(), count(found, "finding"),
    )  # fmt: skip


def cluster(node: Node) -> SafeString:
    """Its cluster, and where in it the machine stands."""
    site = format_html('<span class="ks-sub">{}</span>', node.site) if node.site else NOTHING
    return format_html('<a href="{}">{}</a>{}', node.cluster.get_absolute_url(), node.cluster.name, site)


def kind(node: Node) -> SafeString | str:
    """What speaks for it."""
    if node.is_talos:
        return "Talos"
    return format_html('agent <span class="ks-sub num">{}</span>', node.agent_version or "—")


def address(node: Node) -> SafeString:
    """Its KubeSpan address, and where WireGuard may find it."""
    return format_html('{}<span class="ks-sub ks-endpoints">{}</span>', tags.address(node.address), _endpoints(node))


def _endpoints(node: Node) -> SafeString:
    first, *others = [row.endpoint for row in node.candidates.all()] or [""]
    if not first:
        return SafeString('<span class="text-secondary">none known</span>')
    if not others:
        return tags.copy(first, "Endpoint")
    return format_html(
        '{} <a class="text-secondary" href="{}" title="{}">+{}'
        '<span class="visually-hidden"> further endpoints</span></a>',
        tags.copy(first, "Endpoint"), reverse("node-endpoints", args=[node.pk]), " ".join([first, *others]),
        len(others),
    )  # fmt: skip


def seen(node: Node) -> SafeString | str:
    """When it was heard of last."""
    if node.is_talos:
        return format_html("left {}", tags.when(node.left_at)) if node.left_at else "in discovery"
    return "connected" if node.session else tags.when(node.last_seen)


def node_deeds(node: Node, user: User) -> SafeString:
    """What somebody may do to it at once."""
    deeds = NOTHING
    if node.status == Node.Status.PENDING and access.may(user, "approve_node", node):
        deeds += _button("approve", node, "btn btn-primary btn-sm", "Approve")
    elif node.session and node.status == Node.Status.APPROVED and access.may(user, "try_again", node):
        title = "Try again: the next endpoint of every peer"
        deeds += _icon_button("try-again", node, title, "refresh", "Try again")
    if node.status != Node.Status.REMOVED and access.may(user, "remove_node", node):
        deeds += _icon_button("remove", node, "Remove", "trash", "Remove")
    return deeds


def token_deeds(token: Token, user: User) -> SafeString:
    """Likewise, to a token."""
    if tags.worthless(token) or not access.may(user, "revoke_token", token):
        return NOTHING
    return _button("revoke", token, "btn btn-outline-danger btn-sm", "Revoke")


def _button(deed: str, row: Node | Token, look: str, label: str) -> SafeString:
    return format_html(
        '<button form="chosen" name="one" value="{} {}" class="{}">{}<span class="visually-hidden"> {}</span></button>',
        deed, row.pk, look, label, row.name,
    )  # fmt: skip


def _icon_button(deed: str, row: Node | Token, title: str, icon: str, label: str) -> SafeString:
    return format_html(
        '<button form="chosen" name="one" value="{} {}" class="ks-icon-button" title="{}">{}'
        '<span class="visually-hidden">{} {}</span></button>',
        deed, row.pk, title, tags.icon(icon, "icon-sm"), label, row.name,
    )  # fmt: skip
