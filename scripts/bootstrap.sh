#!/usr/bin/env bash
# Makes this checkout runnable, then runs the given command in its environment:
#
#   scripts/bootstrap.sh [command argument...]
#
# System packages that are missing come from apt; Python packages go into a private environment
# (.venv, or .venv-<distro> where a ROS distribution is sourced). A second run finds its stamp and
# starts the command at once. The output of apt and pip is in <environment>/install.log.
# PYTHON=/path/to/python3 chooses the interpreter; pip's own variables and files are honoured.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
log=/dev/null
child=

say() { printf '==> %s\n' "$*" >&2; }
die() {
    printf 'bootstrap: %s\n' "$*" >&2
    exit 1
}

# --- which ROS -----------------------------------------------------------------------------------

# A sourced distribution and the ros-* wheels must never meet in one process: two rclpy would mix.
choose_ros() {
    ros=wheels venv=$root/.venv
    [[ -n ${ROS_DISTRO:-} || -n ${AMENT_PREFIX_PATH:-} ]] || return 0
    [[ -z ${ROS_DISTRO:-} && $AMENT_PREFIX_PATH == "$venv" ]] && return 0
    if [[ -n ${ROS_DISTRO:-} ]] && "${PYTHON:-python3}" -c 'import rclpy' 2>/dev/null; then
        ros=$ROS_DISTRO venv=$root/.venv-$ROS_DISTRO
        return 0
    fi
    say "note: this shell has ROS variables (${ROS_DISTRO:-AMENT_PREFIX_PATH}) but no rclpy that imports; ignoring them"
    unset ROS_DISTRO ROS_VERSION ROS_PYTHON_VERSION AMENT_PREFIX_PATH AMENT_CURRENT_PREFIX \
        COLCON_PREFIX_PATH CMAKE_PREFIX_PATH RMW_IMPLEMENTATION PYTHONPATH LD_LIBRARY_PATH
}

# --- running things with a log and a sign of life ------------------------------------------------

stop() {
    trap - INT TERM
    if [[ -n $child ]]; then
        kill -TERM "$child" 2>/dev/null
        wait "$child" 2>/dev/null
    fi
    die 'stopped; run the same command again to go on'
}

last_error() {
    grep -aE '^ *(E:|ERROR:|OSError)' "$log" | grep -av 'subprocess' | tail -n 1 | sed 's/^ *//' | cut -c1-160
}

# logged NAME COMMAND...: output to the log, and every 15 s one line about what is going on.
logged() {
    local name=$1 begin=$SECONDS shown=0 now what
    shift
    printf '\n$ %s\n' "$*" >>"$log"
    "$@" >>"$log" 2>&1 </dev/null 9>&- &
    child=$!
    while kill -0 "$child" 2>/dev/null; do
        sleep 0.3
        now=$((SECONDS - begin))
        if ((now - shown >= 15)); then
            shown=$now
            what=$(grep -aoE '(Downloading|Processing|Installing|Collecting|Unpacking|Setting up) [^ ]+( packages)?' "$log" | tail -n 1)
            say "  $name, $now s: ${what:-working}"
        fi
    done
    wait "$child"
    local code=$?
    child=
    return "$code"
}

# --- system packages -----------------------------------------------------------------------------

have_library() { /sbin/ldconfig -p | grep -qF "$1 "; }

# OpenCV loads libGL, GLib and xcb; MuJoCo renders off screen through EGL with Mesa's software driver.
missing_libraries() {
    have_library libxcb.so.1 || echo libxcb1
    have_library libGL.so.1 || echo libgl1
    have_library libglib-2.0.so.0 || echo libglib2.0-0
    have_library libEGL.so.1 || echo libegl1
    compgen -G '/usr/lib*/*/dri/*_dri.so' >/dev/null || compgen -G '/usr/lib*/dri/*_dri.so' >/dev/null ||
        echo libgl1-mesa-dri
}

install_packages() {
    local as_root=() apt=(apt-get install -y --no-install-recommends "$@")
    command -v apt-get >/dev/null || die "missing system packages; install what your system calls: $*"
    if [[ $(id -u) != 0 ]]; then
        sudo -n true 2>/dev/null || die "missing system packages; run this once, then try again: sudo ${apt[*]}"
        as_root=(sudo -n)
    fi
    say "installing system packages: $*"
    apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive "${apt[@]}")
    # A fresh machine has no package lists yet, an idle one has old ones: then fetch them and try again.
    logged apt "${apt[@]}" && return
    logged apt "${as_root[@]}" apt-get update
    logged apt "${apt[@]}" && return
    die "apt could not install $* ($(last_error)); check the network and apt's sources; log: $log"
}

