"""How systemd-networkd and NetworkManager are told what is theirs: their files, read as they read them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

NETWORKD_FOLDERS = ("etc/systemd", "run/systemd", "usr/local/lib/systemd", "usr/lib/systemd", "lib/systemd")
"""The earlier one hides files of the same name in the later ones (systemd.unit(5), networkd.conf(5))."""
NETWORK_MANAGER = "etc/NetworkManager/NetworkManager.conf"
NETWORK_MANAGER_FOLDERS = ("usr/lib/NetworkManager/conf.d", "run/NetworkManager/conf.d")
NETWORK_MANAGER_LAST = "etc/NetworkManager/conf.d"

KINDS = ("wireguard", "tun")
"""What our link may be, to the kernel."""
TYPES = ("wireguard", "none")
"""What systemd calls its type."""
NO = frozenset({"no", "n", "false", "f", "off", "0"})


class Setting(NamedTuple):
    """One line of a file of sections; `added` for `key+=`."""

    section: str
    key: str
    value: str
    added: bool = False


def read_settings(text: str) -> Iterator[Setting]:
    """Read a file of `[section]` and `key=value`; comments and what is neither are passed over."""
    section = ""
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif line and line[0] not in "#;" and "=" in line:
            key, _, value = line.partition("=")
            yield Setting(section, key.rstrip().rstrip("+").rstrip(), value.strip(), added=key.rstrip().endswith("+"))


def manages_foreign(root: Path) -> tuple[bool, bool]:
    """Whether systemd-networkd removes rules, and routes, that it did not make; both is its default."""
    drop_ins = [f"{folder}/networkd.conf.d" for folder in NETWORKD_FOLDERS]
    files = [root / "etc/systemd/networkd.conf", *_by_name(root, drop_ins)]
    rules = routes = True
    for setting in _read_all(file for file in files if file.suffix == ".conf"):
        if setting.section == "Network" and setting.key == "ManageForeignRoutingPolicyRules":
            rules = setting.value.lower() not in NO
        elif setting.section == "Network" and setting.key == "ManageForeignRoutes":
            routes = setting.value.lower() not in NO
    return rules, routes


def claiming_network(root: Path, link: str) -> str:
    """The `.network` file by which systemd-networkd would configure a link: the first that fits; empty for none."""
    for path in _by_name(root, [f"{one}/network" for one in NETWORKD_FOLDERS]):
        if path.suffix != ".network":
            continue
        settings = list(_read_all([path]))
        if _fits([setting for setting in settings if setting.section == "Match"], link):
            unmanaged = any(
                (setting.section, setting.key) == ("Link", "Unmanaged") and setting.value.lower() not in NO
                for setting in settings
            )
            return "" if unmanaged else f"/{path.relative_to(root)}"
    return ""


def _fits(match: Sequence[Setting], link: str) -> bool:
    """Say whether a [Match] fits our link; what is matched that we do not know of it (a driver, a path) does not."""
    if not match:
        return False
    return all(
        {
            "Name": lambda globs: _any_glob(globs, [link]),
            "Kind": lambda globs: _any_glob(globs, KINDS),
            "Type": lambda globs: _any_glob(globs, TYPES),
        }.get(setting.key, lambda _: False)(setting.value.split())
        for setting in match
    )


def _any_glob(globs: Sequence[str], names: Iterable[str]) -> bool:
    inverted = bool(globs) and globs[0].startswith("!")
    plain = [globs[0][1:], *globs[1:]] if inverted else globs
    return any(fnmatchcase(name, glob) for name in names for glob in plain) is not inverted


def leaves_alone(root: Path, link: str) -> bool:
    """Whether NetworkManager is told not to manage a link."""
    files = [
        *_by_name(root, NETWORK_MANAGER_FOLDERS[::-1]),
        root / NETWORK_MANAGER,
        *_by_name(root, [NETWORK_MANAGER_LAST]),
    ]
    unmanaged: list[str] = []
    devices: dict[str, dict[str, str]] = {}
    for setting in _read_all(file for file in files if file.suffix == ".conf"):
        if setting.section == "keyfile" and setting.key == "unmanaged-devices":
            unmanaged = [*(unmanaged if setting.added else []), *re.split(r"[;,]", setting.value)]
        elif setting.section.startswith("device"):
            devices.setdefault(setting.section, {})[setting.key] = setting.value
    if _named(unmanaged, link):
        return True
    return any(
        _named(re.split(r"[;,]", device.get("match-device", "")), link)
        for device in devices.values()
        if device.get("managed", "").lower() in NO
    )


def _named(specs: Iterable[str], link: str) -> bool:
    """Say whether a list of devices (NetworkManager.conf(5), Device List Format) names our link."""
    named = False
    for spec in filter(None, (spec.strip() for spec in specs)):
        if spec.startswith("except:") and _is_named(spec.removeprefix("except:"), link):
            return False
        named = named or _is_named(spec, link)
    return named


def _is_named(spec: str, link: str) -> bool:
    kind, _, pattern = spec.rpartition(":")
    if kind == "type":
        return pattern in KINDS
    if kind == "interface-name":
        return fnmatchcase(link, pattern.removeprefix("="))
    return spec in {"*", link}


def _by_name(root: Path, folders: Sequence[str]) -> list[Path]:
    """Files of several folders in the order of their names; an earlier folder's hides a later one's."""
    found: dict[str, Path] = {}
    for folder in folders:
        directory = root / folder
        for path in directory.iterdir() if directory.is_dir() else ():
            found.setdefault(path.name, path)
    return [found[name] for name in sorted(found)]


def _read_all(files: Iterable[Path]) -> Iterator[Setting]:
    for path in files:
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        yield from read_settings(text)
