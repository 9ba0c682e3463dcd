"""What is done to many rows of a list at once: chosen by boxes, or all that the list's address leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from django.contrib import messages
from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views import View

from nodes import access
from nodes.filters import NodeFilter
from nodes.forms import LeaveOutForm, TypedCountForm
from nodes.models import Node, Token
from nodes.models.members import NodeQuerySet
from nodes.services import bulk
from nodes.services.bulk import Outcome
from nodes.services.refused import Refused
from nodes.views.common import RoleMixin
from nodes.words import count

SHOWN = 10
"""Refusals, and names of chosen rows, that a page says one by one."""


class Deed(NamedTuple):
    """One thing to do: what its button says, and what is said once it is done to so many."""

    name: str
    action: str
    """As nodes.access calls it."""
    label: str
    icon: str
    done: str
    asks: bool = False
    """Whether a page of its own asks before."""
    destroys: bool = False


NODE_DEEDS = (
    Deed("approve", "approve_node", "Approve", "user-check", "{} approved; their peers hear of it now."),
    Deed("try-again", "try_again", "Try again", "refresh", "{} told to take the next endpoint of every peer."),
    Deed("leave-out", "change_node", "Leave out networks", "route", "Saved for {}.", asks=True),
    Deed(
        "upgrade", "upgrade_agents", "Upgrade agents", "download", "{} to be upgraded, one first in each cluster.",
        asks=True,
    ),
    Deed(
        "remove", "remove_node", "Remove", "trash", "{} removed. Connected members drop them now.",
        asks=True, destroys=True,
    ),
)  # fmt: skip
TOKEN_DEEDS = (
    Deed(
        "revoke", "revoke_token", "Revoke", "key", "{} revoked: they enrol nobody any more.", asks=True, destroys=True
    ),
)


def offered(deeds: Sequence[Deed], user: User) -> list[Deed]:
    """Those that somebody may do in some cluster; in which, the services say."""
    return [deed for deed in deeds if access.may_somewhere(user, deed.action)]


class BulkView(RoleMixin, View):
    """Do it, or ask before. Whether one may, the service says for each row."""

    permission = "enter_console"

    noun: str
    list_name: str
    deeds: Sequence[Deed]

    def chosen(self) -> list[Any]:
        """The rows that the boxes, or the list's address, name."""
        raise NotImplementedError

    def act(self, deed: Deed, chosen: list[Any], form: Any) -> Outcome:
        """Have a service do it; the form is valid where there is one."""
        raise NotImplementedError

    def form(self, deed: Deed, chosen: list[Any], data: Any = None) -> Any:
        """What a page that asks wants to be told besides."""
        return None

    def get(self, request: HttpRequest) -> HttpResponse:
        """A page that asks is not to be had by its address alone."""
        return redirect(self.list_address)

    def post(self, request: HttpRequest) -> HttpResponse:
        name, _, one = request.POST.get("one", "").partition(" ")
        deed = next((deed for deed in self.deeds if deed.name in {name, request.POST.get("deed")}), None)
        if deed is None:
            return redirect(self.list_address)
        chosen = self.chosen() if not one else self.by_keys([one])
        sure = "sure" in request.POST
        form = self.form(deed, chosen, request.POST if sure else None)
        if not chosen:
            messages.error(request, f"Choose at least one {self.noun}.")
            return redirect(self.list_address)
        if deed.asks and not (sure and (form is None or form.is_valid())):
            return self.ask(deed, chosen, form, 400 if sure else 200)
        try:
            outcome = self.act(deed, chosen, form)
        except Refused as refusal:
            if form is None:
                messages.error(request, refusal.reason)
                return redirect(self.list_address)
            form.refuse(refusal)
            return self.ask(deed, chosen, form, refusal.status)
        self.tell(deed, outcome)
        return redirect(self.list_address)

    def ask(self, deed: Deed, chosen: list[Any], form: Any, status: int) -> HttpResponse:
        """The page that says what it will do to whom."""
        context = {
            "deed": deed,
            "noun": self.noun,
            "chosen": chosen,
            "shown": chosen[:SHOWN],
            "more": max(0, len(chosen) - SHOWN),
            "keys": ",".join(str(row.pk) for row in chosen),
            "form": form,
            "list": reverse(self.list_name),
            "back": self.list_address,
        }
        return render(self.request, "lists/ask.html", context, status=status)

    def tell(self, deed: Deed, outcome: Outcome) -> None:
        """Say what became of it: how many, and whose was refused, why."""
        if outcome.done:
            messages.success(self.request, deed.done.format(count(len(outcome.done), self.noun)))
        for name, reason in outcome.refused[:SHOWN]:
            messages.warning(self.request, f"{name}: {reason}")
        if len(outcome.refused) > SHOWN:
            left = count(len(outcome.refused) - SHOWN, "other")
            messages.warning(self.request, f"{left} refused as well.")

    @property
    def list_address(self) -> str:
        """The list, as it was filtered."""
        asked = self.request.GET.urlencode()
        return reverse(self.list_name) + (f"?{asked}" if asked else "")

    def keys(self) -> list[str]:
        """The primary keys that boxes and script name."""
        named = [*self.request.POST.getlist("chosen"), *self.request.POST.get("keys", "").split(",")]
        return list(dict.fromkeys(named))

    def by_keys(self, keys: Sequence[str]) -> list[Any]:
        """These rows, as far as they are there and may be seen."""
        raise NotImplementedError


