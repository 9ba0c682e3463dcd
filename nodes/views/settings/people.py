"""People: who may do what, who is invited, and what is done with an account."""

from __future__ import annotations

from datetime import datetime
from functools import cached_property

from allauth.mfa.models import Authenticator
from django.contrib import messages
from django.contrib.auth.models import User
from django.core.exceptions import BadRequest
from django.db.models import Exists, OuterRef, Prefetch, Q
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.cache import never_cache

from nodes import access, exports
from nodes.forms import InvitationForm, RoleForm
from nodes.models import Audit, Cluster, Grant, Invitation, Role
from nodes.services import invitations, people
from nodes.services.refused import Refused
from nodes.views.common import RoleMixin
from nodes.views.lists import export_one, paginate
from nodes.views.settings.frame import SettingsTab

SHOWN_ACTIVITY = 12
MANAGE = "manage_people"


def managed(user: User) -> Cluster | None:
    """Of whom somebody decides: of all people, or else of those of a cluster; that one, or none."""
    return None if access.may(user, MANAGE) else access.clusters_where(user, MANAGE).first()


def people_for(user: User):
    """Those whom somebody decides about: everybody, or who has a role in their clusters."""
    factors = Authenticator.objects.filter(user=OuterRef("pk"), type__in=people.FACTORS)
    grants = Prefetch("grants", Grant.objects.select_related("cluster").order_by("cluster__name"))
    found = User.objects.prefetch_related(grants).annotate(second_factor=Exists(factors)).order_by("username")
    if access.may(user, MANAGE):
        return found
    return found.filter(pk__in=Grant.objects.filter(cluster__in=access.clusters_where(user, MANAGE)).values("user"))


def _where(cluster: Cluster | None) -> str:
    return cluster.name if cluster else "the whole console"


def roles_of(person: User) -> list[str]:
    """All roles of one of `people_for`, each with where it holds."""
    whole = ["administrator of the whole console"] if person.is_superuser else []
    given = [grant for grant in person.grants.all() if grant.cluster is not None or not whole]
    return whole + [f"{grant.get_role_display()} of {_where(grant.cluster)}" for grant in given]


PEOPLE = exports.Export(
    "people",
    {
        "name": lambda person: person.get_username(),
        "mail_address": lambda person: person.email or None,
        "may_sign_in": lambda person: person.is_active,
        "roles": lambda person: ", ".join(roles_of(person)) or None,
        "second_factor": lambda person: person.second_factor,
        "last_sign_in": lambda person: exports.moment(person.last_login),
        "since": lambda person: exports.moment(person.date_joined),
    },
)


def invited(now: datetime) -> exports.Export:
    """The invitations that wait; the link of one is not kept anywhere."""
    return exports.Export(
        "invitations",
        {
            "name": lambda one: one.name,
            "role": lambda one: one.role,
            "where": lambda one: _where(one.cluster),
            "state": lambda one: one.worthless(now) or "waiting",
            "made": lambda one: exports.moment(one.made),
            "made_by": lambda one: one.made_by,
            "expires": lambda one: exports.moment(one.expires),
        },
    )


def invitations_for(user: User):
    """The invitations that wait, of the clusters that somebody decides about."""
    waiting = Invitation.objects.filter(accepted_at=None, withdrawn_at=None).select_related("cluster")
    if access.may(user, MANAGE):
        return waiting
    return waiting.filter(cluster__in=access.clusters_where(user, MANAGE))


@method_decorator(never_cache, name="dispatch")
class PeopleView(SettingsTab):
    """Everybody, and who is invited; making an invitation, whose link is shown once."""

    tab = "people"
    template = "settings/people.html"
    permission = MANAGE

    @cached_property
    def subject(self):
        return managed(self.request.user)

    def get(self, request):
        if kind := exports.wanted(request):
            files = {
                "people": (PEOPLE, self.people),
                "invitations": (invited(timezone.now()), lambda: invitations_for(request.user)),
            }
            return export_one(request, files, kind)
        return self.show_people(InvitationForm(request.user))

    @property
    def search(self) -> str:
        """What is searched for in names and mail addresses."""
        return self.request.GET.get("q", "").strip()

    def people(self):
        """Those whom the search leaves."""
        found, search = people_for(self.request.user), self.search
        return found.filter(Q(username__icontains=search) | Q(email__icontains=search)) if search else found

    def post(self, request):
        form = InvitationForm(request.user, request.POST)
        if not form.is_valid():
            return self.show_people(form, 400, open="invite")
        given = form.cleaned_data
        try:
            invitation, token = invitations.invite(
                request.user, given["where"], name=given["name"], role=Role(given["role"]),
                lifetime=given["lifetime"], now=timezone.now(),
            )  # fmt: skip
        except Refused as refusal:
            form.refuse(refusal)
            return self.show_people(form, refusal.status, open="invite")
        link = request.build_absolute_uri(reverse("invitation", args=[token]))
        return self.show_people(InvitationForm(request.user), made=invitation, link=link)

    def show_people(self, form, status=200, **context):
        context = {
            "people": paginate(self.request, self.people()),
            "search": self.search,
            "invitations": paginate(self.request, invitations_for(self.request.user), "invitations"),
            "now": timezone.now(),
            "form": form,
        } | context
        return self.show(status, **context)


