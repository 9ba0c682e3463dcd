"""What pages say of affiliates."""

from __future__ import annotations

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from kubespan.core.affiliate import Affiliate
from nodes.services.inspection import Listed, Seal
from nodes.templatetags.kubespan import copy, state

register = template.Library()

SHORT_ID = 12

SEALS = {
    Seal.OPENS: ("up", "opens"),
    Seal.PARTLY: ("unknown", "opens; one of its endpoints is damaged"),
    Seal.STRANGE: ("down", "another secret, or changed"),
    Seal.DAMAGED: ("down", "damaged"),
    Seal.EMPTY: ("none", "only others spoke of it"),
    Seal.CLOSED: ("none", "sealed"),
}

NO_NODE = {
    "no-kubespan": "no node: without KubeSpan",
    "address": "no node: its KubeSpan address is not of this cluster",
    "id": "no node: its id cannot be shown",
    "removed": "no node: it was removed here",
    "duplicate": "no node: another one has its key or address",
    "crowded": "no node: too many wait for a yes already",
}


@register.simple_tag
def seal(row: Listed) -> SafeString:
    """Whether it opens with the secret that is held here."""
    return state(*SEALS[row.seal])


@register.simple_tag
def whose(row: Listed) -> SafeString | str:
    """Which node it is, or what keeps it from being one."""
    if row.node is not None:
        kind = "" if row.node.is_talos else " (published from here)"
        return format_html('<a class="ks-inline" href="{}">{}</a>{}', row.node.get_absolute_url(), row.node.name, kind)
    if row.seal in {Seal.OPENS, Seal.PARTLY}:
        return NO_NODE.get(row.why, "not a node yet")
    return "not known"


@register.simple_tag
def affiliate_id(text: str) -> SafeString:
    """An affiliate's id, shortened where it is long; whole on hover and when copied."""
    return copy(text, "Affiliate id", text if len(text) <= SHORT_ID + 1 else f"{text[:SHORT_ID]}…")


@register.simple_tag
def facts(affiliate: Affiliate) -> list[tuple[str, str]]:
    """What an affiliate says, each with its name; what it does not say is left out."""
    said = [
        ("Node name", affiliate.nodename),
        ("Host name", affiliate.hostname),
        ("Machine type", affiliate.machine_type),
        ("Operating system", affiliate.operating_system),
        ("Addresses", ", ".join(map(str, affiliate.addresses))),
        ("KubeSpan address", str(affiliate.address or "")),
        ("Public key", affiliate.public_key),
        ("Endpoints", ", ".join(map(str, affiliate.endpoints))),
        ("Networks behind it", ", ".join(map(str, affiliate.additional_addresses))),
        ("Networks left out", ", ".join(map(str, affiliate.exclude_advertised_networks))),
        ("API server", f"port {affiliate.api_server_port}" if affiliate.api_server_port else ""),
    ]
    return [(name, text) for name, text in said if text]
