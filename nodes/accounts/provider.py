"""The provider of single sign-on: how the environment names it, where it sends people back to, and whether it answers.

It is asked as a sign-in asks it, with django-allauth's own requests: the same address, proxy and certificates. Where it
is comes from the environment alone, so that nobody makes the console ask anywhere else.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
from allauth.socialaccount.adapter import get_adapter
from allauth.socialaccount.models import SocialAccount
from django.conf import settings
from django.core.cache import cache
from django.db.models import Case, QuerySet, Value, When
from django.urls import reverse

PROVIDER_ID = "sso"
"""What the provider is called in addresses and rows."""

SECONDS = 5.0
"""For connecting, and for each part of the answer."""

PAUSE_SECONDS = 3
"""Between two checks: each is a connection or two of ours."""

NEEDED = ("issuer", "authorization_endpoint", "token_endpoint", "userinfo_endpoint", "jwks_uri")
"""What a sign-in reads of the provider's description."""

QUOTED = 200
"""Letters of what the provider says that are shown."""


class Provider(NamedTuple):
    """What the environment says of it; of the secret only whether there is one."""

    name: str
    issuer: str
    client_id: str
    has_secret: bool


class Finding(NamedTuple):
    """Whether the provider answers as one should, and a sentence."""

    fine: bool
    sentence: str


def read_provider() -> Provider | None:
    """The provider that the environment names, if it names one."""
    if not settings.OIDC_ISSUER:
        return None
    providers: Any = settings.SOCIALACCOUNT_PROVIDERS
    (app,) = providers["openid_connect"]["APPS"]
    return Provider(settings.OIDC_NAME, settings.OIDC_ISSUER, app["client_id"], bool(app["secret"]))


def known_as(account: SocialAccount) -> str:
    """What somebody whom a provider vouches for is known by here.

    A subject is one person's at its issuer alone (OpenID Connect Core 1.0 §2): where the environment names another
    provider, it may be somebody else's. Links made before that was heeded hold the subject as it is, and are good for
    the issuer that they were last used with; where that was not kept, for nobody.
    """
    subject, issuer = account.uid, recorded_issuer(account) or settings.OIDC_ISSUER
    same = SocialAccount.objects.filter(provider=account.provider, uid=subject).first()
    # A subject may look like another's digest: a link made before is known by what it says is its own subject.
    if same is not None and _subject(same) == subject and recorded_issuer(same) == issuer:
        return subject
    return hashlib.sha256(f"{issuer}\n{subject}".encode()).hexdigest()


def recorded_issuer(account: SocialAccount) -> str:
    """Who vouched when the account was last used, as its own signature said; empty where that was not kept."""
    return str(account.extra_data.get("id_token", {}).get("iss", ""))


def tell_former(links: QuerySet[SocialAccount]) -> QuerySet[SocialAccount]:
    """Each with `former`: whether another vouched than the environment names now, or nobody knows who."""
    issuer = settings.OIDC_ISSUER.rstrip("/")  # a slash at the end tells no two providers apart
    present = When(extra_data__id_token__iss__in=[issuer, f"{issuer}/"], then=Value(value=False))
    return links.annotate(former=Case(present, default=Value(value=True)))


def _subject(account: SocialAccount) -> str:
    """Of whom the provider spoke, where django-allauth reads it."""
    said = account.extra_data.get("userinfo") or account.extra_data.get("id_token") or {}
    return str(said.get("sub", ""))


def callback_path() -> str:
    """Where the provider sends people back to, at whichever address they came from."""
    return reverse("openid_connect_callback", args=[PROVIDER_ID])


def may_check() -> bool:
    """Whether nobody checked a moment ago; while Redis is away nobody knows, and it may."""
    return bool(cache.add("sign-on-check", 1, PAUSE_SECONDS))


def check_provider(provider: Provider, seconds: float = SECONDS) -> Finding:
    """Get the provider's description of itself, and say what keeps people from signing in; it blocks."""
    adapter = get_adapter()
    address = adapter.get_provider(None, PROVIDER_ID).server_url
    if not _can_be_asked(address):
        sentence = "OIDC_ISSUER is no address: it begins with https:// or http://, and a host follows."
        return Finding(fine=False, sentence=sentence)
    led_to: list[str] = []
    hooks = {"response": lambda answer, **_: led_to.append(answer.headers.get("Location", ""))}
    with adapter.get_requests_session() as session:
        try:
            answer = session.get(address, timeout=seconds, hooks=hooks)
        except (requests.RequestException, ValueError) as error:  # not each ValueError of urllib3's is wrapped
            return Finding(fine=False, sentence=_say(error, address, led_to, seconds))
    if answer.status_code != requests.codes.ok:
        said = f"{answer.status_code} {answer.reason or ''}".strip()
        return Finding(fine=False, sentence=f"{address} answers {said}. OIDC_ISSUER is not where the provider is.")
    try:
        described = answer.json()
    except requests.JSONDecodeError:
        described = None
    return judge(described, provider.issuer, address)


def judge(described: object, issuer: str, address: str) -> Finding:
    """What a provider's description of itself means for whoever signs in."""
    if not isinstance(described, dict):
        return Finding(fine=False, sentence=f"What {address} answers is no JSON object: no provider is there.")
    if missing := [name for name in NEEDED if not isinstance(described.get(name), str)]:
        return Finding(fine=False, sentence=f"The provider does not say its {' and '.join(missing)}.")
    if (named := described["issuer"]) != issuer:  # exactly, by OpenID Connect Discovery 1.0 §4.3
        named = named if len(named) <= QUOTED else f"{named[:QUOTED]}…"
        sentence = f"The provider calls itself {named}, and OIDC_ISSUER is {issuer}. Set it to what the provider says."
        return Finding(fine=False, sentence=sentence)
    return Finding(fine=True, sentence="The provider answers, and is the one that OIDC_ISSUER names.")


def _can_be_asked(address: str) -> bool:
    """Whether it is a whole address of the web, as far as that shows before anybody is asked."""
    try:
        parts = urlsplit(requests.Request("GET", address).prepare().url or "")
        (parts.hostname or "").encode("idna")  # as a connection does, which says no to labels too long
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def _say(error: Exception, address: str, led_to: list[str], seconds: float) -> str:
    """What went wrong, without the words of three libraries around it."""
    asked, cause = getattr(error, "request", None), _first_cause(error)
    host = urlsplit(asked.url if asked is not None else address).netloc
    said = getattr(cause, "verify_message", "") or getattr(cause, "strerror", "") or str(cause)
    reason = " ".join((said or type(cause).__name__).split()).rstrip(".")[:QUOTED]
    match error:
        case requests.Timeout():
            return f"{host} does not answer within {seconds:g} s."
        case requests.exceptions.SSLError():
            return f"There is no TLS with {host}: {reason}."
        case requests.TooManyRedirects():
            return f"{address} leads on from one address to the next, and never arrives."
        case requests.exceptions.InvalidProxyURL():
            return f"{host} is asked by way of a proxy, and the one that the environment names is no address."
        case ValueError() if led_to:
            return f"{address} leads on to {led_to[-1][:QUOTED]}, which cannot be asked: {reason}."
        case _:
            return f"{host} cannot be reached: {reason}."


def _first_cause(error: BaseException) -> BaseException:
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return error
