#!/bin/sh
# Installs kubespan-agent @version@ and joins the cluster of a console. The console's enrolment line runs this:
#
#     echo TOKEN | sh install.sh URL [sha256:FINGERPRINT] [further options of `kubespan-agent enrol`]
#
# The token comes by standard input, where no list of processes shows it. It may be run again at any time. What it
# makes: /opt/kubespan-agent, two links in /usr/local/bin, /var/lib/kubespan-agent, and a service of systemd; where
# systemd does not run, the agent is started in the background. `kubespan-agent uninstall` takes all of it away.
set -eu
umask 022
sha256=@sha256@
size=@size@

url=${1:?the URL of the console is needed}
shift
pin=
case ${1:-} in sha256:*) pin=$1 && shift ;; esac

fail() {
    echo "kubespan-agent was not installed: $1" >&2
    exit 1
}

# Nothing is changed before all of this is known to be as needed.
[ "$(uname -s)" = Linux ] || fail "this is $(uname -s), and it runs on Linux."
case $(uname -m) in
x86_64 | aarch64) ;;
*) fail "this machine is $(uname -m), and it is made for x86_64 and aarch64." ;;
esac
python=
found=
for name in python3 python3.14 python3.13 python3.12 python3.11; do
    version=$("$name" -I -S -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || continue
    found="$found${found:+, }$version"
    case $version in 3.1[1-4].*) python=$name && break ;; esac
done
[ -n "$python" ] || fail "Python 3.11 to 3.14 is needed, and this machine has ${found:-none}."
"$python" -I -c 'import ctypes, lzma, ssl' 2>/dev/null || fail "the Python here lacks ssl, lzma or ctypes; install all of python3."
case $("$python" -I -S -c 'import sysconfig; print(sysconfig.get_config_var("SOABI"))') in
cpython-*-linux-gnu) ;;
*) fail "the Python here is not CPython with the GNU C library, for which it is made." ;;
esac
PATH=$PATH:/usr/sbin:/sbin command -v nft >/dev/null || fail "nft is missing; install nftables (apt-get install nftables)."
[ "$(id -u)" = 0 ] || fail "this needs root."
IFS= read -r token || [ -n "$token" ] || fail "the token is missing: it goes by standard input."

directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
trap 'exit 1' HUP INT TERM

# With a fingerprint, that one certificate is trusted and nothing else; without, the machine's own authorities decide.
"$python" -I - "$url/agent/kubespan-agent.pyz" "$pin" "$sha256" "$size" "$directory/kubespan-agent.pyz" <<'PYTHON' || exit 1
import hashlib, http.client, ssl, sys
from urllib.parse import urlsplit

url, pin, sha256, size, to = sys.argv[1:]
parts = urlsplit(url)

def fetch():
    if parts.scheme == "https":
        context = ssl._create_unverified_context() if pin else ssl.create_default_context()
        connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=30, context=context)
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    connection.connect()
    if pin:
        shown = "sha256:" + hashlib.sha256(connection.sock.getpeercert(binary_form=True)).hexdigest()
        if shown != pin.lower():
            raise OSError("its certificate has another fingerprint than the line says: this is not your console")
    connection.request("GET", parts.path)
    response = connection.getresponse()
    if response.status != 200:
        raise OSError("HTTP status %d" % response.status)
    return response.read(int(size) + 1)

try:
    content = fetch()
except (OSError, http.client.HTTPException) as error:
    sys.exit("kubespan-agent was not installed: %s cannot be fetched: %s" % (url, error))
if len(content) != int(size) or hashlib.sha256(content).hexdigest() != sha256:
    sys.exit("kubespan-agent was not installed: %s is not the file that this script was made for" % url)
with open(to, "wb") as file:
    file.write(content)
PYTHON

"$python" -I "$directory/kubespan-agent.pyz" settle
printf '%s\n' "$token" | /opt/kubespan-agent/kubespan-agent enrol "$url" ${pin:+--pin "$pin"} --token-file - "$@"
/opt/kubespan-agent/kubespan-agent install --background
