//! Any bytes as server-sent events, as the client reads them: the same events however they are cut. The first two bytes say
//! where.
#![no_main]

use hublabio_sdk::ai::fuzzing::events;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&at, bytes)) = data.split_first_chunk() else { return };
    events(bytes, usize::from(u16::from_le_bytes(at)));
});
