# To be read by other scripts: builds for Linux machines of another kind, static, on musl.
#
# Rust's own linker links, so that no other machine's libraries are needed. A few files of `ring`, the cryptography of TLS, are C
# and assembler: clang compiles them for either machine.

# cross MACHINE COMMAND…: runs cargo with what it needs for the target MACHINE-unknown-linux-musl.
cross() {
    cross_target="$1-unknown-linux-musl"
    shift
    rustup target list --installed | grep -qx "$cross_target" || rustup target add "$cross_target"
    # The names that the crate `cc` and cargo look for, with the target's hyphens as underscores.
    cross_lower=$(echo "$cross_target" | tr - _)
    cross_upper=$(echo "$cross_lower" | tr '[:lower:]' '[:upper:]')
    # Freestanding: what ring needs of the C library, it declares itself.
    env "CC_$cross_lower=clang" "AR_$cross_lower=llvm-ar" "CFLAGS_$cross_lower=--target=$cross_target" \
        "CARGO_TARGET_${cross_upper}_LINKER=rust-lld" \
        "CARGO_TARGET_${cross_upper}_RUSTFLAGS=-C linker-flavor=ld.lld -C target-feature=+crt-static" \
        "$@"
}
