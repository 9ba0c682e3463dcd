"""Small pieces of the pages about signing in."""

from __future__ import annotations

import json
from typing import NamedTuple

from allauth.socialaccount.adapter import get_adapter
from django import template
from django.http import HttpRequest

register = template.Library()


class SignOn(NamedTuple):
    """The way to the provider of single sign-on."""

    name: str
    url: str


@register.filter
def as_json(value: object) -> str:
    """For an attribute, which scripts read: pages have no inline script, not even of data."""
    return json.dumps(value)


@register.simple_tag
def sign_on_link(request: HttpRequest) -> SignOn | None:
    """Where single sign-on begins, and then leads on to where one wanted to go; none where there is none."""
    providers = get_adapter().list_providers(request)
    if not providers:
        return None
    wanted = {"next": request.GET["next"]} if request.GET.get("next") else {}
    return SignOn(providers[0].name, providers[0].get_login_url(request, **wanted))


BROWSERS = (("Edg/", "Edge"), ("OPR/", "Opera"), ("Firefox/", "Firefox"), ("Chrome/", "Chrome"), ("Safari/", "Safari"))
SYSTEMS = (
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("Mac OS", "macOS"),
    ("Linux", "Linux"),
)


@register.filter
def browser(agent: str) -> str:
    """A browser's own words in two or three of ours, as far as they say anything that is known."""
    name = next((name for mark, name in BROWSERS if mark in agent), "")
    system = next((name for mark, name in SYSTEMS if mark in agent), "")
    if not name:
        return agent[:60] or "unknown"
    return f"{name} on {system}" if system else name
