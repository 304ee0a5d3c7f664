# Shell functions of setup and its like; to be sourced from the root of the tree.
# shellcheck shell=sh

fail_with() {
    echo "$1" >&2
    exit 1
}

# Installs packages by the system's package manager, or fails with the one command to run. Quiet for what is there.
install_packages() {
    case $(uname -s) in
        Darwin)
            command -v brew > /dev/null || fail_with "Install Homebrew (https://brew.sh), then run: brew install $*"
            echo "Installing by Homebrew: $*"
            brew install "$@"
            ;;
        *)
            command -v apt-get > /dev/null || fail_with "There is no apt-get here; install what Debian calls: $*"
            # shellcheck disable=SC2046
            set -- $(missing_packages "$@")
            [ $# -gt 0 ] || return 0
            command="apt-get install -y --no-install-recommends $*"
            needs_root "apt-get update && sudo $command"
            echo "Installing by apt-get: $*"
            refresh_packages
            # shellcheck disable=SC2086
            as_root $command || {
                tail -n 20 _cmake/apt.log >&2
                fail_with "This failed: $command"
            }
            ;;
    esac
}

missing_packages() {
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2> /dev/null | grep -q 'ok installed' || echo "$package"
    done | awk '!seen[$0]++'
}

refresh_packages() {
    needs_root "apt-get update"
    as_root apt-get update || {
        tail -n 20 _cmake/apt.log >&2
        fail_with "This failed: apt-get update"
    }
}

needs_root() { # needs_root COMMAND
    [ "$(id -u)" = 0 ] || sudo -n true 2> /dev/null || fail_with "Please run: sudo $1"
}

# shellcheck disable=SC2024
as_root() {
    mkdir -p _cmake
    if [ "$(id -u)" = 0 ]; then
        DEBIAN_FRONTEND=noninteractive "$@" >> _cmake/apt.log 2>&1 < /dev/null
    else
        sudo -n env DEBIAN_FRONTEND=noninteractive "$@" >> _cmake/apt.log 2>&1 < /dev/null
    fi
}