# --- Python --------------------------------------------------------------------------------------

# 3.10 is Humble's, 3.12 Jazzy's and Kilted's. Debian's python3 comes without ensurepip.
usable_python() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))' 2>/dev/null
}

find_python() {
    local candidate candidates=(python3 /usr/bin/python3 python3.11 python3.12 python3.10)
    [[ $ros == wheels ]] || candidates=(python3)
    [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        if usable_python "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

make_venv() {
    "$venv/bin/python" -c 'import pip' 2>/dev/null && usable_python "$venv/bin/python" && return
    say "creating ${venv#"$root"/} with $("$python" --version 2>&1) ($python)"
    rm -rf "$venv"/{bin,include,lib,lib64,share,pyvenv.cfg}
    logged venv "$python" -m venv "$venv" || die "cannot create the environment $venv; log: $log"
}

pip_install() {
    local attempt
    for attempt in 1 2; do
        logged pip "$venv/bin/python" -m pip --disable-pip-version-check --no-input install "$@" && return
        grep -aqE 'ResolutionImpossible|No space left on device' "$log" && break
        ((attempt == 1)) && say "pip failed ($(last_error)); trying once more" && sleep 3
    done
    grep -aq 'No space left on device' "$log" &&
        die "the disk is full; free 5 GB (12 GB with a CUDA build of torch) and run the same command again"
    die "pip could not install ($(last_error)); check the network and pip's index; log: $log"
}

# An editable install leaves the data files out; links give it the share folder of an installed package.
link_share() {
    local share=$venv/share/vla_prune_ros index=$venv/share/ament_index/resource_index/packages item
    mkdir -p "$share" "$index"
    for item in config launch package.xml; do ln -sfn "$root/$item" "$share/$item"; done
    ln -sfn "$root/resource/vla_prune_ros" "$index/vla_prune_ros"
}

# --- putting it together -------------------------------------------------------------------------

fingerprint() {
    {
        cat "$root"/{setup.py,setup.cfg,pyproject.toml,requirements/lock.txt,scripts/bootstrap.sh}
        printf '%s %s %s' "$root" "$ros" "${PYTHON:-}"
    } | sha256sum | cut -d' ' -f1
}

ready() { [[ -x $venv/bin/vla-prune && $(cat "$venv/.stamp" 2>/dev/null) == "$(fingerprint)" ]]; }

install() {
    local extras=libero,quant,train,dev packages begin=$SECONDS libero lock=(-c "$root/requirements/lock.txt")
    : >"$log"
    [[ $ros == wheels ]] && extras=ros,$extras
    mapfile -t packages < <(missing_libraries)
    if ! find_python >/dev/null; then
        [[ -z ${PYTHON:-} ]] || die "PYTHON=$PYTHON is not a Python from 3.10 to 3.12 with venv and ensurepip; name another"
        packages+=(python3 python3-venv)
    fi
    ((${#packages[@]})) && install_packages "${packages[@]}"
    python=$(find_python) || die 'no Python from 3.10 to 3.12 with venv; install one and name it: make PYTHON=/path/to/python3 setup'
    make_venv
    if ! "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        say 'note: the tried set of versions is for Python 3.11 and 3.12; on 3.10 pip chooses within the ranges of setup.py'
        lock=()
    fi
    say 'installing Python packages (1 GB to download where pip serves the CPU build of torch; minutes)'
    pip_install "${lock[@]}" -e "$root[$extras]"
    # hf-libero asks for its whole training code; its environments need what the extra brings.
    mapfile -t libero < <(grep -E '^(hf-libero|bddl)==' "$root/requirements/lock.txt")
    pip_install --no-deps "${libero[@]}"
    link_share
    fingerprint >"$venv/.stamp"
    say "ready after $((SECONDS - begin)) s"
}

choose_ros
if ! ready; then
    mkdir -p "$venv"
    echo '*' >"$venv/.gitignore"
    log=$venv/install.log
    trap stop INT TERM
    exec 9>"$venv/.lock"
    flock -n 9 || { say 'another run is installing; waiting for it' && flock 9; }
    ready || install
    exec 9>&-
    trap - INT TERM
fi

export PATH=$venv/bin:$PATH VIRTUAL_ENV=$venv
export AMENT_PREFIX_PATH=$venv${AMENT_PREFIX_PATH:+:$AMENT_PREFIX_PATH}
(($#)) || exit 0
exec "$@"
