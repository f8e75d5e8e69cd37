# Sourced by run, test and check: makes .venv, or brings it up to date, and is silent when there is nothing to do.
# POSIX sh, run by dash too. The caller has set `root` (the repository) and `set -eu`.
#
#   bootstrap GROUP    GROUP is "run" (the program alone) or a dependency group of pyproject.toml
#   use_extra NAME     before it: install that extra too
#   use_lock           before it: the versions of scripts/constraints.txt alone, by their hashes
#   use_mitmproxy N    before it: a second environment, .venv-N, with version N of mitmproxy (12.2: any 12.2.x)
#
# .venv/.ccflare/ is what this file knows about .venv: NAME.stamp for each group that is installed, NAME.locked if that
# was by the lock file, `root` (where), `lock` while a start installs, `unfinished` until it is done, install.log.

venv=$root/.venv
state=$venv/.ccflare
mitmproxy=mitmproxy # which of the versions that pyproject.toml allows
locked=             # whether they are those of the lock file
extras=

use_lock() {
    [ -z "$extras" ] || fail "--locked and --with exclude each other: add the extra without --locked"
    locked=yes
}

use_mitmproxy() {
    [ -z "$locked" ] || fail "--locked and --mitmproxy exclude each other: the lock file has one version of each package"
    case $1 in
        *[!0-9.]* | "") fail "--mitmproxy takes a version, such as 12.2" ;;
    esac
    mitmproxy="mitmproxy==$1.*"
    venv=$root/.venv-$1
    state=$venv/.ccflare
}

# --with plot: an extra of pyproject.toml. Once asked for it is installed whenever anything is; with-NAME remembers it.
use_extra() {
    [ -z "$locked" ] || fail "--locked and --with exclude each other: add the extra without --locked"
    case $1 in
        completion | hsm | keyring | mcp | metrics | otel | plot | postgres) extras="$extras $1" ;;
        *) fail "--with takes completion, hsm, keyring, mcp, metrics, otel, plot or postgres" ;;
    esac
}

# Whether all that --with asks for is installed.
has_extras() {
    for extra in $extras; do
        [ -e "$state/with-$extra" ] || return 1
    done
}

# Prints what --with asks for or has asked for before, as pip takes it: [plot,postgres]
wanted_extras() {
    names=
    for extra in $extras "$state"/with-*; do
        extra=${extra##*/with-}
        case ,$names, in
            *",$extra,"*) ;;
            *) [ "$extra" = '*' ] || names=${names:+$names,}$extra ;;
        esac
    done
    printf '%s' "${names:+[$names]}"
}

say() {
    printf 'ccflare: %s\n' "$*" >&2
}

fail() {
    say "$@"
    exit 1
}

# --- a Python ------------------------------------------------------------------------------------------------------

# Prints the real path of interpreter $1 if it will do. Only running it can tell: a pyenv shim python3.12 may be on
# PATH and yet answer "command not found". For the interpreter of a virtual environment the one below it is printed,
# since that environment may be the one which is about to be replaced.
usable() {
    "$1" -c '
import sys
if sys.version_info < (3, 12):
    sys.exit(1)
import ensurepip, venv
print(getattr(sys, "_base_executable", None) or sys.executable)
' 2>/dev/null </dev/null
}

# Prints the folders, one a line, that may be pyenv's. HOME alone will not do: it can be empty, or somebody else's.
pyenv_roots() {
    [ -z "${PYENV_ROOT-}" ] || printf '%s\n' "$PYENV_ROOT"
    ! command -v pyenv >/dev/null || pyenv root 2>/dev/null || :
    [ -z "${HOME-}" ] || printf '%s\n' "$HOME/.pyenv"
    (
        IFS=:
        set -f
        for folder in $PATH; do
            case $folder in */shims) printf '%s\n' "${folder%/shims}" ;; esac
        done
    )
}

