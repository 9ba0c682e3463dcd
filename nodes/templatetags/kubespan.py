"""Small pieces that every page uses: icons, times, states, text to copy."""

from __future__ import annotations

import re
from datetime import datetime
from functools import cache
from ipaddress import ip_address

from django import template
from django.db.models import Model
from django.db.models.options import Options
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from kubespan.core.duration import age
from kubespan.core.rotation import Standing
from nodes import access, sentences, words
from nodes.models import Audit, Cluster, Node, Rotation, Token, Transition
from nodes.words import LinkCounts, count, relative

register = template.Library()

SHORT_KEY = 10


@register.simple_tag
@cache
def icon(name: str, extra: str = "") -> SafeString:
    """An icon of the sprite (frontend/src/icons.json); decoration only, so it has no name of its own.

    Each is kept: a page has a hundred, and the sprite stays where it is for as long as the process lives.
    """
    return format_html(
        '<svg class="icon {}" aria-hidden="true" focusable="false"><use href="{}#{}"></use></svg>',
        extra, static("nodes/icons.svg"), name,
    )  # fmt: skip


@register.simple_tag
def when(at: datetime | None, missing: str = "never") -> SafeString | str:
    """A time as distance from now, the exact one on hover and for screen readers; the page keeps it fresh."""
    if at is None:
        return missing
    exact = at.astimezone(timezone.get_current_timezone())
    return format_html(
        '<time datetime="{}" data-relative>{}</time>',
        exact.isoformat(timespec="seconds"), relative((timezone.now() - at).total_seconds()),
    )  # fmt: skip


@register.simple_tag
def state(kind: str, text: str = "", since: datetime | None = None) -> SafeString:
    """A state by shape, word and colour, with its age where it is known."""
    old = format_html(' <span class="age">{}</span>', when(since)) if since else ""
    return format_html(
        '<span class="ks-state" data-state="{}"><span class="dot" aria-hidden="true"></span><span>{}</span>{}</span>',
        kind, text or kind, old,
    )  # fmt: skip


@register.simple_tag
def presence(node: Node) -> SafeString:
    """Whether the agent is connected, and since when; of a Talos machine, whether discovery lists it."""
    if node.is_talos:
        return state("away", "left discovery", node.left_at) if node.left_at else state("connected", "in discovery")
    if node.session:
        return state("connected", "connected", node.connected_at)
    if node.last_seen is None:
        return state("away", "never connected")
    return state("away", "away since", node.last_seen)


CONSEQUENCES = {
    (Standing.AWAY, True): "Has it, and is cut off from the switch until it reconnects",
    (Standing.AWAY, False): "Is cut off from the switch until it reconnects, and gets it then at once",
    (
        Standing.TOO_OLD,
        False,
    ): "Its agent cannot keep two secrets, and gets the new one with the switch",
    (Standing.WAITING, False): "Was given it, and has not said yet that it stored it",
}


@register.simple_tag
def consequence(node: Node, stand: Standing, rotation: Rotation) -> str:
    """What a switch now would mean to a machine that is not ready."""
    if node.is_talos:
        return "Is cut off from the switch until its own configuration names the new secret"
    has_it = node.secret_kept == rotation.generation
    return CONSEQUENCES[stand, has_it and stand is Standing.AWAY]


@register.simple_tag
def configuration(node: Node, cluster: Cluster) -> SafeString:
    """Whether what the node applied is its cluster's newest revision."""
    if node.is_talos:
        return state("none", "by Talos")
    if node.status != Node.Status.APPROVED:
        return state("none", "nothing to apply")
    if node.fault:
        return state("fault", "could not be applied")
    if not node.applied_epoch:
        return state("behind", "nothing applied yet")
    behind = node.behind(cluster)
    return state("behind", f"behind by {count(behind, 'revision')}") if behind else state("applied")


