#!/usr/bin/env bash
# Builds the agent that the console hands out into build/agent. Does nothing when it was built from just these sources.
# It needs the package registry once for each change of requirements/agent.lock; where none is to be had, says so and
# fails with 1, and the console runs without an agent to hand out.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .make
exec 9>.make/agent.lock
flock 9

held=$(find requirements/agent.lock kubespan scripts/agent -type f -not -path '*/__pycache__/*' -print0 |
    sort -z | xargs -0 sha256sum | sha256sum)
if [ "$(cat build/agent/.held 2>/dev/null)" = "$held" ] && [ -f build/agent/release.json ]; then exit; fi
scripts/environment.sh uv
echo "building the agent that the console hands out"
if ! .venv/bin/python scripts/agent/build.py --uv .uv/bin/uv --cache .make/agent --to build/agent; then
    echo "the agent was not built: its packages cannot be had now. The console hands out none until make agent works." >&2
    exit 1
fi
echo "$held" >build/agent/.held
