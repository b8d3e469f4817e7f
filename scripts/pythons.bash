# Where the Pythons are; for the other scripts to source.

# Those that scripts/newer-pythons brings.
newer_pythons=${NEWER_PYTHONS:-${XDG_CACHE_HOME:-$HOME/.cache}/inngest-connect-asgi/pythons}

# The command of a Python: find_python 3.14, or, without a version, of $PYTHON.
find_python() {
    local wanted=${1:-${PYTHON:-python3}} candidate
    local version=${wanted#python}
    # A shim of pyenv exists for versions that it refuses to run.
    for candidate in "$wanted" "python$version" \
        "$HOME/.pyenv/versions/$version".*/bin/python \
        "$newer_pythons/usr/local/bin/python$version"; do
        if "$candidate" -c "" 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "There is no Python $version here; scripts/newer-pythons brings 3.14 and 3.15" >&2
    return 1
}
