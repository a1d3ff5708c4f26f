#!/bin/sh
# make_venv.sh PYTHON DIR WHAT: an environment with this project installed in it, editable.
# WHAT is a file of pinned versions with hashes (tools/constraints/), or '.[EXTRAS]' for the newest of everything.
set -eu
python=$1 dir=$2 what=$3

if [ -z "$python" ]; then
    echo "No Python 3.11 to 3.13 found. Install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2
    exit 1
fi

# What a tool prints is shown when it fails.
quietly() {
    "$@" >"$dir/install.log" 2>&1 || {
        cat "$dir/install.log" >&2
        exit 1
    }
}
# Of the modules of torch few are ever imported: each compiles when it is, not all of them now.
pip() {
    quietly "$dir/bin/python" -m pip --disable-pip-version-check install --no-compile "$@"
}

echo "Environment $dir: installing $what with $("$python" --version)"
if ! "$python" -m venv "$dir" >/dev/null 2>&1; then
    # Debian and Ubuntu split venv off; virtualenv needs no root.
    rm -rf "$dir"
    "$python" -m pip install --quiet --user virtualenv || {
        echo "Neither venv nor pip works for $python. On Debian or Ubuntu: apt install python3-venv" >&2
        exit 1
    }
    "$python" -m virtualenv --quiet "$dir"
fi
case $what in
*.txt)
    pip --require-hashes --requirement "$what"
    pip --no-deps --no-build-isolation --editable .
    ;;
*)
    pip --upgrade --upgrade-strategy eager --editable "$what"
    ;;
esac

# opencv-python links to the desktop's GL and GLib, which a bare server lacks; headless is the same code without windows.
if ! "$dir/bin/python" -c 'import cv2' >/dev/null 2>&1; then
    echo "No desktop libraries on this machine: $dir gets opencv-python-headless, the same code without windows"
    quietly "$dir/bin/python" -m pip uninstall --yes opencv-python
    pip --no-deps --require-hashes --requirement tools/constraints/headless.txt
    "$dir/bin/python" -c 'import cv2'
fi
touch "$dir/.installed"
