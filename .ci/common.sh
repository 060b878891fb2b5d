# shellcheck shell=bash
# What .ci/run, .ci/bare and .ci/matrix share. They source it, and it takes them to the repository.
# A "machine" is a folder that debootstrap filled: a whole Debian with a Python of its own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
unset "${!PYTHON@}" # which a newcomer has not set; PYTHONDONTWRITEBYTECODE hides what Python keeps
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

find_python() { # VERSION: prints the folder of a python3 that is of this version
    local python
    for python in "$(command -v "python$1" || true)" "$(command -v python3 || true)" \
        "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python3; do
        if [ "$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" = "$1" ]; then
            "$python" -c 'import os, sys; print(os.path.dirname(sys.executable))'
            return
        fi
    done 2>/dev/null
    echo "no Python $1 found" >&2
    return 1
}

readme_commands() { # NAME: prints the fenced block that follows the line <!-- NAME --> in the docs
    cat "$root/README.md" "$root/docs/install.md" |
        sed -n "/^<!-- $1 -->/,/^\`\`\`\$/p" | sed '1,2d;$d' | grep .
}

# README's test command in its two halves. On Python 3.8 the ROM is installed between them.

install_as_in_readme() { # FOLDER-OF-PYTHON: makes the .venv of the clone that we are in
    local command
    command=$(readme_commands test)
    PATH="$1:$PATH" bash -euc "${command%%&& .venv/bin/python -m pytest*}" || return
    if .venv/bin/python -c 'import sys; sys.exit(sys.version_info >= (3, 9))'; then
        bash -euc "$(readme_commands 'rom without a network')" # where AutoROM cannot download
    fi
}

test_as_in_readme() { # FILE-OR-FLAG...
    local command
    command=$(readme_commands test)
    bash -euc ".venv/bin/python -m pytest${command##*-m pytest} $*"
}

# ---- bare machines ------------------------------------------------------------------------------

why_no_machine() { # prints what is missing here for a bare Debian; nothing, if all is there
    if [ "$(id -u)" != 0 ]; then
        echo "only root may build one"
    elif ! grep -qsx 'ID=debian' /etc/os-release || ! command -v apt-get >/dev/null; then
        echo "this is no Debian"
    elif ! unshare --mount --pid --fork --mount-proc mount -t tmpfs tmpfs /mnt 2>/dev/null; then
        echo "this container may not mount"
    fi
}

in_own_namespace() { # COMMAND...: what it mounts or starts is gone when it or we end, by any end
    env --default-signal=INT,QUIT setpriv --pdeathsig KILL \
        unshare --mount --pid --fork --kill-child --mount-proc "$@"
}

start_machine() { # MACHINE USER: gives it what a running one has, a copy of the repository, a USER
    local bundle=/etc/ssl/certs/ca-certificates.crt home file
    cp --remove-destination "${PIP_CERT:-${SSL_CERT_FILE:-$bundle}}" "$1$bundle"
    cp --remove-destination /etc/resolv.conf "$1/etc/resolv.conf"
    mount -t proc proc "$1/proc"
    mount --rbind --make-rprivate /dev "$1/dev"
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$1/dev/pts"
    mount -t tmpfs -o mode=1777 tmpfs "$1/dev/shm"
    [ -d "$1$(home_of "$2")" ] || chroot "$1" useradd --create-home "$2"
    home=$1$(home_of "$2")
    for file in /etc/pip.conf /etc/xdg/pip/pip.conf; do # the way to a registry; no file of here
        copy_pip_conf "$file" "$1$file"
    done
    for file in .config/pip/pip.conf .pip/pip.conf; do
        copy_pip_conf "$HOME/$file" "$home/$file"
    done
    rm -rf "${home:?}/pong_pg"
    git clone -q --depth 1 "file://$root" "$home/pong_pg"
    chroot "$1" chown -R "$2:" "$(home_of "$2")"
}

home_of() { # USER
    [ "$1" = root ] && echo /root || echo "/home/$1"
}

copy_pip_conf() { # FROM TO: without the lines that name a file or folder, which is not there
    if [ -f "$1" ]; then
        mkdir -p "$(dirname "$2")"
        grep -vE 'file:|(^|=)[[:space:]]+/|=/' "$1" >"$2" || true
    fi
}

on_machine() { # MACHINE USER COMMAND: as typed into a terminal in the clone there
    local way # of pip to its registry
    mapfile -t way < <(env | grep -iE '^(PIP_|(https?|no)_proxy=)' | grep -vE '=(/|file:)')
    # shellcheck disable=SC2016 # expanded there
    chroot --userspec="$2" "$1" env -i "${way[@]}" PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
        HOME="$(home_of "$2")" USER="$2" PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 \
        bash -euc 'cd ~/pong_pg; eval "$1"' - "$3"
}
