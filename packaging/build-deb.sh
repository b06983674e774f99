#!/bin/sh
# Builds the Debian package into dist/. Needs cargo-deb (`cargo install cargo-deb`).
#
#   packaging/build-deb.sh             for this machine
#   packaging/build-deb.sh aarch64     of the static binary that packaging/build-static.sh made, for such machines
set -eu
cd "$(dirname "$0")/.."
built="${CARGO_TARGET_DIR:-target}"

cargo build --release --locked -p hublabio-cli --bin hublab
mkdir -p dist/completions
"$built/release/hublab" completions bash > dist/completions/hublab.bash
"$built/release/hublab" completions zsh > dist/completions/_hublab
"$built/release/hublab" completions fish > dist/completions/hublab.fish

set -- ${1:+--target "$1-unknown-linux-musl" --no-strip}
cargo deb --no-build --locked -p hublabio-cli --output dist/ "$@"
