#!/usr/bin/env bash
# Makes .uv (uv alone, by pip) and .venv (what requirements/dev.lock pins, and this project, editable); does nothing
# when .venv already holds just that. Several at once wait for each other.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .make
exec 9>.make/environment.lock
flock 9

find_python() {
    local name
    for name in python3.11 python3; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            "$name" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    echo "Python 3.11 or later is needed: apt-get install python3" >&2
    return 1
}

make_venv() { # DIRECTORY, further options of venv
    local package
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        package="python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
        if [ "$(id -u)" != 0 ]; then
            echo "Python's venv is missing: sudo apt-get install -y $package" >&2
            return 1
        fi
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" ca-certificates
    fi
    "$python" -m venv "$@"
}

make_uv() {
    [ -x .uv/bin/uv ] && return
    rm -rf .uv
    make_venv .uv
    .uv/bin/pip install --quiet --disable-pip-version-check uv
}

python=$(find_python)
if [ "${1:-}" = uv ]; then
    make_uv
    exit
fi

# Of pyproject.toml only what an installation depends on: what stands before the tools' tables.
held=$({ cat requirements/dev.lock; sed '/^\[tool/,$d' pyproject.toml; echo "$PWD"; } | sha256sum)
[ "$(cat .venv/.held 2>/dev/null)" = "$held" ] && exit
echo "making .venv from requirements/dev.lock"
make_uv
[ -x .venv/bin/python ] || make_venv --without-pip .venv
rm -f .venv/.held
export VIRTUAL_ENV=$PWD/.venv
.uv/bin/uv pip sync --quiet --require-hashes requirements/dev.lock
.uv/bin/uv pip install --quiet --no-deps --no-build-isolation --editable .
echo "$held" >.venv/.held
