"""Record a conversation of the release whose tree is on PYTHONPATH, for the releases after it to be tried against.

Run it with the tree of the release, and where the recording goes (root: it needs network namespaces and wireguard-go)::

    git archive --prefix=release/ TAG | tar -x -C /tmp
    PYTHONPATH=/tmp/release .venv/bin/python tests/dialogues/record.py tests/dialogues/v1

Everything is that release's own: its console (`manage.py run`) and its agents (`kubespan-agent`), which talk through a
proxy that writes down what passes. `dialogue.json` then holds the frames, in order, and the keys of the one machine
whose frames they are: keys of a laboratory, gone with it. `schema.json` is the release's strict schema, by which a
later test judges whether what a present console or agent says would be understood.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import msgspec
import urllib3
import uvicorn
import websockets.sync.client
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

import kubespan
from kubespan.agent.store import Store
from kubespan.core import messages
from nodes import playground
from nodes.lab import LabError
from nodes.playground import Mesh, RunningConsole, await_true, open_site

SECONDS = 60.0
CLUSTER = "office"
PORT = 18001
CONSOLE = "127.0.0.1:18000"


class Recorder:
    """A proxy between agents and console that writes down the frames of one of them; what others say only passes."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.enrolments: list[dict[str, Any]] = []
        self.conversations: list[list[list[str]]] = []
        self.of: str | None = None
        """Address of the machine whose frames are kept."""

    async def __call__(self, scope, receive, send) -> None:
        """Serve one request or connection."""
        if scope["type"] == "http":
            await self._pass_request(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._pass_connection(scope, receive, send)

    async def _pass_request(self, scope, receive, send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        forwarded = {"Content-Type": "application/json", "X-Forwarded-For": scope["client"][0]}
        url = f"http://{self.upstream}{scope['path']}"
        reply = await asyncio.to_thread(urllib3.request, "POST", url, body=body, headers=forwarded, retries=False)
        if scope["client"][0] == self.of:
            self.enrolments.append(
                {"request": json.loads(body), "status": reply.status, "reply": json.loads(reply.data)}
            )
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(reply.data)).encode())]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.data})

    async def _pass_connection(self, scope, receive, send) -> None:
        await receive()
        frames: list[list[str]] = []
        if scope["client"][0] == self.of:
            self.conversations.append(frames)
        url = f"ws://{self.upstream}{scope['path']}"
        forwarded = {"X-Forwarded-For": scope["client"][0]}
        async with connect(url, additional_headers=forwarded, compression=None, max_size=None) as console:
            await send({"type": "websocket.accept"})
            speaking = asyncio.create_task(_pass_words(frames, receive, console))
            with contextlib.suppress(ConnectionClosed):
                while True:
                    frames.append(["console", _text(await console.recv())])
                    await send({"type": "websocket.send", "text": frames[-1][1]})
            await send({"type": "websocket.close", "code": console.close_code, "reason": console.close_reason or ""})
            speaking.cancel()
            await asyncio.gather(speaking, return_exceptions=True)

    def heard(self, side: str, kind: str, after: int = 0) -> bool:
        """Whether a message of that kind came from that side, later than the first so many frames."""
        return any(side == who and json.loads(frame).get("type") == kind for who, frame in self.frames()[after:])

    def frames(self) -> list[list[str]]:
        """All frames, whatever their connection."""
        return [frame for frames in self.conversations for frame in frames]


async def _pass_words(frames, receive, console) -> None:
    while True:
        message = await receive()
        if message["type"] != "websocket.receive":
            await console.close()
            return
        frame = message.get("text") or message["bytes"].decode()
        frames.append(["agent", frame])
        try:
            await console.send(frame)
        except ConnectionClosed:
            return


def _text(frame: bytes | str) -> str:
    return frame if isinstance(frame, str) else frame.decode()


def record(directory: Path) -> dict[str, Any]:
    """Play the whole of it once: a machine's life from its enrolment, over approval and changes, to its removal."""
    with open_site(["alpha", "bravo", "charlie", "delta"]) as site, Mesh(site, directory) as mesh:
        (directory / "console").mkdir()
        console = RunningConsole(directory / "console", listen=CONSOLE, tls_listen=f"{site.host}:18002")
        console.env |= {"TRUSTED_PROXIES": "127.0.0.1/32", "PYTHONPATH": os.environ["PYTHONPATH"]}
        recorder = Recorder(CONSOLE)
        proxy = uvicorn.Server(
            uvicorn.Config(recorder, host=str(site.host), port=PORT, log_config=None, lifespan="off")
        )
        threading.Thread(target=proxy.run, daemon=True).start()
        try:
            console.start()
            await_true(lambda: proxy.started, SECONDS, "the proxy does not listen")
            Story(site, mesh, console, recorder).play()
            return describe(recorder, Store(mesh.agents["alpha"].state), console)
        finally:
            proxy.should_exit = True
            console.stop()


