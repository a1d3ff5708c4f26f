#!/bin/sh
# make_venv.sh PYTHON DIR REQUIREMENT: an environment with this project installed in it, editable.
set -eu
python=$1 dir=$2 requirement=$3

if [ -z "$python" ]; then
    echo "No Python 3.11 to 3.13 found. Install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2
    exit 1
fi

echo "Environment $dir: installing $requirement with $("$python" --version)"
if ! "$python" -m venv "$dir" >/dev/null 2>&1; then
    # Debian and Ubuntu split venv off; virtualenv needs no root.
    rm -rf "$dir"
    "$python" -m pip install --quiet --user virtualenv || {
        echo "Neither venv nor pip works for $python. On Debian or Ubuntu: apt install python3-venv" >&2
        exit 1
    }
    "$python" -m virtualenv --quiet "$dir"
fi
"$dir/bin/python" -m pip install --quiet --upgrade 'pip>=23'
"$dir/bin/python" -m pip install --quiet --editable "$requirement"

# opencv-python links to the desktop's GL and GLib, which a bare server lacks; headless is the same code without windows.
if ! "$dir/bin/python" -c 'import cv2' >/dev/null 2>&1; then
    echo "OpenCV's desktop libraries are missing here: using opencv-python-headless in $dir instead"
    "$dir/bin/python" -m pip uninstall --quiet --yes opencv-python
    "$dir/bin/python" -m pip install --quiet opencv-python-headless
    "$dir/bin/python" -c 'import cv2'
fi
touch "$dir/.installed"
