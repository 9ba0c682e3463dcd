"""The archive that the console hands out: built the same each time, unpacked whole, and looked over at each start."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from tests.agent.archives import ROOT, build, make_archive, small_archive

HELLO = "import sys\nfrom kubespan.agent import part\ndef main():\n    print(part.WORD, *sys.argv)\n"
PARTS = {"kubespan/agent/part.py": b"WORD = 'hello'\n"}


@pytest.fixture
def home(tmp_path):
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    return home


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "kubespan-agent.pyz"
    path.write_bytes(small_archive(HELLO, common=PARTS))
    return path


def run(archive, home, *words, user=None, python=None):
    return subprocess.run(
        [python or Path(sys.executable).resolve(), "-I", archive, *words],
        capture_output=True, text=True, check=False, env={"KUBESPAN_AGENT_HOME": str(home)}, user=user,
    )  # fmt: skip


def said(done):
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def place_of(home):
    (place,) = [path for path in (home / "unpacked").iterdir() if path.is_dir()]
    return place


# Building.


def test_the_same_inputs_give_the_same_bytes_in_whatever_order_they_come():
    files = {f"kubespan/{name}.py": name.encode() * 100 for name in "abcdefgh"}
    shuffled = list(files.items())
    random.Random(1).shuffle(shuffled)
    assert make_archive(files) == make_archive(dict(shuffled))


def test_no_entry_bears_a_time_or_an_owner(archive):
    with zipfile.ZipFile(archive) as zipped:
        assert {entry.date_time for entry in zipped.infolist()} == {build.EPOCH}


def test_another_content_is_another_build():
    sources = build.read_sources()
    one = build.checksum({"kubespan": build.pack(sources)})
    assert one == build.checksum({"kubespan": build.pack(build.read_sources())})
    assert one != build.checksum({"kubespan": build.pack({**sources, "kubespan/x.py": b""})})
    assert build.read_version(build.read_sources("1a2b3c4d")).endswith("+1a2b3c4d")


def test_what_differs_by_architecture_alone_is_kept_apart():
    same, x86, arm = b"same", b"x86", b"arm"
    installed = {
        (one, python): {"a.py": same, "_rust.abi3.so": x86 if one == "x86_64" else arm, f"_c.cpython-{python}.so": same}
        for one in build.ARCHITECTURES
        for python in build.PYTHONS
    }
    parts = build.divide(installed)
    assert parts["x86_64"] == {"_rust.abi3.so": x86}
    assert parts["aarch64"] == {"_rust.abi3.so": arm}
    assert set(parts["common"]) == {"a.py", *(f"_c.cpython-{python}.so" for python in build.PYTHONS)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("click/core.py", True),
        ("click-8.dist-info/licenses/LICENSE.txt", True),
        ("PyYAML-6.dist-info/licenses/LICENSE", True),
        ("click-8.dist-info/RECORD", False),
        ("msgspec/_core.cpython-311-x86_64-linux-gnu.so", True),
        ("msgspec/_core.pyi", False),
        ("_cffi_backend.cpython-311-x86_64-linux-gnu.so", True),
        ("cffi/api.py", False),
        ("pycparser/c_parser.py", False),
        ("yaml/_yaml.cpython-311-x86_64-linux-gnu.so", False),
        ("yaml/loader.py", True),
        ("websockets/sync/client.py", False),
        ("websockets/asyncio/client.py", True),
        ("bin/hypothesis", False),
    ],
)
def test_what_the_agent_does_not_need_is_left_out(name, expected):
    assert build.is_needed(name) is expected


# Unpacking.


def test_it_unpacks_itself_once_and_runs(archive, home):
    assert said(run(archive, home, "status", "-x")) == "hello kubespan-agent status -x"
    place = place_of(home)
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    assert said(run(archive, home, "kubespan-agent", "status")) == "hello kubespan-agent status"
    assert said(run(archive, home, "kubespanctl", "get")) == "ctl"
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before


def test_modules_of_other_pythons_and_architectures_stay_packed(tmp_path, home):
    from sysconfig import get_config_var  # noqa: PLC0415

    native = {"x.cpython-399-x86_64-linux-gnu.so": b"no", f"x.{get_config_var('SOABI')}.so": b"yes"}
    other = "aarch64" if os.uname().machine == "x86_64" else "x86_64"
    path = tmp_path / "agent.pyz"
    path.write_bytes(small_archive(HELLO, common={**PARTS, **native}, **{other: {"y.abi3.so": b"no"}}))
    said(run(path, home))
    assert [one.name for one in place_of(home).glob("*.so")] == [f"x.{get_config_var('SOABI')}.so"]


def remove_a_module(place):
    (place / "kubespan/agent/part.py").unlink()


def change_a_module(place):
    (place / "kubespan/agent/part.py").write_text("WORD = 'robbed'\n")


def change_byte_code(place):
    (code,) = (place / "kubespan/agent/__pycache__").glob("part.*")
    code.write_bytes(code.read_bytes().replace(b"hello", b"stole"))


def add_a_module(place):
    (place / "json.py").write_text("raise SystemExit('robbed')\n")


def cut_the_index(place):
    index = place / ".index"
    index.write_bytes(index.read_bytes()[:-10])


def open_to_others(place):
    (place / "kubespan/agent").chmod(0o777)


def lead_elsewhere(place):
    aside = place.with_name("aside")
    place.rename(aside)
    place.symlink_to(aside)


@pytest.mark.parametrize(
    "harm",
    [
        remove_a_module, change_a_module, change_byte_code, add_a_module, cut_the_index, open_to_others, lead_elsewhere,
    ],
)  # fmt: skip
def test_what_is_not_as_it_was_unpacked_is_unpacked_anew(archive, home, harm):
    said(run(archive, home))
    place = place_of(home)
    harm(place)
    done = run(archive, home)
    assert (done.returncode, done.stdout.strip()) == (0, "hello kubespan-agent")
    assert "unpacking anew" in done.stderr
    assert not place.is_symlink()
    assert said(run(archive, home)) == "hello kubespan-agent"


def test_what_a_killed_start_left_is_cleared_away(archive, home):
    left = home / "unpacked" / ".new-1"
    left.mkdir(parents=True)
    (left / "half").write_text("a module")
    assert said(run(archive, home)) == "hello kubespan-agent"
    assert not left.exists()


def test_several_first_starts_at_once_are_all_right(archive, home):
    command = [Path(sys.executable).resolve(), "-I", archive, "x"]
    env = {"KUBESPAN_AGENT_HOME": str(home)}
    starts = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [start.communicate()[0] for start in starts] == ["hello kubespan-agent x\n"] * 4
    assert len([path for path in (home / "unpacked").iterdir() if path.is_dir()]) == 1


@pytest.mark.parametrize("where", [".", ".."], ids=["it", "what it is in"])
def test_a_home_that_others_may_write_in_runs_nothing(archive, home, where):
    (home / where).resolve().chmod(0o777)
    done = run(archive, home)
    assert done.returncode != 0
    assert "nothing is run from there" in done.stderr
    assert done.stdout == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
@pytest.mark.skipif(not Path("/usr/bin/python3.11").exists(), reason="needs a Python that everybody may run")
def test_somebody_else_may_run_what_root_unpacked_and_is_told_otherwise(archive):
    with tempfile.TemporaryDirectory() as name:  # pytest's own directories are closed to others
        home, everybodys = Path(name, "home"), Path(name, "agent.pyz")
        Path(name).chmod(0o755)
        home.mkdir(mode=0o755)
        shutil.copy(archive, everybodys)
        python = Path("/usr/bin/python3.11")
        done = run(everybodys, home, user="nobody", python=python)
        assert done.returncode != 0
        assert "run this as root" in done.stderr
        said(run(everybodys, home, python=python))
        assert said(run(everybodys, home, "get", user="nobody", python=python)) == "hello kubespan-agent get"


def test_a_python_that_is_too_old_or_too_new_gets_a_sentence(archive, home):
    # As such a Python would: its version is all that is looked at before the sentence.
    path = str(archive)
    pretend = f"import sys, runpy; sys.version_info = (3, 9, 2); runpy.run_path({path!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-I", "-c", pretend], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr == "kubespan-agent: this is Python 3.9; 3.11 to 3.14 is needed\n"


def test_launcher_and_script_agree_with_the_archive_on_pythons():
    assert build.PYTHONS == ("3.11", "3.12", "3.13", "3.14")
    script = (ROOT / "scripts" / "agent" / "install.sh").read_text()
    assert "3.1[1-4].*" in script
    assert "OLDEST, NEWEST = (3, 11), (3, 14)" in (ROOT / "scripts" / "agent" / "bootstrap.py").read_text()