class Story:
    """What happens to alpha, so that every kind of message is said."""

    def __init__(self, site, mesh, console, recorder) -> None:
        self.site, self.mesh, self.console, self.recorder = site, mesh, console, recorder
        self.url = f"http://{site.host}:{PORT}"
        self.tokens: list[str] = []
        recorder.of = str(site.addresses["alpha"][0])
        for agent in mesh.agents.values():
            # The agent's command is the environment's; the code that it runs is the release's.
            agent.env["PYTHONPATH"] = os.environ["PYTHONPATH"]

    def play(self) -> None:
        """All of it."""
        self.console.call("create_cluster", CLUSTER)
        self.enrol("bravo", self.token())
        self.mesh.agents["bravo"].start()
        alpha = self.mesh.agents["alpha"]
        self.enrol("alpha", self.token("--approval-required"))
        alpha.start()
        self.wait("agent", "claim")
        self.shell("services.approve_node(None, Node.objects.get(name='alpha'), now)")
        self.await_up()
        self.wait("agent", "report")
        self.enrol("alpha", self.tokens[-1])  # once more: the same answer, now of an approved machine
        self.enrol("alpha", "kst_no-such-token", refused=True)
        self.change_members_and_options()
        self.have_it_told()
        self.drift()
        alpha.stop()
        self.enrol("delta", self.token())
        mark = len(self.recorder.frames())
        alpha.start()
        self.wait("agent", "report", mark)
        self.console.call("remove_node", CLUSTER, "alpha")
        self.wait("console", "removed")
        alpha.process.wait(SECONDS)
        self.talk_nonsense()

    def change_members_and_options(self) -> None:
        """A member more, one that claims what is not its own, other options, and the member gone again."""
        self.enrol("charlie", self.token())
        self.wait("agent", "applied", self.mark_of("delta", "charlie"))
        charlie, _ = self.site.addresses["charlie"]
        alpha = self.site.machines["alpha"]
        alpha.ip(f"address add {charlie}/32 dev lo")
        self.wait("console", "claimrefused")
        mark = len(self.recorder.frames())
        alpha.ip(f"address del {charlie}/32 dev lo")
        self.wait("agent", "claim", mark)
        mark = len(self.recorder.frames())
        options = "msgspec.structs.replace(cluster.kubespan, mtu=1380, exclude_advertised_networks=('10.99.0.0/16',))"
        self.shell(f"clusters.set_options(None, cluster, {options}, now)")
        self.wait("agent", "applied", mark)
        mark = len(self.recorder.frames())
        self.console.call("remove_node", CLUSTER, "charlie")
        self.wait("agent", "applied", mark)

    def have_it_told(self) -> None:
        """What goes to one node alone: report faster, report everything, try the next endpoint."""
        for message, kind in (("Pace(seconds=0.5, lease=5.0)", "pace"), ("Resync()", "resync")):
            mark = len(self.recorder.frames())
            self.shell(f"fanout.publish_to_node(alpha.pk, cluster.pk, {message})")
            self.wait("console", kind, mark)
            self.wait("agent", "report", mark)
        self.shell("services.try_again(None, alpha, None, now)")
        self.wait("console", "tryagain")

    def drift(self) -> None:
        """Somebody takes away what the agent put there."""
        self.site.machines["alpha"].ip("rule del priority 32500")
        self.wait("agent", "notice")

    def talk_nonsense(self) -> None:
        """One connection that says what nobody understands, for the console's last words."""
        with websockets.sync.client.connect(f"ws://{CONSOLE}{messages.AGENT_PATH}", compression=None) as socket:
            frames = [["console", _text(socket.recv())], ["agent", '{"type":"nonsense"}']]
            socket.send(frames[1][1])
            frames.append(["console", _text(socket.recv())])
        self.recorder.conversations.append(frames)

    def enrol(self, name: str, token: str, *, refused: bool = False) -> None:
        """Enrol by the release's own command."""
        agent = self.mesh.agents[name]
        done = agent.call(
            "enrol", self.url, "--insecure-http", "--token-file", "-", "--name", name, "--data-plane", "userspace",
            stdin=token,
        )  # fmt: skip
        if bool(done.returncode) != refused:
            raise LabError(done.stdout + done.stderr)

    def token(self, *options: str) -> str:
        """A token for one machine."""
        self.tokens.append(self.console.call("create_token", CLUSTER, *options)["token"])
        return self.tokens[-1]

    def shell(self, code: str) -> None:
        """Have the console do something for which it has no command."""
        before = (
            "import msgspec; from django.utils import timezone; from nodes import fanout; from nodes.models import *; "
            "from nodes.services import clusters, nodes as services; from kubespan.core.messages import *; "
            "now = timezone.now(); cluster = Cluster.objects.get(); "
            "alpha = Node.objects.filter(name='alpha').first(); "
        )
        self.console.call("shell", "-v", "0", "-c", before + code)

    def wait(self, side: str, kind: str, after: int = 0) -> None:
        """Until that side has said something of that kind."""
        await_true(lambda: self.recorder.heard(side, kind, after), SECONDS, f"no {kind} of the {side}")

    def mark_of(self, kind: str, word: str) -> int:
        """The place right after the first frame of a kind that holds a word."""

        def place() -> int:
            found = (
                number
                for number, (_, frame) in enumerate(self.recorder.frames(), 1)
                if json.loads(frame).get("type") == kind and word in frame
            )
            return next(found, 0)

        await_true(lambda: place() > 0, SECONDS, f"no {kind} with {word}")
        return place()

    def await_up(self) -> None:
        """Until alpha and bravo see each other."""
        links = self.mesh.agents["alpha"].links
        await_true(lambda: links().get("bravo") == "up", SECONDS, "the link is not up")


