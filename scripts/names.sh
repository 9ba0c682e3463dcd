#!/usr/bin/env bash
# No tracked file may say where packages come from: that is each machine's own setting.
set -euo pipefail
cd "$(dirname "$0")/.."
if git grep -nEI '"resolved":|--(extra-)?index-url|--find-links|^(registry|index-url) *=' -- . ':!scripts/names.sh'; then
    echo "a place that packages come from is named above" >&2
    exit 1
fi
if git grep -nE 'https?://' -- 'requirements/*.lock'; then
    echo "a lock file of Python packages has an address" >&2
    exit 1
fi
