#!/bin/sh
# Builds static binaries that run on every Linux of their kind, into dist/:
#
#   packaging/build-static.sh                  x86-64 and aarch64
#   packaging/build-static.sh aarch64          one of them
#
# Needs clang and llvm (on Debian: apt install clang llvm); cross.sh says for what.
set -eu
cd "$(dirname "$0")/.."

. packaging/cross.sh

build() {
    target="$1-unknown-linux-musl"
    cross "$1" cargo build --release --locked -p hublabio-cli --bin hublab --target "$target" \
        --config 'profile.release.strip="symbols"'
    mkdir -p dist
    cp "${CARGO_TARGET_DIR:-target}/$target/release/hublab" "dist/hublab-$1-linux"
    echo "dist/hublab-$1-linux"
}

for machine in ${*:-x86_64 aarch64}; do
    case "$machine" in
        x86_64 | aarch64) build "$machine" ;;
        *)
            echo "there is no build for $machine: x86_64 and aarch64 are possible" >&2
            exit 2
            ;;
    esac
done