class PersonPage(SettingsTab):
    """Whatever concerns one person."""

    tab = "people"
    template = "settings/person.html"
    permission = MANAGE
    whole = False
    """Whether it concerns the account itself, and not only roles in clusters."""

    @cached_property
    def subject(self):
        manages = managed(self.request.user)
        if self.whole and manages is not None:
            return None
        return manages

    @cached_property
    def person(self) -> User:
        return get_object_or_404(people_for(self.request.user), pk=self.kwargs["pk"])

    def show_person(self, form, status=200, **context):
        person = self.person
        mine = access.clusters_where(self.request.user, MANAGE)
        whole = access.may(self.request.user, MANAGE)
        context = {
            "person": person,
            "form": form,
            "whole": whole,
            "grants": paginate(self.request, [grant for grant in person.grants.all() if grant.cluster is not None]),
            "console_role": people.console_role(person),
            "mine": set(mine.values_list("pk", flat=True)),
            "activity": Audit.objects.visible_to(self.request.user)
            .filter(actor=person)
            .select_related("cluster", "node")[:SHOWN_ACTIVITY],
        } | context
        return self.show(status, **context)


class PersonView(PersonPage):
    """One person: their roles, and how they sign in; giving them another role."""

    def get(self, request, pk):
        return self.show_person(RoleForm(request.user))

    def post(self, request, pk):
        form = RoleForm(request.user, request.POST)
        if not form.is_valid():
            return self.show_person(form, 400)
        where, role = form.cleaned_data["where"], Role(form.cleaned_data["role"])
        try:
            people.give_role(request.user, where, self.person, role, timezone.now())
        except Refused as refusal:
            form.refuse(refusal)
            return self.show_person(form, refusal.status)
        messages.success(request, f"{self.person} is {role.label} of {where or 'the whole console'} now.")
        return redirect("settings-person", pk)


class PersonDeed(PersonPage):
    """Something done to a person; which, a subclass says."""

    def post(self, request, pk):
        try:
            said = self.do(self.person)
        except Refused as refusal:
            messages.error(request, refusal.reason)
        else:
            messages.success(request, said)
        # Who took somebody's last role in their cluster does not see them any more.
        there = people_for(request.user).filter(pk=pk).exists()
        return redirect("settings-person", pk) if there else redirect("settings-people")

    def do(self, person: User) -> str:
        """Do it; what to say then. Raises Refused."""
        raise NotImplementedError


class RoleTakeView(PersonDeed):
    """Take a role away, in a cluster or in the whole console."""

    def do(self, person):
        uuid = self.request.POST.get("cluster")
        where = None
        if uuid:
            try:
                where = get_object_or_404(access.clusters_where(self.request.user, MANAGE), uuid=uuid)
            except ValueError as error:
                raise BadRequest from error
        people.take_role(self.request.user, where, person, timezone.now())
        return f"{person} has no role of {'cluster ' + where.name if where else 'the whole console'} any more."


class DeactivateView(PersonDeed):
    """Let somebody in no more."""

    whole = True

    def do(self, person):
        people.deactivate(self.request.user, person, timezone.now())
        return f"{person} is signed out everywhere, and cannot sign in any more."


class ActivateView(PersonDeed):
    """Let somebody in again."""

    whole = True

    def do(self, person):
        people.activate(self.request.user, person, timezone.now())
        return f"{person} can sign in again."


class FactorResetView(PersonDeed):
    """Take away second factors that somebody lost."""

    whole = True

    def do(self, person):
        people.reset_second_factor(self.request.user, person, timezone.now())
        return f"{person} signs in without a second factor until they add another."


class WithdrawView(RoleMixin, View):
    """Make an invitation worthless."""

    permission = MANAGE

    @cached_property
    def subject(self):
        return managed(self.request.user)

    def post(self, request, pk):
        invitation = get_object_or_404(invitations_for(request.user), pk=pk)
        try:
            invitations.withdraw(request.user, invitation, timezone.now())
        except Refused as refusal:
            messages.error(request, refusal.reason)
        else:
            messages.success(request, f"The invitation for {invitation.name} lets nobody in any more.")
        return redirect("settings-people")
