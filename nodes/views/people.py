"""Getting in: the first administrator, signing in."""

from __future__ import annotations

import hashlib

import redis
import structlog
from django.contrib import messages
from django.contrib.auth import get_user_model, login
from django.contrib.auth.views import LoginView
from django.core.cache import cache
from django.core.exceptions import PermissionDenied
from django.http import Http404
from django.shortcuts import redirect
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from django.views.generic import FormView, RedirectView

from nodes.counters import count
from nodes.forms import FirstAdministratorForm
from nodes.services import people
from nodes.services.refused import Refused

ATTEMPTS = 10
"""Failed attempts from one address at one name, after which that pair waits; both may be shared by the innocent."""
WAIT_SECONDS = 300

log = structlog.get_logger(__name__)


@method_decorator(never_cache, name="dispatch")
class FirstAdministratorView(FormView):
    """Make the first administrator; the page exists only while there is no user."""

    template_name = "people/first.html"
    form_class = FirstAdministratorForm

    def dispatch(self, request, *args, **kwargs):
        if get_user_model().objects.exists():
            raise Http404
        return super().dispatch(request, *args, **kwargs)

    def form_valid(self, form):
        given = form.cleaned_data
        try:
            user = people.create_first_administrator(
                given["code"].strip(), given["username"], given["password"], timezone.now()
            )
        except Refused as refusal:
            form.refuse(refusal)
            return self.form_invalid(form)
        login(self.request, user, backend="django.contrib.auth.backends.ModelBackend")
        messages.success(self.request, f"Welcome, {user.get_username()}. Begin with a cluster.")
        return redirect("overview")


class SignInView(LoginView):
    """Sign in; who guesses waits."""

    template_name = "people/login.html"
    redirect_authenticated_user = True

    def dispatch(self, request, *args, **kwargs):
        if not get_user_model().objects.exists():
            return redirect("first-run")
        return super().dispatch(request, *args, **kwargs)

    def post(self, request, *args, **kwargs):
        form = self.get_form()
        if self.attempts() >= ATTEMPTS:
            count("sign-in.throttled")
            form.is_bound = False
            context = self.get_context_data(form=form, throttled=WAIT_SECONDS // 60)
            return self.render_to_response(context, status=429)
        return super().post(request, *args, **kwargs)

    def form_invalid(self, form):
        count("sign-in.failed")
        self.note_attempt()
        return super().form_invalid(form)

    def attempts(self) -> int:
        """How often this pair failed lately; without Redis nobody knows, and whoever has the password gets in."""
        try:
            return cache.get(self.throttle_key(), 0)
        except redis.RedisError as error:
            log.warning("attempts not known", error=str(error))
            return 0

    def note_attempt(self) -> None:
        """Count one more."""
        key = self.throttle_key()
        try:
            cache.add(key, 0, WAIT_SECONDS)
            cache.incr(key)
        except ValueError:  # it expired between the two
            pass
        except redis.RedisError as error:
            log.warning("attempt not counted", error=str(error))

    def throttle_key(self) -> str:
        """Names the pair of address and user name, without keeping either."""
        pair = f"{self.request.META.get('REMOTE_ADDR')}\n{self.request.POST.get('username', '')}"
        return "login-" + hashlib.sha256(pair.encode()).hexdigest()


class AdminSignInView(RedirectView):
    """The admin's own way in leads to the console's; who is signed in and not of the staff gets no further."""

    pattern_name = "login"
    query_string = True

    def dispatch(self, request, *args, **kwargs):
        if request.user.is_authenticated and not request.user.is_staff:
            raise PermissionDenied
        return super().dispatch(request, *args, **kwargs)
