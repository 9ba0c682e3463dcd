"""The agent that this console hands out, and the line that brings it to a machine.

`make agent` builds three files (scripts/agent/build.py), which are served as they are: an archive, the script that
installs it, and what both are. The script names the archive's checksum, and the line names the script's, so that
whoever sits in between can change neither; the certificate's fingerprint is in the line, too.
"""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path

import msgspec
import structlog
from django.conf import settings

from kubespan.core.release import ARCHIVE_PATH, RELEASE_PATH, SCRIPT_PATH, Release
from nodes import certificates

log = structlog.get_logger(__name__)

_kept: dict[tuple[str, str], bytes] = {}
"""Files by name and checksum, as they were when they were found to be right."""

_SAY = "import ssl,sys,urllib.request as u;sys.excepthook=lambda *e:print(e[1],file=sys.stderr);"
# Without its traceback; and whoever answers, for it is the checksum that decides.
_FETCH = _SAY + "sys.stdout.buffer.write(u.urlopen(sys.argv[1]{}).read())"
_ANYBODY = ",context=ssl._create_unverified_context()"


def read_release() -> Release | None:
    """What is handed out; none where no agent was built."""
    try:
        return msgspec.json.decode(_path(RELEASE_PATH).read_bytes(), type=Release)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        log.warning("the agent that is handed out cannot be read", error=str(error))
        return None


def read_archive(release: Release) -> bytes | None:
    """The archive; none where it is not the one that was built."""
    return _read(ARCHIVE_PATH, release.sha256)


def read_script(release: Release) -> bytes | None:
    """The script that installs it."""
    return _read(SCRIPT_PATH, release.script_sha256)


def _read(path: str, sha256: str) -> bytes | None:
    if (kept := _kept.get((path, sha256))) is not None:
        return kept
    try:
        content = _path(path).read_bytes()
    except OSError as error:
        log.warning("the agent that is handed out cannot be read", error=str(error))
        return None
    if hashlib.sha256(content).hexdigest() != sha256:
        log.warning("a file that is handed out is not the one that was built", file=str(_path(path)))
        return None
    # The one of a former build goes.
    for other in [one for one in _kept if one[0] == path]:
        _kept.pop(other, None)
    _kept[path, sha256] = content
    return content


def _path(path: str) -> Path:
    return Path(settings.AGENT_FILES) / Path(path).name


def write_line(token: str, release: Release | None) -> str:
    """The line for this console's agents."""
    url = agent_url()
    return enrolment_line(token, url, own_fingerprint() if url.startswith("https:") else "", release)


def agent_url() -> str:
    """Where agents find the console: the same address as for browsers unless the settings say otherwise."""
    return str(settings.KUBESPAN_AGENT_URL)


def own_fingerprint() -> str:
    """What agents pin where the console serves TLS by a certificate of its own; empty where it does not."""
    if not settings.EMBEDDED:
        return ""
    try:
        return certificates.fingerprint((settings.KUBESPAN_DATA / "tls" / "certificate.pem").read_bytes())
    except FileNotFoundError:
        return ""


def enrolment_line(token: str, url: str, pin: str, release: Release | None) -> str:
    """What to run on a machine, by sh; the token goes in by standard input, where no list of processes shows it.

    It gets the script, compares its checksum, and only then lets it run. Without an agent to hand out, it is the line
    for a machine that has one.
    """
    if release is None:
        return f"echo {token} | sudo kubespan-agent enrol {url}{f' --pin {pin}' if pin else ''} --token-file -"
    return _install(token, url, pin, release)


def _install(token: str, url: str, pin: str, release: Release) -> str:
    """Get the script, compare, run; the token may be the name of a variable of the shell."""
    script = shlex.quote(f"{url}{SCRIPT_PATH}")
    python = f"python3 -c '{_FETCH.format(_ANYBODY if pin else '')}' {script}"
    curl = f"curl -fsS{'k' if pin else ''} {script}"
    run = f'echo {token} | $(command -v sudo) sh -c "$s" install.sh {shlex.quote(url)}{f" {pin}" if pin else ""}'
    refuse = "echo 'This is not the script that the console made: nothing was run.' >&2; false"
    compared = f'case "$(printf "%s\\n" "$s" | sha256sum)" in {release.script_sha256}*)'
    return f's="$({python} || {curl})" && {compared} {run};; *) {refuse};; esac'


IMAGE = "python:3.13-slim-bookworm"
"""What the agent needs, and nothing else: CPython with the GNU C library. Firewall rules need nft besides."""

_KEPT = "-v kubespan-agent-state:/var/lib/kubespan-agent -v kubespan-agent-program:/opt/kubespan-agent"
_RIGHTS = "--network host --cap-add NET_ADMIN --cap-add NET_RAW --device /dev/net/tun"
_NFT = "{ apt-get -qq update && apt-get -qq install -y nftables; } >/dev/null"


def write_container_line(token: str, release: Release) -> str:
    """The line that has the agent in a container of the host's own network.

    One container enrols and ends: it gets the token by standard input, for what stands in a container's command stays
    to be read. The other one runs the agent on what the first left in two volumes, and again after each restart.
    """
    url = agent_url()
    pin = own_fingerprint() if url.startswith("https:") else ""
    first = f"{_NFT} && read -r t && {_install('$t', url, pin, release)}"
    second = f"{_NFT}; exec /opt/kubespan-agent/kubespan-agent run"
    run = f"{_RIGHTS} {_KEPT} {IMAGE} sh -c"
    return (
        f"echo {token} | docker run -i --rm {run} {shlex.quote(first)} && "
        f"docker run -d --name kubespan-agent --restart unless-stopped {run} {shlex.quote(second)}"
    )
