"""Changes that are made all the time, by services, pages and the machines' API; what was acknowledged is remembered.

A node is given one change at a time. Where an attempt's outcome is not known, for the connection broke before the
answer, its node is left alone from then on: what was tried last may come true at any time later, or never.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlencode

import urllib3

from kubespan.core.identity import KeyPair, encode_node_id, make_signing_key
from kubespan.core.messages import ENROL_PATH, VERSIONS, EnrolReply, EnrolRequest, Revision, dump, parse_body

PAUSE = 0.4
"""Seconds between two changes of one who makes them."""
ANSWER_SECONDS = 15.0
"""After which an answer is not waited for any more."""
TOKEN = "c" * 32
"""What a browser's cookie and form agree on, against forged requests."""


class NotAcknowledged(Exception):
    """No answer came, or one that says no: the change may have been made all the same, or not."""


@dataclass
class Wish:
    """What a node is to be."""

    node: int
    endpoint: str = ""
    """That it is to have besides its own; empty for none."""
    present: bool = True
    """Whether it is to be a member at all."""


@dataclass
class Book:
    """What was acknowledged, and what only asked for; several threads write it."""

    acknowledged: dict[int, Wish] = field(default_factory=dict)
    """Each node's newest acknowledged change."""
    uncertain: dict[int, Wish] = field(default_factory=dict)
    """Each node's last attempt, where its outcome is not known."""
    enrolled: list[str] = field(default_factory=list)
    """Node ids of machines whose enrolment was acknowledged."""
    revisions: dict[int, int] = field(default_factory=dict)
    """Numbers of the revisions that services said a change became, and of which node."""
    count: int = 0
    failures: list[str] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _newest: tuple[float, Revision | None] = (0.0, None)
    """When the newest change whose revision is known was begun."""

    def attempt(self, wish: Wish, make: Callable[[], Revision | None]) -> bool:
        """Try a change and note how it ended; `make` gives its revision where that is known."""
        started = time.monotonic()
        try:
            revision = make()
        except NotAcknowledged as reason:
            with self._changed:
                self.uncertain[wish.node] = wish
                self.failures.append(str(reason))
            return False
        with self._changed:
            self.acknowledged[wish.node] = wish
            self.count += 1
            if revision is not None:
                self.revisions[revision.number] = wish.node
                self._newest = (started, revision)
                self._changed.notify_all()
        return True

    def await_revision(self, since: float, seconds: float) -> Revision:
        """Wait until a change that was begun after `since` (monotonic) is acknowledged; gives its revision."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._newest[0] > since, seconds), self.failures[-3:]
            revision = self._newest[1]
        assert revision is not None
        return revision


class Services:
    """Makes changes by the services, in a process of its own; a context manager."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = {**env, "PYTHONPATH": os.getcwd()}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-m", "tests.faults.change"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=self._env,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def give_endpoint(self, node: int, endpoint: str) -> Revision:
        """Give a node an endpoint; gives the revision."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([node, endpoint]) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "failed" in answer:
            raise NotAcknowledged(f"services: {answer['failed']}")
        return Revision(*answer["revision"])


class Browser:
    """An operator at the pages."""

    def __init__(self, url: str) -> None:
        self._url = url
        # Each request finds its own web process.
        self._http = urllib3.PoolManager(headers={"Connection": "close"}, retries=False, timeout=ANSWER_SECONDS)
        self._session = ""

    def begin(self, code: str) -> None:
        """Become the first administrator."""
        password = "a long password of nobody"
        form = {"code": code, "username": "operator", "password": password, "again": password}
        answer = self._post("/first/", form)
        self._session = answer.headers["Set-Cookie"].partition("sessionid=")[2].partition(";")[0]
        if not self._session:
            raise NotAcknowledged(f"no session: {answer.status}")

    def post(self, path: str, **form: str) -> None:
        """Send a form; that a page leads elsewhere says that it was accepted. No revision is told."""
        answer = self._post(path, form)
        if answer.status != 302 or "/login/" in answer.headers["Location"]:
            raise NotAcknowledged(f"{path}: {answer.status} {answer.headers.get('Location', '')}")

    def _post(self, path: str, form: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        headers = {
            "Cookie": f"csrftoken={TOKEN}; sessionid={self._session}",
            "X-CSRFToken": TOKEN,
            "Content-Type": "application/x-www-form-urlencoded",
        }
        return self._request(path, urlencode(form).encode(), headers)

    def enrol(self, token: str, name: str) -> str:
        """Enrol a machine that never comes; gives its node id."""
        _, verify = make_signing_key(os.urandom(32))
        request = EnrolRequest(
            versions=VERSIONS,
            token=token,
            node_id=encode_node_id(os.urandom(32)),
            name=name,
            public_key=KeyPair.make(os.urandom(32)).public_key,
            verify_key=verify,
            interface_id=os.urandom(8).hex(),
        )
        answer = self._request(ENROL_PATH, dump(request), {"Content-Type": "application/json"})
        if answer.status != 200:
            raise NotAcknowledged(f"enrolment: {answer.status} {answer.data[:200]!r}")
        parse_body(answer.data, EnrolReply)
        return request.node_id

    def _request(self, path: str, body: bytes, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        try:
            return self._http.request(
                "POST", self._url + path, body=body, headers={**self._http.headers, **headers}, redirect=False
            )
        except urllib3.exceptions.HTTPError as error:
            raise NotAcknowledged(f"{path}: {type(error).__name__}") from None


class Always:
    """Threads that change things until told to stop; a context manager."""

    def __init__(self, *works: Iterator[Any]) -> None:
        self._stop = threading.Event()
        self._faults: list[BaseException] = []
        self._threads = [threading.Thread(target=self._work, args=(work,)) for work in works]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let what is under way come to its end; raises what ended a thread."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._faults:
            raise self._faults.pop()

    def _work(self, work: Iterator[Any]) -> None:
        try:
            while not self._stop.wait(PAUSE):
                next(work)
        except BaseException as fault:  # noqa: BLE001 - raised again by `stop`
            self._faults.append(fault)


def endpoints() -> Iterator[str]:
    """Endpoints that nobody had before; nothing answers there (RFC 2544)."""
    return (f"198.19.{number >> 8 & 255}.{number & 255}:51820" for number in itertools.count(1))
