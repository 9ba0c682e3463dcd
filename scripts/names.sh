#!/usr/bin/env bash
# No tracked file may name the host of a package registry: where packages come from is each machine's setting.
set -euo pipefail
cd "$(dirname "$0")/.."
# Written so that this file does not name them itself.
hosts='pypi[.]org|pythonhosted[.]org|registry[.]npmjs[.]|yarnpkg[.]com|static[.]crates[.]|proxy[.]golang[.]|deb[.]debian[.]'
if git grep -nEI "$hosts" -- .; then
    echo "a package host is named above" >&2
    exit 1
fi
