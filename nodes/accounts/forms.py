"""The forms of signing in and of one's own account: django-allauth's, as this console's forms look and speak."""

from __future__ import annotations

from allauth.account import forms as account
from allauth.mfa.base import forms as mfa
from allauth.mfa.totp.forms import ActivateTOTPForm
from allauth.mfa.webauthn import forms as webauthn

from nodes.forms import STRENGTH, Fields


class Spoken(Fields):
    """Our words, without placeholders that stand for a label."""

    labels: dict[str, str] = {}
    hints: dict[str, str] = {}

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for name, field in self.fields.items():
            field.widget.attrs.pop("placeholder", None)
            field.label = self.labels.get(name, field.label)
            field.help_text = self.hints.get(name, "")
        first = next((field for field in self.fields.values() if not field.widget.is_hidden), None)
        if first is not None:
            first.widget.attrs["autofocus"] = True


CODE = {"code": "Code"}
CODE_HINT = {"code": "Six digits from your authenticator app, or one of your recovery codes."}


class SignInForm(Spoken, account.LoginForm):
    """User name and password."""

    labels = {"login": "User name", "password": "Password"}


class ConfirmForm(Spoken, account.ReauthenticateForm):
    """The password once more."""

    labels = {"password": "Password"}


class ChangePasswordForm(Spoken, account.ChangePasswordForm):
    """Another password."""

    labels = {"oldpassword": "Present password", "password1": "New password", "password2": "New password again"}
    hints = {"password1": STRENGTH}


class SetPasswordForm(Spoken, account.SetPasswordForm):
    """A password, for somebody who has single sign-on alone."""

    labels = {"password1": "Password", "password2": "Password again"}
    hints = {"password1": STRENGTH}


class SecondFactorForm(Spoken, mfa.AuthenticateForm):
    """The code of a second factor, after the password."""

    labels, hints = CODE, CODE_HINT


class ConfirmByCodeForm(Spoken, mfa.ReauthenticateForm):
    """The same before something that matters."""

    labels, hints = CODE, CODE_HINT


class ActivateAppForm(Spoken, ActivateTOTPForm):
    """The first code of a new authenticator app."""

    labels = {"code": "Code that the app shows"}


class AddKeyForm(Spoken, webauthn.AddWebAuthnForm):
    """A passkey or security key."""

    labels = {"name": "Name", "passwordless": "Sign in with it alone"}
    hints = {
        "name": "By which you tell it from others, such as “laptop”.",
        "passwordless": "Without name and password; the key then asks for a PIN or a fingerprint.",
    }


class RenameKeyForm(Spoken, webauthn.EditWebAuthnForm):
    """Another name for a key."""

    labels = {"name": "Name"}
