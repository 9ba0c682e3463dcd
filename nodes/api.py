"""Requests of machines: enrolment, and the agent that is handed out."""

from __future__ import annotations

import msgspec
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST, require_safe

from kubespan.core.endpoint import IPAddress, parse_address
from kubespan.core.messages import EnrolRequest, MessageError, Refusal, VersionError, dump, parse_body
from nodes import delivery
from nodes.counters import count
from nodes.services import enrolment
from nodes.services.refused import Refused

BODY_LIMIT = 64 * 1024
"""Bytes of an enrolment request: keys, names, and at most some hundred addresses."""


@csrf_exempt  # a machine with a token, no browser with cookies
@require_POST
def enrol(request: HttpRequest) -> HttpResponse:
    """POST /agent/v1/enrol: an EnrolRequest in, an EnrolReply or a Refusal out.

    A web process answers it at its agents' end (nodes.agents.door), before any request gets here.
    """
    # Read with a limit of our own: the length that a sender states need not be the true one, or there at all.
    status, body = answer_enrolment(request.read(BODY_LIMIT + 1), _find_peer(request))
    return HttpResponse(body, status=status, content_type="application/json")


def answer_enrolment(body: bytes, peer: IPAddress | None) -> tuple[int, bytes]:
    """Take in the machine whose request this is; the HTTP status and the body of the answer."""
    try:
        reply = enrolment.enrol(_read(body), peer=peer, now=timezone.now())
    except Refused as refused:
        count(f"enrol.{refused.code}")
        return refused.status, dump(Refusal(code=refused.code, reason=refused.reason))
    return 200, dump(reply)


# Whoever reaches the console may have these: nothing in them is secret.


@require_safe
def release(_request: HttpRequest) -> HttpResponse:
    """GET /agent/release.json: which agent is handed out."""
    found = delivery.read_release()
    return _hand_out(None if found is None else msgspec.json.encode(found), "application/json")


@require_safe
def archive(_request: HttpRequest) -> HttpResponse:
    """GET /agent/kubespan-agent.pyz: the agent itself."""
    found = delivery.read_release()
    return _hand_out(None if found is None else delivery.read_archive(found), "application/octet-stream")


@require_safe
def script(_request: HttpRequest) -> HttpResponse:
    """GET /agent/install.sh: the script that installs it, to be run, or to be read first."""
    found = delivery.read_release()
    return _hand_out(None if found is None else delivery.read_script(found), "text/plain; charset=utf-8")


def _hand_out(content: bytes | None, kind: str) -> HttpResponse:
    if content is None:
        sentence = "This console has no agent to hand out: whoever runs it builds one by `make agent`.\n"
        return HttpResponse(sentence, status=404, content_type="text/plain; charset=utf-8")
    # The next build is to be had the moment it is there.
    return HttpResponse(content, content_type=kind, headers={"Cache-Control": "no-cache"})


def _read(body: bytes) -> EnrolRequest:
    if len(body) > BODY_LIMIT:
        raise Refused("too-large", f"An enrolment request has at most {BODY_LIMIT} bytes.", 413)
    try:
        return parse_body(body, EnrolRequest)
    except VersionError as error:
        raise Refused("version", f"{error}.") from None
    except MessageError as error:
        raise Refused("request", f"{error}.") from None


def _find_peer(request: HttpRequest) -> IPAddress | None:
    """Where the request comes from; proxies that are trusted have been looked through by now."""
    try:
        return parse_address(request.META.get("REMOTE_ADDR", ""))
    except ValueError:  # a Unix socket, or a proxy that hides its clients
        return None