# Prints the path of a Python >= 3.12, or fails.
find_python() {
    for name in python3.14 python3.13 python3.12 python3 python; do
        ! command -v "$name" >/dev/null || ! usable "$name" || return 0
    done
    pyenv_roots | {
        while IFS= read -r folder; do
            for minor in 19 18 17 16 15 14 13 12; do
                for candidate in "$folder"/versions/*/bin/python3."$minor"; do
                    [ ! -x "$candidate" ] || ! usable "$candidate" || exit 0
                done
            done
        done
        exit 1
    }
}

# --- is .venv current? ---------------------------------------------------------------------------------------------

stamp() {
    cat "$root/pyproject.toml" "$root/scripts/_bootstrap.sh" | cksum
}

lock_stamp() {
    cksum <"$root/scripts/constraints.txt"
}

# Whether .venv can be used as a base: its last installation ended, it lies where it was made (its commands name
# their interpreter, so a copied or moved one would run the old place's code), and its interpreter works.
is_sound() {
    [ ! -e "$state/unfinished" ] &&
        { [ ! -e "$state/root" ] || [ "$(cat "$state/root")" = "$root" ]; } &&
        "$venv/bin/python" -I -S -c 'import sys; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1
}

# Whether group $1 was installed from pyproject.toml, and by this file, as they are now. Every group brings the program; dev brings all.
is_current() {
    wanted=$(stamp)
    for installed in "$state"/*.stamp; do
        case $1:${installed##*/} in
            "run:"* | "$1:$1.stamp" | *:dev.stamp)
                [ ! -r "$installed" ] || [ "$(cat "$installed")" != "$wanted" ] ||
                    ! is_as_locked "${installed%.stamp}.locked" || return 0
                ;;
        esac
    done
    return 1
}

# Whether what was installed with $1 will do: for a start without --locked it always does.
is_as_locked() {
    [ -z "$locked" ] || { [ -r "$1" ] && [ "$(cat "$1")" = "$(lock_stamp)" ]; }
}

# --- one installation at a time ------------------------------------------------------------------------------------

# mkdir is atomic. The holder's process id is a file in the lock. Who finds the holder dead removes that file, which
# only one can, and then the folder: rmdir spares a lock that somebody has taken anew in between.
lock() {
    ours_alone
    mkdir -p "$state" 2>/dev/null && [ -w "$state" ] || fail "$state cannot be written; check who may write to $root"
    waited=0
    until mkdir "$state/lock" 2>/dev/null && true 2>/dev/null >"$state/lock/$$"; do
        [ "$waited" -ne 1 ] || say "waiting for another start, which is installing into ${venv##*/}"
        [ "$waited" -lt 900 ] || fail "another start installs for 15 minutes now; stop it, or remove $state/lock"
        break_stale_lock
        sleep 1
        waited=$((waited + 1))
    done
    trap unlock EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# What one user installs, another cannot bring up to date: not without rights, and root only so that it belongs to two.
ours_alone() {
    [ -d "$venv" ] || return 0
    # shellcheck disable=SC2046 # the number is the third word
    set -- $(ls -ldn "$venv")
    [ "$3" = "$(id -u)" ] ||
        fail "${venv##*/} belongs to another user; start this as the user who made it, or delete $venv, or clone ccflare for yourself"
}

break_stale_lock() {
    for holder in "$state/lock"/*; do
        if [ ! -e "$holder" ]; then
            # No id in it: it is being taken right now, or its holder died between the two steps.
            [ "$waited" -lt 5 ] || rmdir "$state/lock" 2>/dev/null || :
        elif ! kill -0 "${holder##*/}" 2>/dev/null && rm "$holder" 2>/dev/null; then
            rmdir "$state/lock" 2>/dev/null || :
        fi
    done
}

unlock() {
    rm -f "$state/lock/$$"
    rmdir "$state/lock" 2>/dev/null || :
    trap - EXIT HUP INT TERM
}

# --- installing ----------------------------------------------------------------------------------------------------

