"""Before something that matters, one shows again who one is: by password, or by a second factor where there is one."""

from __future__ import annotations

from allauth.account.adapter import get_adapter
from allauth.account.internal.flows.reauthentication import did_recently_reauthenticate
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseRedirect
from django.utils.http import urlencode

NOTHING = "You have neither a password nor a second factor here to confirm with. Add one under Settings, Sign-in."


def ask_again(request: HttpRequest, back: str) -> HttpResponseRedirect | None:
    """Where to confirm, and then come back; none where that was done within ACCOUNT_REAUTHENTICATION_TIMEOUT.

    Raises PermissionDenied for somebody who has nothing to confirm with.
    """
    if did_recently_reauthenticate(request):
        return None
    methods = get_adapter().get_reauthentication_methods(request.user)
    if not methods:
        raise PermissionDenied(NOTHING)
    return HttpResponseRedirect(f"{methods[0]['url']}?{urlencode({'next': back})}")
