"""The ASGI application: agents' sockets go straight to theirs, browsers' through Channels, all else to Django."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kubespan_web.settings")

from channels.auth import AuthMiddlewareStack
from channels.routing import URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.signals import request_finished
from django.db import connections
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

pages = get_asgi_application()

from kubespan_web import urls as _urls  # noqa: F401 - else the first page imports them, and every agent waits for it
from nodes import agents, routing
from nodes.agents import door  # they have models, so Django must be set up by the line above

AGENT_PATH = "/agent/v1"
ENROL_PATH = "/agent/v1/enrol"

browsers = AllowedHostsOriginValidator(AuthMiddlewareStack(URLRouter(routing.websocket_urlpatterns)))


async def route(scope, receive, send):
    """Hand a connection to whoever serves its kind."""
    match scope["type"]:
        case "lifespan":
            await agents.lifespan(scope, receive, send)
        case "websocket" if scope["path"] == AGENT_PATH:
            await agents.application(scope, receive, send)
        case "websocket":
            await browsers(scope, receive, send)
        case "http" if scope["path"] == ENROL_PATH and scope["method"] == "POST" and _is_safe(scope):
            await door.application(scope, receive, send)
        case _:
            await pages(scope, receive, send)


def _is_safe(scope):
    """Whether it comes by TLS, or need not; else Django says where to go instead."""
    return scope.get("scheme") == "https" or not settings.SECURE_SSL_REDIRECT


@request_finished.connect
def let_rows_go(**_signal):
    """Close a request's connections: it had a thread of its own, and nobody would use, nor soon close, what it leaves.

    Workers' threads and those of agents' sockets (nodes.agents.rows) last, and so do their connections.
    """
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:  # as it is in a test
            connection.close()


def settle_memory():
    """Take what was imported out of the collector's sight; its pauses were a second with thousands of sockets."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


def behind(proxies, app):
    """Believe X-Forwarded-For and -Proto of these addresses alone; nobody's where there are none."""
    return ProxyHeadersMiddleware(app, proxies) if proxies else app


application = behind(settings.TRUSTED_PROXIES, route)
settle_memory()
