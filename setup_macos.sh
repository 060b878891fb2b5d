#!/usr/bin/env bash
# Takes a bare Mac to a conda environment, py38, in which `python pong_pg.py` trains. What is there
# already is kept. Written for the bash 3.2 that macOS ships.
set -euo pipefail

# Anaconda's last release for both processors, with the SHA-256 of each installer.
miniconda=https://repo.anaconda.com/miniconda/Miniconda3-py312_25.7.0-2-MacOSX
sha256_arm64=8d67e7824088d7aa3bde938a4fc4365bb39ba1f710104cfe7bd9cfb9a99bd8d2
sha256_x86_64=e8f6aed58d708cc544ba6bacbebad86787cb8df56667ff4729ad2fe36af32846

usage() {
    cat <<'EOF'
usage: ./setup_macos.sh [options]

Sets up wget (through Homebrew), Miniconda, the conda environment py38 with what pong_pg.py
needs, and the ROM of Pong; then plays ten steps. Run it again at any point: it carries on.

  --accept-license  answer the question about the licence of the ROMs in advance
  --roms FILE       take the ROMs from this Roms.tar.gz instead of downloading them
  --prefix DIR      where Miniconda goes, if there is no conda yet (default: ~/miniconda3)
  --dry-run         print what would be done, and change nothing
  --help            print this
EOF
}

die() { # what failed, what to do, exit status
    printf 'setup_macos.sh: %s: %s, and run this again\n' "$1" "$2" >&2
    exit "${3:-1}"
}

bad_usage() { die "$1" 'see ./setup_macos.sh --help' 2; }

step() { printf '\n== %s\n' "$1"; }

run() { # every command that changes something goes through here; --dry-run only prints it
    if [ -z "$dry_run" ]; then "$@"; else printf 'would run:%s\n' "$(printf ' %q' "$@")"; fi
}

check_machine() {
    processor=$(uname -m)
    case "$(uname -s) $processor" in
        'Darwin arm64') sha256=$sha256_arm64 ;;
        'Darwin x86_64') sha256=$sha256_x86_64 ;;
        *) die "this is $(uname -s) on $processor" 'take a Mac (arm64 or x86_64)' ;;
    esac
}

install_wget() {
    step 'Homebrew and wget'
    command -v brew >/dev/null ||
        die 'Homebrew is missing' "install it as https://brew.sh says, its 'Next steps' too"
    command -v wget >/dev/null || run brew install wget ||
        die 'Homebrew could not install wget' 'mend what it says above'
}

find_conda() { # sets conda and base, or fails; a conda that does not work is none
    for conda in "$prefix/bin/conda" conda; do
        ! base=$("$conda" info --base 2>/dev/null) || return 0
    done
    conda=$prefix/bin/conda base=$prefix
    return 1
}

check_sha256() { # file, sum; a file with another sum is deleted
    local sum
    sum=$(shasum -a 256 <"$1") || die "shasum failed on $1" 'mend what it says above'
    [ "${sum%% *}" != "$2" ] || return 0
    rm -f "$1"
    die 'the Miniconda installer had a wrong SHA-256 and was deleted' 'check the network'
}

install_miniconda() {
    step 'Miniconda'
    ! find_conda || { echo "the conda of $base is there already" && return; }
    local another='give another place with --prefix DIR' url=$miniconda-$processor.sh
    case "$prefix" in
        *[[:space:]]*) die "Miniconda refuses a path with spaces ($prefix)" "$another" ;;
    esac
    # Deleted last of all: while the installer lies there, what is in the prefix is half-made.
    local installer=$prefix.installer.sh
    if [ ! -e "$installer" ]; then
        [ -z "$(ls -A "$prefix" 2>/dev/null)" ] ||
            die "$prefix is there but has no working conda" "move it away or $another"
        run mkdir -p "${prefix%/*}/" || die "cannot make the folder of $prefix" "$another"
        run wget -O "$installer.part" "$url" || die "cannot download $url" 'check the network'
        run mv -f "$installer.part" "$installer" || die "cannot write $installer" "$another"
    fi
    run check_sha256 "$installer" "$sha256"
    run bash "$installer" -b -u -p "$prefix" || # -u: also where a half-made Miniconda lies
        die 'the Miniconda installer failed' "mend what it says above, or remove $prefix"
    [ -n "$dry_run" ] || find_conda || die "$conda does not work" "remove $prefix"
    run rm -f "$installer"
}

append_line() { printf '\n%s\n' "$2" >>"$1"; } # the file may not end with a newline

