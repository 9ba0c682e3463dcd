"""Other distributions, by debootstrap: made once in .make, and lent to a machine of the laboratory as its root.

Where they come from is the machine's own affair: its apt is asked which archives it has, and the first that has the
suite is used.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import urllib3

from nodes.lab import Machine

KEPT = Path(__file__).parents[1] / ".make" / "distributions"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
VOLATILE = ("dev", "proc", "sys", "run", "tmp", "root/.cache")


def find_archive(suite: str) -> str:
    """An archive of packages with that suite, among those that this machine's apt has; skips where there is none."""
    if shutil.which("apt-get") is None:
        pytest.skip("no apt here to say where packages come from")
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    for place in dict.fromkeys(listed):
        try:
            found = urllib3.request("HEAD", f"{place.rstrip('/')}/dists/{suite}/Release", timeout=10, retries=False)
        except urllib3.exceptions.HTTPError:
            continue
        if found.status == 200:
            return place.rstrip("/")
    return pytest.skip(f"no archive of packages that apt knows here has {suite}, or none can be reached")


def unpack(suite: str, *packages: str) -> Path:
    """The smallest system of a suite with these packages; made once, a minute each."""
    return _keep(f"{suite}-{_digest(*packages)}", lambda making: _debootstrap(suite, making, *packages))


def extend(system: Path, *packages: str) -> Path:
    """A copy of a system with more packages, by its own apt: that takes a tenth of a system from nothing."""
    return _keep(f"{system.name}-{_digest(*packages)}", lambda making: _install(system, making, *packages))


def unpack_unconfigured(suite: str, *packages: str) -> Path:
    """The files of such a system, none of whose packages has had its say: enough to be looked at, and to run Python."""
    return _keep(f"{suite}-files-{_digest(*packages)}", lambda making: _extract(suite, making, *packages))


def _digest(*packages: str) -> str:
    return hashlib.sha256(" ".join(sorted(packages)).encode()).hexdigest()[:8]


