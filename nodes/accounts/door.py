"""The admin's door: the console's own."""

from __future__ import annotations

from django.core.exceptions import PermissionDenied
from django.views.generic import RedirectView


class AdminSignInView(RedirectView):
    """The admin's own way in leads to the console's; whoever is sent here though signed in may not enter."""

    pattern_name = "account_login"
    query_string = True

    def dispatch(self, request, *args, **kwargs):
        if request.user.is_authenticated:
            raise PermissionDenied
        return super().dispatch(request, *args, **kwargs)
