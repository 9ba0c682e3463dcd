"""What all pages share: who may come in, and what Redis knows of nodes just now."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TypeVar

import redis
import structlog
from django.contrib.auth.mixins import AccessMixin
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django_htmx.http import HttpResponseClientRedirect

from nodes import access, live
from nodes.models import Node
from nodes.seen import SeenLinks
from nodes.standing import AnyNode, link_counts

log = structlog.get_logger(__name__)

PAGE_SIZE = 25

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

T = TypeVar("T")


class RoleMixin(AccessMixin):
    """Signed in, and with the role that the page needs; who has another is told which, and who can give it.

    Names of actions are nodes.access.ACTIONS'. A page that names none is for the console's administrators.
    """

    permission = "manage_console"
    """What opening the page needs."""

    post_permission = ""
    """What sending its form needs, where that is more."""

    @cached_property
    def subject(self) -> Model | None:
        """The row that the page is about; raises Http404 where there is none that may be seen."""
        return None

    def dispatch(self, request, *args, **kwargs):
        if not request.user.is_authenticated:
            return self.handle_no_permission()
        reading = request.method in SAFE_METHODS
        needed = self.permission if reading else self.post_permission or self.permission
        subject = self.subject
        if not access.may(request.user, needed, subject):
            raise PermissionDenied(access.Forbidden(needed, subject).reason)
        return super().dispatch(request, *args, **kwargs)

    def handle_no_permission(self):
        response = redirect_to_login(self.request.get_full_path())
        if self.request.htmx:
            # A fragment must not become the sign-in page: the whole page goes there, and comes back.
            return HttpResponseClientRedirect(redirect_to_login(self.request.htmx.current_url_abs_path or "/").url)
        return response


def read_live(read: Callable[[], T], otherwise: T) -> T:
    """What Redis knows, or `otherwise` while it is away: pages then show the rows alone."""
    try:
        return read()
    except redis.RedisError as error:
        log.warning("live state cannot be read", error=str(error))
        return otherwise


def summaries(nodes: Iterable[AnyNode]) -> dict[int, live.Summary] | None:
    """The last summaries of connected nodes, in one call to Redis; while it is away none, which is not {}."""
    pks = [node.pk for node in nodes]
    return read_live(lambda: live.read_summaries_of(pks), None)


def add_links(nodes: Iterable[Node]) -> None:
    """Give each node its `links`, for templates; none while they cannot be read.

    They are as it says itself, or, of a Talos machine, as its peers say.
    """
    nodes = list(nodes)
    known, seen = summaries(nodes), read_live(lambda: SeenLinks(nodes).summaries(), None)
    said = None if known is None or seen is None else known | seen
    for node in nodes:
        node.links = None if said is None else link_counts(said.get(node.pk))