def _keep(name: str, make: Callable[[Path], None]) -> Path:
    """What was made under that name, whole, or is made now."""
    if os.geteuid() != 0:
        pytest.skip("debootstrap needs root")
    if shutil.which("debootstrap") is None:
        pytest.skip("debootstrap is not installed: apt-get install -y --no-install-recommends debootstrap")
    KEPT.mkdir(parents=True, exist_ok=True)
    kept = KEPT / name
    with (KEPT / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            making = Path(tempfile.mkdtemp(dir=KEPT, prefix=".new-"))
            try:
                make(making)
                making.chmod(0o755)
                making.rename(kept)
            finally:
                shutil.rmtree(making, ignore_errors=True)
    return kept


def _debootstrap(suite: str, making: Path, *packages: str, further: Sequence[str] = ()) -> None:
    wanted = [f"--include={','.join(packages)}"] if packages else []
    _fetch(suite, "debootstrap", "--variant=minbase", *further, *wanted, suite, making, find_archive(suite))


def _install(system: Path, making: Path, *packages: str) -> None:
    subprocess.run(["cp", "-a", f"{system}/.", making], check=True)
    apt = ["chroot", making, "env", f"PATH={PATH}", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    _fetch(system.name, *apt, "update")
    subprocess.run([*apt, "install", "-y", "--no-install-recommends", *packages], check=True, stdout=subprocess.DEVNULL)


def _extract(suite: str, making: Path, *packages: str) -> None:
    with tempfile.TemporaryDirectory(dir=KEPT, prefix=".new-") as downloaded:
        _debootstrap(suite, Path(downloaded), *packages, further=["--download-only"])
        for package in Path(downloaded).glob("var/cache/apt/archives/*.deb"):
            subprocess.run(["dpkg-deb", "--extract", package, making], check=True)


def _fetch(what: str, *command: str | Path) -> None:
    """Run a step, and skip the test where it does not work: that is the archive's affair, or the network's."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()
        pytest.skip(f"{what} cannot be had: {command[0]} did not work: {said[-1:]}")


@dataclass(frozen=True)
class Distribution:
    """A machine of the laboratory that has another system's files, and none of ours."""

    machine: Machine
    root: Path

    def execute(
        self, *command: str, stdin: str = "", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess:
        """Run a command in it to its end."""
        environment = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", **(env or {})}
        return self.machine.execute("chroot", str(self.root), *command, stdin=stdin, env=environment, timeout=300)

    def sh(self, line: str, **env: str) -> subprocess.CompletedProcess:
        """Run a line by sh, as somebody who stands before it would."""
        return self.execute("sh", "-c", line, env=env)

    def files(self) -> dict[str, str]:
        """Every file with its kind, mode, owner and content."""
        found = {}
        listing = self.machine.run(
            "find", str(self.root), "-mindepth", "1",
            "(", *" -o ".join(f"-path {self.root}/{name}" for name in VOLATILE).split(), ")", "-prune", "-o",
            "-printf", "%P\\t%y %m %U:%G %l\\n",
        )  # fmt: skip
        for line in listing.splitlines():
            path, _, kind = line.partition("\t")
            found[path] = kind
        command = f"cd {self.root} && find . -xdev -type f -print0 | xargs -0 sha256sum"
        for line in self.machine.run("sh", "-c", command).splitlines():
            digest, path = line.split("  ./", 1)
            if path in found:
                found[path] += f" {digest}"
        # What lives in memory is nobody's file, but an agent may leave something there too.
        for name in ("run", "tmp"):
            for line in self.machine.run("find", f"{self.root}/{name}", "-printf", "%P\\t%y %m\\n").splitlines():
                found[f"{name}/{line.partition(chr(9))[0]}"] = line
        return found

    def network(self) -> dict[str, str]:
        """Links, addresses, routes, rules and firewall."""
        looks = (
            "ip -d link", "ip address", "ip route show table all", "ip -6 route show table all", "ip rule",
            "ip -6 rule", "nft list ruleset",
        )  # fmt: skip
        return {look: self.machine.run(*look.split()) for look in looks}


@contextmanager
def lend(machine: Machine, tree: Path, scratch: Path) -> Iterator[Distribution]:
    """Give a machine a system's files to write on; what it writes goes with the block."""
    root, upper, work = (scratch / name for name in ("root", "upper", "work"))
    for directory in (root, upper, work):
        directory.mkdir(parents=True)
    # Within the machine's own mounts, which are gone with it.
    overlay = f"lowerdir={tree},upperdir={upper},workdir={work}"
    machine.run("mount", "-t", "overlay", "overlay", "-o", overlay, str(root))
    machine.run("mount", "-t", "proc", "proc", f"{root}/proc")
    machine.run("mount", "--rbind", "/dev", f"{root}/dev")
    for name in ("run", "tmp"):
        machine.run(
            "mount", "-t", "tmpfs", "-o", "mode=1777" if name == "tmp" else "mode=755", "tmpfs", f"{root}/{name}"
        )
    try:
        yield Distribution(machine, root)
    finally:
        for pid in machine.processes():
            with_signal(pid)
        machine.run("umount", "--recursive", "--lazy", str(root), check=False)


def with_signal(pid: int) -> None:
    """End a process that a test left behind."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


SYSTEMD = ("systemd", "systemd-sysv", "dbus")
BOOT = """
set -e
root=$1
mount -t proc proc $root/proc
mount -t sysfs sysfs $root/sys
mount -t cgroup2 cgroup2 $root/sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs $root/run
# Of its own: what systemd makes in it must not be the host's.
mount -t tmpfs -o mode=755 tmpfs $root/dev
mkdir -p $root/dev/net $root/dev/pts $root/dev/shm
for name in null zero full random urandom tty net/tun; do
    touch $root/dev/$name
    mount --bind /dev/$name $root/dev/$name
done
exec chroot $root /usr/bin/env -i container=other PATH=$2 /lib/systemd/systemd --log-target=null
"""
BOOT_SECONDS = 90.0


@dataclass(frozen=True)
class Booted(Distribution):
    """One whose first process is systemd."""

    first: int

    def execute(
        self, *command: str, stdin: str = "", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess:
        """Run a command in it to its end."""
        environment = [f"{name}={value}" for name, value in {"PATH": PATH, "HOME": "/root", **(env or {})}.items()]
        enter = ["nsenter", "--target", str(self.first), "--all", "--root", "--wd", "env", "-i", *environment, *command]
        return subprocess.run(enter, input=stdin, capture_output=True, text=True, check=False, timeout=300)


@contextmanager
def boot(distribution: Distribution) -> Iterator[Booted]:
    """Boot it in namespaces of its own; skips where systemd cannot be had so."""
    hierarchy = next(
        (line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if " cgroup2 " in line), ""
    )
    if not hierarchy or not os.access(hierarchy, os.W_OK):
        pytest.skip("systemd cannot be booted here: no control groups of version 2")
    group = Path(hierarchy) / f"kubespan-test-{os.getpid()}"
    group.mkdir()
    enter = f'echo 0 >"{group}/cgroup.procs"; exec "$@"'
    apart = ["unshare", "--pid", "--mount", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child"]
    command = distribution.machine.inside(
        "sh", "-c", enter, "sh", *apart, "sh", "-c", BOOT, "sh", str(distribution.root)
    )
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        yield _await_boot(distribution, process)
    finally:
        process.kill()
        process.wait()
        deadline = time.monotonic() + BOOT_SECONDS
        while group.exists() and time.monotonic() < deadline:
            for path in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
                with suppress(OSError):
                    path.rmdir()
            with suppress(OSError):
                group.rmdir()
            time.sleep(0.05)  # its processes are on their way out


def _await_boot(distribution: Distribution, process: subprocess.Popen) -> Booted:
    deadline = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if children:
            booted = Booted(distribution.machine, distribution.root, int(children[0]))
            state = booted.execute("systemctl", "is-system-running").stdout.strip()
            if state in {"running", "degraded"}:
                return booted
        time.sleep(0.2)
    return pytest.skip("systemd did not boot in namespaces on this machine")
