"""Alerts: webhooks, what they tell, and what became of it."""

from __future__ import annotations

from django.contrib import messages
from django.db.models import Count, OuterRef, Q, Subquery
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache

from nodes import exports
from nodes.alert_forms import WebhookForm
from nodes.forms import TypedNameForm
from nodes.models import Delivery, Webhook
from nodes.notify import KINDS
from nodes.services import alerts, webhooks
from nodes.services.refused import Refused
from nodes.views.lists import export_rows, paginate
from nodes.views.settings.frame import SettingsTab


def standing(webhook: Webhook) -> str:
    """How one stands, in the words of its page."""
    if webhook.disabled_at:
        return "disabled"
    return "failing" if webhook.failures else "delivers" if webhook.arrived else "nothing told yet"


WEBHOOKS = exports.Export(
    "webhooks",
    {
        "name": lambda webhook: webhook.name,
        "host": lambda webhook: webhook.host,
        "format": lambda webhook: webhook.format,
        "state": standing,
        "kinds": lambda webhook: exports.joined(webhook.kinds),
        "clusters": lambda webhook: None if webhook.everywhere else ", ".join(map(str, webhook.clusters.all())),
        "down_seconds": lambda webhook: webhook.down_seconds,
        "waiting": lambda webhook: webhook.waiting,
        "failures": lambda webhook: webhook.failures,
        "last_told": lambda webhook: exports.moment(webhook.arrived),
        "disabled": lambda webhook: exports.moment(webhook.disabled_at),
        "disabled_reason": lambda webhook: webhook.disabled_reason or None,
        "created": lambda webhook: exports.moment(webhook.created),
        "created_by": lambda webhook: webhook.created_by.get_username() if webhook.created_by else None,
    },
)
"""Without address and secret; `clusters` is nothing where it tells of all."""

DELIVERIES = exports.Export(
    "deliveries",
    {
        "id": lambda one: str(one.uuid),
        "created": lambda one: exports.moment(one.created),
        "kind": lambda one: one.kind,
        "text": lambda one: one.text,
        "state": lambda one: one.state,
        "attempts": lambda one: one.attempts,
        "result": lambda one: one.result or None,
        "milliseconds": lambda one: one.milliseconds,
        "ended": lambda one: exports.moment(one.ended),
    },
)


class AlertsView(SettingsTab):
    """All webhooks."""

    tab = "alerts"
    template = "settings/alerts.html"

    def get(self, request):
        last = Delivery.objects.filter(webhook=OuterRef("pk"), state=Delivery.State.DELIVERED)
        waiting = Count("deliveries", filter=Q(deliveries__state=Delivery.State.WAITING))
        rows = Webhook.objects.prefetch_related("clusters").select_related("created_by")
        rows = rows.annotate(waiting=waiting, arrived=Subquery(last.values("ended")[:1])).order_by("name")
        if kind := exports.wanted(request):
            return export_rows(WEBHOOKS, rows, kind)
        return self.show(webhooks=paginate(request, rows), words=KINDS)


@method_decorator(never_cache, name="dispatch")
class WebhookCreateView(SettingsTab):
    """Make one; its secret is shown once."""

    tab = "alerts"
    template = "settings/webhook-create.html"

    def get(self, request):
        return self.show(form=WebhookForm(initial={"kinds": WebhookForm.DEFAULT_KINDS}))

    def post(self, request):
        form = WebhookForm(request.POST)
        if not form.is_valid():
            form.count_faults()
            return self.show(form=form, status=400)
        try:
            webhook, secret = webhooks.create_webhook(request.user, form.wanted(), timezone.now())
        except Refused as refusal:
            form.refuse(refusal)
            return self.show(form=form, status=refusal.status)
        return show_webhook(self, webhook, secret=secret)


@method_decorator(never_cache, name="dispatch")
class WebhookView(SettingsTab):
    """One webhook: how it stands, what it told, and what it is."""

    tab = "alerts"

    def get(self, request, uuid):
        webhook = get_object_or_404(Webhook, uuid=uuid)
        if kind := exports.wanted(request):
            return export_rows(DELIVERIES, webhook.deliveries.all(), kind)
        return show_webhook(self, webhook)

    def post(self, request, uuid):
        webhook = get_object_or_404(Webhook, uuid=uuid)
        form = WebhookForm(request.POST)
        if not form.is_valid():
            form.count_faults()
            return show_webhook(self, webhook, form, 400)
        try:
            webhooks.change_webhook(request.user, webhook.pk, form.wanted(), timezone.now())
        except Refused as refusal:
            form.refuse(refusal)
            return show_webhook(self, webhook, form, refusal.status)
        messages.success(request, f"{webhook.name} is saved; it tells of what happens from now on.")
        return redirect("settings-webhook", uuid)


def show_webhook(
    view: SettingsTab, webhook: Webhook, form: WebhookForm | None = None, status: int = 200, secret: str = ""
) -> HttpResponse:
    """Its page; with a secret that was just made, in a dialog over it."""
    view.template = "settings/webhook.html"
    return view.show(
        status,
        webhook=webhook,
        form=form or WebhookForm(initial=WebhookForm.first(webhook)),
        deliveries=paginate(view.request, webhook.deliveries.all()),
        waiting=webhook.deliveries.filter(state=Delivery.State.WAITING).count(),
        secret=secret,
        kept_days=alerts.KEPT_FOR.days,
        most=alerts.DISABLE_AFTER,
        live_path=f"/live/alerts/{webhook.uuid}",
    )


class WebhookDeed(SettingsTab):
    """Something done to a webhook by a button."""

    tab = "alerts"

    def post(self, request, uuid):
        self.webhook = get_object_or_404(Webhook, uuid=uuid)
        try:
            answer = self.do()
        except Refused as refusal:
            messages.error(request, refusal.reason)
            answer = None
        return answer or redirect("settings-webhook", uuid)

    def do(self) -> HttpResponse | None:
        """Do it, and say so. Raises Refused."""
        raise NotImplementedError


class WebhookTestView(WebhookDeed):
    """Send a message that says that messages arrive."""

    def do(self):
        webhooks.send_test(self.request.user, self.webhook.pk, timezone.now())
        messages.success(self.request, "A test is on its way; what becomes of it is shown below.")


class WebhookDisableView(WebhookDeed):
    """Tell it nothing more."""

    def do(self):
        webhooks.disable_webhook(self.request.user, self.webhook.pk, timezone.now())
        messages.success(self.request, f"{self.webhook.name} is disabled.")


class WebhookEnableView(WebhookDeed):
    """Tell it again."""

    def do(self):
        webhooks.enable_webhook(self.request.user, self.webhook.pk, timezone.now())
        messages.success(self.request, f"{self.webhook.name} is enabled; it tells of what happens from now on.")


@method_decorator(never_cache, name="dispatch")
class WebhookRenewView(WebhookDeed):
    """Make another secret, which is shown once."""

    def do(self):
        webhook, secret = webhooks.renew_secret(self.request.user, self.webhook.pk, timezone.now())
        return show_webhook(self, webhook, secret=secret)


class WebhookDeleteView(WebhookDeed):
    """Let it go."""

    def do(self):
        form = TypedNameForm(self.request.POST)
        typed = form.cleaned_data["typed_name"] if form.is_valid() else ""
        webhooks.delete_webhook(self.request.user, self.webhook.pk, typed, timezone.now())
        messages.success(self.request, f"{self.webhook.name} is deleted.")
        return redirect("settings-alerts")