@register.simple_tag
def membership(node: Node, kind: bool = True) -> SafeString:  # noqa: FBT001, FBT002 - templates give no names
    """Whether it may take part, and with `kind` whose it is; nothing where that goes without saying."""
    tones = {
        Node.Status.PENDING: ("warn", "pending approval"),
        Node.Status.LEFT: ("", "left"),
        Node.Status.REMOVED: ("", "removed"),
    }
    chips = [("info", "Talos")] if kind and node.is_talos else []
    if node.status in tones:
        chips.append(tones[Node.Status(node.status)])
    return format_html_join(" ", '<span class="ks-chip" data-tone="{}">{}</span>', chips)


@register.simple_tag
def copy(text: object, name: str = "Text", shown: str = "") -> SafeString:
    """Text that one click copies; shortened where `shown` says so, whole on hover."""
    return format_html(
        '<button type="button" class="ks-copy" data-copy="{}" data-copy-name="{}" title="Copy {}">'
        "<span>{}</span>{}</button>",
        text, name, text, shown or text, icon("copy", "icon-sm"),
    )  # fmt: skip


@register.simple_tag
def address(text: str) -> SafeString:
    """A KubeSpan address by its last 64 bits, which tell a cluster's machines apart; whole on hover and when copied."""
    groups = ip_address(text).exploded.split(":")[4:]
    return copy(text, "Address", "…:" + ":".join(f"{int(group, 16):x}" for group in groups))


@register.simple_tag
def key(text: str, name: str = "Key") -> SafeString:
    """A public key, shortened; whole on hover and when copied."""
    return copy(text, name, f"{text[:SHORT_KEY]}…")


@register.simple_tag
def bar(counts: LinkCounts | None) -> SafeString:
    """Links by state as one bar, empty where they cannot be read; drawn with attributes: no inline style is allowed."""
    parts, at = SafeString(""), 0.0
    for name, share in counts.shares() if counts else ():
        parts += format_html('<rect class="{}" x="{}%" width="{}%" height="100%"></rect>', name, round(at, 2), share)
        at += share
    label = "cannot be read just now" if counts is None else counts.sentence() if counts.all else "no links told of yet"
    return format_html('<svg class="ks-bar" role="img" aria-label="{}">{}</svg>', label, parts)


@register.simple_tag
def links(counts: LinkCounts | None) -> SafeString:
    """How many of a node's links are up, beside the worst state of any; a dash where nothing is known."""
    if counts is None or not counts.all:
        return SafeString('<span class="text-secondary">—</span>')
    down = f", {counts.down:,} down" if counts.down else ""
    return format_html(
        '<span class="ks-state" data-state="{}"><span class="dot" aria-hidden="true"></span>'
        '<span class="num">{} of {}{}</span></span>',
        counts.worst, f"{counts.up:,}", f"{counts.all:,}", down,
    )  # fmt: skip


@register.filter
def in_state(counts: LinkCounts | None, state: str) -> str:
    """How many links are in a state; a dash where nothing is known of any."""
    return f"{getattr(counts, state):,}" if counts is not None and counts.all else "—"


@register.filter
def number(value: int) -> str:
    """A count as people read it: `1,000`."""
    return f"{value:,}"


@register.filter
def plural(value: int, noun: str) -> str:
    """A count with its noun."""
    return count(value, noun)


@register.filter
def seconds(value: float) -> str:
    """A number of seconds in its largest units."""
    return age(value)


@register.filter
def clock(skew: float | None) -> str:
    """How a machine's clock differs from ours; empty where that is of no matter."""
    return words.clock(skew)


@register.simple_tag(takes_context=True)
def pending_nodes(context: template.Context) -> int:
    """How many nodes wait for an operator: the navigation's count."""
    return Node.objects.visible_to(context["request"].user).pending().count()


@register.simple_tag(takes_context=True)
def may(context: template.Context, action: str, subject: Model | None = None) -> bool:
    """Whether who looks at the page may do that: `{% may "approve_node" node as can_approve %}`."""
    return access.may(context["request"].user, action, subject)


@register.filter
def admin_changelist(opts: Options) -> str:
    """The name of the address at which the admin lists a model."""
    return f"admin:{opts.app_label}_{opts.model_name}_changelist"


