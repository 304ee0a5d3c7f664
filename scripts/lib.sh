# Shell functions of setup and its like; to be sourced from the root of the tree.
# shellcheck shell=sh

# Installs packages by the system's package manager, or fails with the one command to run.
install_packages() {
    case $(uname -s) in
        Darwin)
            command -v brew > /dev/null || fail_with "install Homebrew (https://brew.sh), then: brew install $*"
            echo "Installing by Homebrew: $*"
            brew install "$@"
            ;;
        *)
            command -v apt-get > /dev/null || fail_with "no apt-get here; install what Debian calls: $*"
            as_root="env"
            if [ "$(id -u)" != 0 ]; then
                sudo -n true 2> /dev/null || fail_with "run: sudo apt-get update && sudo apt-get install -y --no-install-recommends $*"
                as_root="sudo -n"
            fi
            echo "Installing by apt-get: $*"
            mkdir -p _cmake
            {
                $as_root apt-get update &&
                    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
            } > _cmake/apt.log 2>&1 < /dev/null || {
                tail -n 20 _cmake/apt.log >&2
                fail_with "the packages could not be installed; try: apt-get update && apt-get install $*"
            }
            ;;
    esac
}

fail_with() {
    echo "$1" >&2
    exit 1
}