def describe(recorder: Recorder, store: Store, console: RunningConsole) -> dict[str, Any]:
    """What a later test needs: who talked, with which keys, and every frame."""
    keys, state = store.keys(), store.agent()
    assert keys is not None
    assert state is not None
    shown = RunningConsole.call  # one JSON object from the console's own shell
    code = (
        "import json; from nodes.models import *; c = Cluster.objects.get(); "
        "print(json.dumps({'secret': c.secret.reveal(), 'name': c.name, 'cluster_id': c.cluster_id, "
        "'uuid': str(c.uuid), 'console_key': Console.objects.get().key}))"
    )
    tasks = (
        "import inspect, json; from kubespan_web.celery import app; app.loader.import_default_modules(); "
        "print(json.dumps({name: len(inspect.signature(task.run).parameters) "
        "for name, task in sorted(app.tasks.items()) if not name.startswith('celery.')}))"
    )
    return {
        "protocol": messages.VERSIONS[0],
        "release": kubespan.__version__,
        "cluster": shown(console, "shell", "-v", "0", "-c", code),
        "tasks": shown(console, "shell", "-v", "0", "-c", tasks),
        "machine": {
            "node_id": store.node_id(),
            "private_key": keys.private_key,
            "signing_key": state.signing_key,
            "verify_key": state.verify_key,
            "mac": state.mac,
        },
        "enrolments": recorder.enrolments,
        "conversations": recorder.conversations,
    }


def schema() -> dict[str, Any]:
    """The release's strict schema of each thing that is said."""
    said = {
        "console": messages.FromConsole,
        "agent": messages.FromAgent,
        "enrol-request": messages.EnrolRequest,
        "enrol-reply": messages.EnrolReply,
        "refusal": messages.Refusal,
    }
    return {name: msgspec.json.schema(kind) for name, kind in said.items()}


def main() -> None:
    """Record, and write both files."""
    target = Path(sys.argv[1]).resolve()
    target.mkdir(parents=True, exist_ok=True)
    release = Path(os.environ.get("PYTHONPATH", ".")).resolve()
    if playground.MANAGE.parent != release:
        sys.exit("PYTHONPATH must name the release's tree")
    os.chdir(release)  # the console starts its parts as modules, for which the present directory comes first
    with tempfile.TemporaryDirectory(prefix="kubespan-record-") as directory:
        dialogue = record(Path(directory))
    for name, content in (("dialogue", dialogue), ("schema", schema())):
        (target / f"{name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(dialogue['conversations'])} conversations, {sum(map(len, dialogue['conversations']))} frames")


if __name__ == "__main__":
    main()
