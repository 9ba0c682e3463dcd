"""Whoever must have a second factor and has none may do nothing else but add one (SECOND_FACTOR)."""

from __future__ import annotations

from django.conf import settings
from django.shortcuts import redirect
from django.urls import reverse
from django_htmx.http import HttpResponseClientRedirect

from nodes.services import people

OPEN = ("/account/", "/logout/", "/login/", "/static/", "/agent/", "/discovery/stats/")
"""Where one may go without: to add one, to leave, and what is for machines."""


def middleware(get_response):
    """Lead to where a second factor is added."""

    def lead(request):
        if settings.SECOND_FACTOR == "optional" or request.path.startswith(OPEN):
            return get_response(request)
        if request.user.is_authenticated and people.lacks_second_factor(request.user):
            target = reverse("account")
            return HttpResponseClientRedirect(target) if request.headers.get("HX-Request") else redirect(target)
        return get_response(request)

    return lead
