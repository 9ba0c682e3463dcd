"""Where the pages of the settings are."""

from django.urls import path
from django.views.generic import RedirectView

from nodes.views.settings import about, alerts, api_tokens, keys, people, sign_on

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="settings-about"), name="settings"),
    path("about/", about.AboutView.as_view(), name="settings-about"),
    path("api-tokens/", api_tokens.ApiTokensView.as_view(), name="settings-api-tokens"),
    path("api-tokens/<uuid:uuid>/revoke/", api_tokens.ApiTokenRevokeView.as_view(), name="settings-api-token-revoke"),
    path("alerts/", alerts.AlertsView.as_view(), name="settings-alerts"),
    path("alerts/create/", alerts.WebhookCreateView.as_view(), name="settings-webhook-create"),
    path("alerts/<uuid:uuid>/", alerts.WebhookView.as_view(), name="settings-webhook"),
    path("alerts/<uuid:uuid>/test/", alerts.WebhookTestView.as_view(), name="settings-webhook-test"),
    path("alerts/<uuid:uuid>/disable/", alerts.WebhookDisableView.as_view(), name="settings-webhook-disable"),
    path("alerts/<uuid:uuid>/enable/", alerts.WebhookEnableView.as_view(), name="settings-webhook-enable"),
    path("alerts/<uuid:uuid>/renew/", alerts.WebhookRenewView.as_view(), name="settings-webhook-renew"),
    path("alerts/<uuid:uuid>/delete/", alerts.WebhookDeleteView.as_view(), name="settings-webhook-delete"),
    path("keys/", keys.KeysView.as_view(), name="settings-keys"),
    path("keys/rotate/", keys.KeysRotateView.as_view(), name="settings-keys-rotate"),
    path("people/", people.PeopleView.as_view(), name="settings-people"),
    path("people/<int:pk>/", people.PersonView.as_view(), name="settings-person"),
    path("people/<int:pk>/take/", people.RoleTakeView.as_view(), name="settings-role-take"),
    path("people/<int:pk>/deactivate/", people.DeactivateView.as_view(), name="settings-deactivate"),
    path("people/<int:pk>/activate/", people.ActivateView.as_view(), name="settings-activate"),
    path("people/<int:pk>/second-factor/", people.FactorResetView.as_view(), name="settings-factor-reset"),
    path("sign-on/", sign_on.SignOnView.as_view(), name="settings-sign-on"),
    path("sign-on/check/", sign_on.SignOnCheckView.as_view(), name="settings-sign-on-check"),
    path("invitations/<int:pk>/withdraw/", people.WithdrawView.as_view(), name="settings-withdraw"),
]