def decimal(keys: Sequence[str]) -> list[int]:
    """Primary keys; what is none is left out."""
    return [int(key) for key in keys if key.isdecimal() and len(key) < 19]  # noqa: PLR2004 - digits of what databases hold


class NodeBulkView(BulkView):
    """Many nodes."""

    noun = "node"
    list_name = "node-list"
    deeds = NODE_DEEDS

    def visible(self) -> NodeQuerySet:
        """Those that may be chosen."""
        return Node.objects.visible_to(self.request.user).present()

    def chosen(self) -> list[Node]:
        if "all" in self.request.POST:
            rows = self.visible().select_related("cluster")
            return list(NodeFilter(self.request.GET, rows, request=self.request).qs.order_by("name")[: bulk.LIMIT + 1])
        return self.by_keys(self.keys())

    def by_keys(self, keys: Sequence[str]) -> list[Node]:
        rows = self.visible().filter(pk__in=decimal(keys)).select_related("cluster")
        return list(rows.order_by("name")[: bulk.LIMIT + 1])

    def form(self, deed: Deed, chosen: list[Node], data: Any = None) -> Any:
        if deed.name == "remove":
            return TypedCountForm(len(chosen), data)
        return LeaveOutForm(data) if deed.name == "leave-out" else None

    def ask(self, deed: Deed, chosen: list[Any], form: Any, status: int) -> HttpResponse:
        """What asks; one node alone is removed on its own page, which asks for its name."""
        if deed.name != "remove" or len(chosen) > 1:
            return super().ask(deed, chosen, form, status)
        (node,) = chosen
        if not access.may(self.request.user, deed.action, node):
            messages.error(self.request, access.Forbidden(deed.action, node).reason)
            return redirect(self.list_address)
        return redirect(f"{node.get_absolute_url()}?open=remove")

    def act(self, deed: Deed, chosen: list[Node], form: Any) -> Outcome:
        actor, now = self.request.user, timezone.now()
        given = form.cleaned_data if form else {}
        acts: dict[str, Callable[[], Outcome]] = {
            "approve": lambda: bulk.approve_nodes(actor, chosen, now),
            "try-again": lambda: bulk.try_nodes_again(actor, chosen, now),
            "upgrade": lambda: bulk.upgrade_nodes(actor, chosen, now),
            "remove": lambda: bulk.remove_nodes(actor, chosen, given["typed_count"], now),
            "leave-out": lambda: bulk.leave_out(actor, chosen, given["networks"], now, again=given["way"] == "again"),
        }
        return acts[deed.name]()


class TokenBulkView(BulkView):
    """Many enrolment tokens."""

    noun = "token"
    list_name = "token-list"
    deeds = TOKEN_DEEDS

    def visible(self) -> QuerySet[Token]:
        """Those that may be chosen."""
        return Token.objects.visible_to(self.request.user).select_related("cluster")

    def chosen(self) -> list[Token]:
        rows = self.visible()
        return list(rows[: bulk.LIMIT + 1]) if "all" in self.request.POST else self.by_keys(self.keys())

    def by_keys(self, keys: Sequence[str]) -> list[Token]:
        return list(self.visible().filter(pk__in=decimal(keys))[: bulk.LIMIT + 1])

    def act(self, deed: Deed, chosen: list[Token], form: Any) -> Outcome:
        return bulk.revoke_tokens(self.request.user, chosen, timezone.now())