make_venv() {
    for entry in "$venv"/* "$venv"/.[!.]*; do
        [ "$entry" = "$state" ] || rm -rf "$entry" # the lock is in there
    done
    rm -f "$state"/*.stamp "$state"/*.locked
    printf '%s\n' "$root" >"$state/root"
    if python=$(find_python); then
        "$python" -m venv "$venv" >>"$state/install.log" 2>&1
    elif command -v uv >/dev/null; then
        uv venv --quiet --allow-existing --seed --python 3.12 "$venv" >>"$state/install.log" 2>&1
    else
        fail "no Python 3.12 or newer (with its venv module) was found;" \
            "install python3.12 (on Debian and Ubuntu python3.12-venv too), or uv"
    fi
}

# Prints the packages of dependency group $1, one a line. pip itself knows groups only since 25.1.
requirements() {
    "$venv/bin/python" -I - "$root/pyproject.toml" "$1" <<'PYTHON'
import sys
import tomllib

with open(sys.argv[1], "rb") as file:
    groups = tomllib.load(file)["dependency-groups"]


def packages(group):
    for entry in groups[group]:
        if isinstance(entry, str):
            yield entry
        else:
            yield from packages(entry["include-group"])


print("\n".join(packages(sys.argv[2])))
PYTHON
}

# In a subshell, so that what the user has set for Python and pip cannot lead the packages out of .venv.
install_packages() (
    unset PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX PIP_ROOT
    export PIP_USER=0
    if [ -n "$locked" ]; then
        install_locked "$1"
        exit
    fi
    true >"$state/requirements.txt"
    [ "$1" = run ] || requirements "$1" >"$state/requirements.txt" || exit
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$venv/bin/python" -m ensurepip || exit
    "$venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check \
        --editable "$root$(wanted_extras)" --requirement "$state/requirements.txt" "$mitmproxy"
)

# Nothing but what the lock file names, by its hashes; wheels alone, for building one would bring what it does not name.
install_locked() {
    "$venv/bin/python" -I "$root/scripts/_lock.py" packages "$1" >"$state/requirements.txt" || exit
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$venv/bin/python" -m ensurepip || exit
    "$venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check \
        --require-hashes --no-deps --only-binary :all: --requirement "$state/requirements.txt" || exit
    "$venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check \
        --no-deps --no-build-isolation --no-index --editable "$root"
}

install() {
    true >"$state/install.log"
    if is_sound; then
        say "bringing ${venv##*/} up to date with pyproject.toml"
        true >"$state/unfinished"
        # pip puts back what it could not replace, so after its own "no" .venv is as good as before.
        install_packages "$1" >>"$state/install.log" 2>&1 || { rm -f "$state/unfinished" && give_up; }
    else
        say "installing into ${venv##*/}; this takes about a minute, once"
        true >"$state/unfinished"
        make_venv || give_up
        install_packages "$1" >>"$state/install.log" 2>&1 || give_up
    fi
    [ "$1" != run ] || compile >>"$state/install.log" 2>&1 || : # some packages bring files that no Python 3 compiles
    stamp >"$state/$1.stamp"
    for extra in $extras; do true >"$state/with-$extra"; done
    if [ -n "$locked" ]; then lock_stamp >"$state/$1.locked"; else rm -f "$state"/*.locked; fi
    rm -f "$state/unfinished"
}

# pip compiles for a Python without -O, and scripts/run starts one with it, which would compile all anew: at the first
# start, or at each one where PYTHONDONTWRITEBYTECODE is set, as in many containers.
compile() (
    unset PYTHONHOME PYTHONPATH PYTHONPYCACHEPREFIX
    exec "$venv/bin/python" -O -m compileall -q -j 0 "$venv/lib" "$root/addon"
)

give_up() {
    reason=$(grep -i '^error' "$state/install.log" | tail -n 1) || :
    fail "the installation failed (${reason:-no reason given}); $state/install.log has the details"
}

bootstrap() {
    ! is_sound || ! is_current "$1" || ! has_extras || return 0
    lock
    { is_sound && is_current "$1" && has_extras; } || install "$1"
    unlock
}
