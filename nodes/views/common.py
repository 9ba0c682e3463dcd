"""What all pages share: who may come in, and what Redis knows of nodes just now."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import redis
import structlog
from django.contrib.auth.mixins import LoginRequiredMixin, UserPassesTestMixin
from django.contrib.auth.views import redirect_to_login
from django_htmx.http import HttpResponseClientRedirect

from nodes import live
from nodes.models import Node
from nodes.words import LinkCounts

log = structlog.get_logger(__name__)

PAGE_SIZE = 25

T = TypeVar("T")


class OperatorMixin(LoginRequiredMixin, UserPassesTestMixin):
    """Signed in, and of the staff; others are told so instead of being sent to sign in again and again."""

    raise_exception = False

    def test_func(self) -> bool:
        return self.request.user.is_staff

    def handle_no_permission(self):
        self.raise_exception = self.request.user.is_authenticated
        response = super().handle_no_permission()
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


def summaries(nodes: Iterable[Node]) -> dict[int, live.Summary]:
    """The last summaries of connected nodes, in one call to Redis."""
    pks = [node.pk for node in nodes]
    return read_live(lambda: live.read_summaries_of(pks), {})


def link_counts(summary: live.Summary | None) -> LinkCounts:
    """A summary's counts; of a node that said nothing, none."""
    return LinkCounts(summary.up, summary.unknown, summary.down) if summary else LinkCounts()


def add_links(nodes: Iterable[Node]) -> None:
    """Give each node its `links`, for templates."""
    known = summaries(nodes := list(nodes))
    for node in nodes:
        node.links = link_counts(known.get(node.pk))
