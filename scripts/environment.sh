#!/bin/sh
# Make .venv, or leave it alone while constraints.txt, pyproject.toml and its place are what it was made from.
# Usage: environment.sh run|dev      (PYTHON names the interpreter to use)
set -eu
cd "$(dirname "$0")/.."
parts=$1

want=$({ pwd; cat constraints.txt pyproject.toml "$0"; } | git hash-object --stdin)
stamp=.venv/made-from-$parts
if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
    exit 0
fi

# A name on PATH may be a shim without an interpreter behind it: each is asked.
in_range='import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'
python='' without_venv=''
for name in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
    "$name" -c "$in_range" 2>/dev/null || continue
    if "$name" -c 'import ensurepip, venv' 2>/dev/null; then
        python=$name
        break
    fi
    without_venv=${without_venv:-$name}
done

if ! .venv/bin/python -c "$in_range" 2>/dev/null || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    if [ -z "$python" ] && [ -n "$without_venv" ]; then
        package=$("$without_venv" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        echo "$without_venv lacks the modules venv and ensurepip. On Debian or Ubuntu: apt-get install $package" >&2
        exit 2
    elif [ -z "$python" ]; then
        echo "EdgeNAS needs Python 3.11, 3.12 or 3.13; found none as ${PYTHON:-python3.13, python3.12, python3.11 or python3}." >&2
        echo "Install one (Debian 12: apt-get install python3 python3-venv), or name it: make PYTHON=/path/to/python ..." >&2
        exit 2
    fi
    echo "Making .venv with $("$python" --version) ..."
    "$python" -m venv --clear .venv
fi

echo "Installing EdgeNAS into .venv (a few minutes, once) ..."
rm -f .venv/made-from-*
pip() { .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "$@"; }
pip --upgrade pip setuptools
if [ "$parts" = dev ]; then
    pip --editable . --group dev
    # What boards of tests install, for their Python, from there alone: see tests/wheelhouse.py.
    theirs=$(PATH=/usr/local/bin:/usr/bin:/bin python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' || true)
    .venv/bin/python -m pip download --quiet --disable-pip-version-check --constraint constraints.txt \
        --only-binary=:all: ${theirs:+--python-version "$theirs"} --dest .venv/wheelhouse \
        ai-edge-litert numpy cryptography psutil
    echo "$want" >.venv/made-from-dev
else
    pip --editable .
fi
echo "$want" >.venv/made-from-run
