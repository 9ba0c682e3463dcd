"""Where one signs in, and where one's own account is: of django-allauth's pages those that this console has."""

from allauth.account import views as account
from allauth.mfa.base import views as mfa
from allauth.mfa.recovery_codes import views as codes
from allauth.mfa.totp import views as app
from allauth.mfa.webauthn import views as keys
from allauth.socialaccount import views as social
from allauth.socialaccount.providers.openid_connect import views as openid
from django.urls import path
from django.views.generic import RedirectView

from nodes.accounts import views

own_page = RedirectView.as_view(pattern_name="account")

urlpatterns = [
    path("first/", views.FirstAdministratorView.as_view(), name="first-run"),
    path("login/", views.SignInView.as_view(), name="account_login"),
    path("login/passkey/", keys.login_webauthn, name="mfa_login_webauthn"),
    path("login/second-factor/", mfa.authenticate, name="mfa_authenticate"),
    path("logout/", account.logout, name="account_logout"),
    path("invitation/<str:token>/", views.InvitationView.as_view(), name="invitation"),
    path("account/", views.AccountView.as_view(), name="account"),
    path("account/inactive/", account.account_inactive, name="account_inactive"),
    path("account/sessions/end/", views.SessionEndView.as_view(), name="sessions-end"),
    path("account/password/", account.password_change, name="account_change_password"),
    path("account/password/set/", account.password_set, name="account_set_password"),
    path("account/confirm/", account.reauthenticate, name="account_reauthenticate"),
    path("account/confirm/code/", mfa.reauthenticate, name="mfa_reauthenticate"),
    path("account/confirm/key/", keys.reauthenticate_webauthn, name="mfa_reauthenticate_webauthn"),
    path("account/app/", app.activate_totp, name="mfa_activate_totp"),
    path("account/app/remove/", app.deactivate_totp, name="mfa_deactivate_totp"),
    path("account/codes/", codes.view_recovery_codes, name="mfa_view_recovery_codes"),
    path("account/codes/make/", codes.generate_recovery_codes, name="mfa_generate_recovery_codes"),
    path("account/keys/add/", keys.add_webauthn, name="mfa_add_webauthn"),
    path("account/keys/<int:pk>/", keys.edit_webauthn, name="mfa_edit_webauthn"),
    path("account/keys/<int:pk>/remove/", keys.remove_webauthn, name="mfa_remove_webauthn"),
    # Where django-allauth leads after something is done.
    path("account/second-factor/", own_page, name="mfa_index"),
    path("account/keys/", own_page, name="mfa_list_webauthn"),
    path("account/sessions/", own_page, name="usersessions_list"),
    path("account/sign-on/", own_page, name="socialaccount_connections"),
    path("account/sign-on/unlink/", views.SignOnUnlinkView.as_view(), name="sign-on-unlink"),
    path("account/sign-on/signup/", social.signup, name="socialaccount_signup"),
    path("account/sign-on/cancelled/", social.login_cancelled, name="socialaccount_login_cancelled"),
    path("account/sign-on/error/", social.login_error, name="socialaccount_login_error"),
    path("account/oidc/<str:provider_id>/login/", views.sign_on, name="openid_connect_login"),
    path("account/oidc/<str:provider_id>/login/callback/", openid.callback, name="openid_connect_callback"),
]
