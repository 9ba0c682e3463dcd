"""A small provider of OpenID Connect on loopback: discovery document, authorize, token (with PKCE), userinfo, keys."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlparse

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

CLIENT, SECRET = "console", "shared with the provider alone"


def name_provider(settings, issuer, secret=SECRET):
    """Have the console know a provider, as the environment would."""
    settings.OIDC_ISSUER, settings.OIDC_NAME = issuer, "Example Inc"
    app = {"provider_id": "sso", "name": "Example Inc", "client_id": CLIENT, "secret": secret}
    app["settings"] = {"server_url": issuer}
    settings.SOCIALACCOUNT_PROVIDERS = {"openid_connect": {"OAUTH_PKCE_ENABLED": True, "APPS": [app]}}


@contextlib.contextmanager
def running():
    """A provider that answers, as long as it is needed."""
    provider = Provider()
    try:
        yield provider
    finally:
        provider.close()


class Provider:
    """Vouches for `person`, whoever asks."""

    def __init__(self):
        self.person = {"sub": "1", "preferred_username": "bob", "email": "bob@example.org", "email_verified": True}
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.codes = {}
        self.refused = []
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked = urlparse(self.path)
                provider.answer(self, asked.path, {name: one[0] for name, one in parse_qs(asked.query).items()})

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                provider.answer(self, self.path, {name: one[0] for name, one in parse_qs(body).items()})

            def log_message(self, *_args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, handler, path, given):
        match path:
            case "/.well-known/openid-configuration":
                names = {"authorization": "authorize", "token": "token", "userinfo": "userinfo"}
                found = {f"{name}_endpoint": f"{self.url}/{where}" for name, where in names.items()}
                self.say(handler, found | {"issuer": self.url, "jwks_uri": f"{self.url}/keys"})
            case "/authorize":
                code = secrets.token_urlsafe(8)
                self.codes[code] = given
                handler.send_response(302)
                handler.send_header(
                    "Location", f"{given['redirect_uri']}?{urlencode({'code': code, 'state': given['state']})}"
                )
                handler.end_headers()
            case "/token":
                self.give_token(handler, given)
            case "/userinfo":
                self.say(handler, self.person)
            case "/keys":
                public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key()))
                self.say(handler, {"keys": [public | {"kid": "1", "use": "sig", "alg": "RS256"}]})
            case _:
                self.say(handler, {}, 404)

    def give_token(self, handler, given):
        """Once for each code, to the client that has the secret and the verifier that the code was asked with."""
        asked = self.codes.pop(given.get("code"), {})
        digest = hashlib.sha256(given.get("code_verifier", "").encode()).digest()
        proof = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        fits = asked.get("code_challenge") == proof and given.get("client_secret") == SECRET
        if not fits or given.get("redirect_uri") != asked.get("redirect_uri"):
            self.refused.append(given)
            self.say(handler, {"error": "invalid_grant"}, 400)
            return
        now = int(time.time())
        claims = self.person | {"iss": self.url, "aud": CLIENT, "iat": now, "exp": now + 300}
        token = jwt.encode(claims, self.key, algorithm="RS256", headers={"kid": "1"})
        self.say(handler, {"access_token": "a", "token_type": "Bearer", "expires_in": 300, "id_token": token})

    def say(self, handler, what, status=200):
        body = json.dumps(what).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
