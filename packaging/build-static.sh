#!/bin/sh
# Builds static binaries that run on every Linux of their kind, into dist/:
#
#   packaging/build-static.sh                  x86-64 and aarch64
#   packaging/build-static.sh aarch64          one of them
#
# Rust's own linker links both, so that no other machine's libraries are needed. A few files of `ring`, the cryptography of
# TLS, are C and assembler: clang compiles them for either machine (on Debian: apt install clang llvm).
set -eu
cd "$(dirname "$0")/.."

build() {
    target="$1-unknown-linux-musl"
    rustup target add "$target"
    # The names that the crate `cc` and cargo look for, with the target's hyphens as underscores.
    lower=$(echo "$target" | tr - _)
    upper=$(echo "$lower" | tr '[:lower:]' '[:upper:]')
    # Freestanding: what ring needs of the C library, it declares itself.
    env "CC_$lower=clang" "AR_$lower=llvm-ar" "CFLAGS_$lower=--target=$1-unknown-linux-musl" \
        "CARGO_TARGET_${upper}_LINKER=rust-lld" \
        "CARGO_TARGET_${upper}_RUSTFLAGS=-C linker-flavor=ld.lld -C target-feature=+crt-static -C strip=symbols" \
        cargo build --release --locked -p hublabio-cli --bin hublab --target "$target"
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