@register.simple_tag(takes_context=True)
def query(context: template.Context, name: str, value: object = None) -> str:
    """The page's own address with one parameter set, or taken away; it begins with the first page again."""
    changed = context["request"].GET.copy()
    for gone in {name, "page"}:
        changed.pop(gone, None)
    if value is not None:
        changed[name] = str(value)
    return f"?{changed.urlencode()}"


def _link(subject: object, name: str) -> SafeString | str:
    return format_html('<a href="{}">{}</a>', subject.get_absolute_url(), name) if subject else name


TONES = {"up": "ks-good", "connected": "ks-good", "down": "ks-bad", "unknown": "ks-warn", "away": "ks-warn"}


@register.simple_tag
def transition_tone(row: Transition) -> str:
    """The colour of what changed."""
    if row.kind in {Transition.Kind.FAULT, Transition.Kind.CAPPED}:
        return "ks-bad"
    return "ks-mute" if row.before == row.after else TONES.get(row.after, "ks-mute")


@register.simple_tag
def transition_icon(row: Transition) -> SafeString:
    """The sign of what changed."""
    names = {"node": "server-2", "drift": "refresh", "fault": "alert-triangle", "capped": "alert-triangle"}
    return icon(names.get(row.kind, "link-off" if row.after == "down" else "link"))


@register.simple_tag
def transition_sentence(row: Transition) -> SafeString:
    """What changed by itself, as a sentence with links."""
    node = _link(row.node, row.node.name if row.node else "a node")
    if row.kind == Transition.Kind.LINK:
        peer = _link(row.peer, row.peer.name if row.peer else "a node")
        if row.before == row.after:
            return format_html("{} sees {} elsewhere: {}", node, peer, row.text or row.after)
        return format_html(
            "{} sees {} {} (was {}){}", node, peer, row.after, row.before, f": {row.text}" if row.text else ""
        )
    if row.kind == Transition.Kind.NODE:
        words = {"connected": "has connected", "away": "is away"}
        return format_html("{} {}{}", node, words.get(row.after, row.after), f": {row.text}" if row.text else "")
    if row.kind == Transition.Kind.CAPPED:
        return format_html("{}: {}", count(row.count, "further change"), row.text)
    word = "healed a drift" if row.kind == Transition.Kind.DRIFT else "met a fault"
    return format_html("{} {}: {}", node, word, row.text)


@register.simple_tag
def audit_icon(row: Audit) -> SafeString:
    """The sign of what was done."""
    return icon(sentences.icon_of(row.verb))


THEIRS = re.compile(r" (as|for|from|of|to)$")
"""What leads on to whose account it was; of one's own that goes without saying."""


@register.simple_tag
def audit_sentence(row: Audit) -> SafeString:
    """Who did what, as a sentence with links."""
    noun = row.verb.partition(".")[0]
    if row.verb == "node.enrolled":
        return format_html("{} enrolled in {}", _link(row.node, row.target), _link(row.cluster, str(row.cluster or "")))
    subject = row.node if noun == "node" else row.cluster if noun in {"cluster", "rollout"} else None
    deed = sentences.deed(row.verb)
    if noun == "user" and row.target == row.actor_name:
        return format_html("<strong>{}</strong> {}", row.actor_name, THEIRS.sub("", deed))
    where = ""
    if row.cluster and row.cluster != subject:
        where = format_html(" in {}", _link(row.cluster, row.cluster.name))
    return format_html("<strong>{}</strong> {} {}{}", row.actor_name, deed, _link(subject, row.target), where)


@register.simple_tag
def worthless(token: Token) -> str:
    """Why a token enrols nobody any more; empty while it does."""
    return token.worthless(timezone.now()) or ""


@register.simple_tag
def token_state(token: Token) -> SafeString:
    """When a token expires, or why it is worthless already."""
    why = worthless(token)
    if why and why != "expired":
        return format_html('<span class="ks-chip">{}</span>', why.replace("-", " "))
    if why:
        return format_html('<span class="ks-chip">expired</span> {}', when(token.expires))
    return format_html("{}", when(token.expires))
