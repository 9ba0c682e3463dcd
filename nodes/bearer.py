"""Programs: who sends `Authorization: Bearer kapi_…` reads lists as files, and what is made for programs; nothing else.

A token stands for its owner with at most its own role, so pages, querysets and exports ask it what they ask anybody. It
opens no page, changes nothing, and is believed from no other place than this header: not from an address, nor a cookie.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable

from django.core.cache import cache
from django.core.exceptions import BadRequest, PermissionDenied
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone

from nodes import exports
from nodes.counters import count
from nodes.services import api_tokens
from nodes.services.refused import Refused

ATTEMPTS = 20
"""Tokens that are worth nothing, from one address, after which that address waits."""
WAIT_SECONDS = 300

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
PROGRAMS = "/api/"
"""Where what is made for programs begins."""

NOT_FOUND = Refused("not-found", "There is nothing here that this token may see.", 404)
NOT_A_PAGE = Refused(
    "not-a-page", "A token reads lists as files (?_export=json or csv) and what is under /api/, not pages.", 403
)
BAD_REQUEST = 400


class BearerTokens:
    """Django's middleware; after the one that knows sessions, whose word it replaces."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Let a program in, or say why not; whoever comes with no token of ours is none."""
        plain = read_token(request.headers.get("Authorization", ""))
        if plain is None:
            return self._get_response(request)
        try:
            check_place(request)
            with throttled(request.META.get("REMOTE_ADDR", "")):
                request.user = api_tokens.authenticate(plain, timezone.now())
        except Refused as refusal:
            count(f"api.{refusal.code}")
            return refuse(refusal)
        request.by_token = True  # type: ignore[attr-defined] # for `process_exception`
        answer = self._get_response(request)
        if answer.status_code == NOT_FOUND.status:
            return refuse(NOT_FOUND)
        # A page that knows no files answers with itself, whatever its address asks for.
        return answer if is_for_programs(request, answer) else refuse(NOT_A_PAGE)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """A program is answered in its own language."""
        if not getattr(request, "by_token", False):
            return None
        if isinstance(error, PermissionDenied):
            return refuse(Refused("forbidden", str(error) or "This token may not see it.", 403))
        return refuse(Refused("bad-request", str(error), 400)) if isinstance(error, BadRequest) else None


def read_token(header: str) -> str | None:
    """The token of a header, if it is one of these."""
    scheme, _, plain = header.partition(" ")
    plain = plain.strip()
    return plain if scheme.lower() == "bearer" and plain.startswith(api_tokens.TOKEN_MARK) else None


def check_place(request: HttpRequest) -> None:
    """Raises Refused for what a token is not for."""
    if request.method not in SAFE_METHODS:
        raise Refused("read-only", "A token only reads.", 405)
    if exports.PARAMETER not in request.GET and not request.path.startswith(PROGRAMS):
        raise NOT_A_PAGE


def is_for_programs(request: HttpRequest, answer: HttpResponse) -> bool:
    """Whether an answer is a list's file, a fault, or from where programs ask."""
    refused = answer.status_code >= BAD_REQUEST
    return refused or request.path.startswith(PROGRAMS) or exports.TOTAL in answer.headers


class throttled:  # noqa: N801 - used as a word
    """Around a look at a token: who guesses waits. Without Redis nobody knows, and a token that is right is let in."""

    def __init__(self, address: str) -> None:
        self._key = "api-" + hashlib.sha256(address.encode()).hexdigest()

    def __enter__(self) -> None:
        if cache.get(self._key, 0) >= ATTEMPTS:
            raise Refused("throttled", f"Too many tokens that were worth nothing: wait {WAIT_SECONDS // 60} m.", 429)

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, Refused):
            cache.add(self._key, 0, WAIT_SECONDS)
            with contextlib.suppress(ValueError):  # it expired between the two
                cache.incr(self._key)


def refuse(refusal: Refused) -> HttpResponse:
    """A refusal as JSON: code, and a sentence."""
    answer = JsonResponse({"code": refusal.code, "reason": refusal.reason}, status=refusal.status)
    answer.headers["Cache-Control"] = "no-store"
    if refusal.status == 401:  # noqa: PLR2004 - which HTTP asks for
        answer.headers["WWW-Authenticate"] = 'Bearer realm="kubespan"'
    if refusal.status == 429:  # noqa: PLR2004
        answer.headers["Retry-After"] = str(WAIT_SECONDS)
    return answer