add_conda_to_profile() { # for PATH, and for `conda activate`; into the file `conda init` would take
    step 'PATH in the profile of the shell'
    local shell=${SHELL:-zsh} profile setup=$base/etc/profile.d/conda.sh line
    line="export PATH=\"$base/condabin:\$PATH\"; . \"$setup\"  # from pong_pg's setup_macos.sh"
    case "${shell##*/}" in
        zsh) profile=${ZDOTDIR:-$HOME}/.zshrc ;; # .zprofile would leave out shells in a shell
        bash) # reads the first of these alone: a new .bash_profile would hide the others
            for profile in .bash_profile .bash_login .profile .bash_profile; do
                [ ! -e "$HOME/$profile" ] || break
            done
            profile=$HOME/$profile ;;
        *) echo "$shell is neither zsh nor bash: put $base/condabin on its PATH" && return ;;
    esac
    if grep -qsF "$setup" "$profile"; then # our line, or what `conda init` has written
        echo "$profile has it already"
    else
        run append_line "$profile" "$line" || die "cannot write $profile" "add to it: $line"
    fi
}

make_environment() {
    step 'The environment py38'
    local version='import pip, sys; print("%d.%d" % sys.version_info[:2])' found
    environment=$base/envs/py38
    python=$environment/bin/python
    found=$("$python" -c "$version" 2>/dev/null) || found=none
    case "$found" in
        3.8) echo "$environment is there already" ;;
        none) # conda-forge asks for no terms of service; what is half-made is made anew
            run "$conda" create -y -p "$environment" --override-channels -c conda-forge \
                python=3.8 pip || die 'conda could not make py38' 'mend what it says above' ;;
        *) die "$environment has Python $found, not 3.8" 'conda env remove -n py38' ;;
    esac
}

install_packages() {
    step 'Packages' # newer pip, setuptools and wheel cannot install gym 0.21
    run "$python" -m pip install 'pip<24.1' 'setuptools<66' 'wheel<0.39' ||
        die 'pip could not replace itself by an older one' 'mend what it says above'
    run "$python" -m pip install -r "$here/requirements.txt" ||
        die 'pip could not install requirements.txt' 'mend what it says above'
}

ask_for_license() {
    [ -z "$accept_license$dry_run" ] || return 0
    [ -t 0 ] || die 'there is no terminal to ask about the ROMs at' 'give --accept-license'
    printf '%s\n' 'AutoROM installs the ROMs of Atari 2600 games, and wants you to say:' \
        '"I own a license to these Atari 2600 ROMs. I agree to not distribute these ROMs."'
    printf 'Do you say so? [y/N] '
    local answer=''
    read -r answer || echo
    case "$answer" in
        [yY] | [yY][eE][sS]) ;;
        *) die 'without this licence there is no ROM' 'answer y once you have it' ;;
    esac
}

make_pong() { "$python" -c 'import gym; gym.make("Pong-v0")'; }

install_rom() {
    step 'The ROM of Pong'
    ! make_pong >/dev/null 2>&1 || { echo 'it is there already' && return; }
    ask_for_license
    local otherwise='check the network, or give --roms Roms.tar.gz'
    run "$environment/bin/AutoROM" --accept-license ${roms:+--source-file "$roms"} ||
        die 'AutoROM failed' "$otherwise"
    run make_pong || die 'AutoROM has left no ROM of Pong' "$otherwise" # it swallows failures
}

check() {
    step 'Versions of gym and numpy'
    run "$python" -c 'import gym; print(gym.__version__); import numpy; print(numpy.__version__)' ||
        die 'gym or numpy does not start' 'conda env remove -n py38'
    step 'Ten steps of Pong'
    run "$python" -c '
import gym
env = gym.make("Pong-v0")
env.reset()
for _ in range(10):
    env.step(env.action_space.sample())
print("ten steps played")' || die 'Pong does not play' 'conda env remove -n py38'
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
accept_license='' dry_run='' roms='' prefix=${HOME:?}/miniconda3
while [ $# -gt 0 ]; do
    case "$1" in
        --accept-license) accept_license=yes ;;
        --dry-run) dry_run=yes && export PYTHONDONTWRITEBYTECODE=1 ;;
        --roms | --prefix)
            [ -n "${2:-}" ] || bad_usage "$1 needs a path"
            case "$2" in /*) path=$2 ;; *) path=$PWD/$2 ;; esac
            if [ "$1" = --roms ]; then roms=$path; else prefix=${path%/}; fi
            shift ;;
        --help) usage && exit ;;
        *) bad_usage "there is no option $1" ;;
    esac
    shift
done
[ -n "$prefix" ] || bad_usage '--prefix / is no place for Miniconda'
[ -z "$roms" ] || [ -r "$roms" ] || bad_usage "--roms: cannot read $roms"

check_machine
install_wget
install_miniconda
add_conda_to_profile
make_environment
install_packages
install_rom
check
step 'Done. In a new terminal:'
printf '%s\n' "cd \"$here\"" 'conda activate py38' 'python pong_pg.py'
