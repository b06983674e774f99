//! Any bytes as a safetensors file: the header is refused with a message, or the tensors fill the file one behind the other.
#![no_main]

use hublabio_convert::safetensors::Header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&first, rest)) = data.split_first_chunk() else { return };
    let file_bytes = data.len() as u64;
    let Ok(length) = Header::length(first, file_bytes) else { return };
    match Header::parse(&rest[..length as usize], file_bytes) {
        Ok(header) => {
            let mut expected = 0;
            for tensor in &header.tensors {
                assert_eq!(tensor.begin, expected);
                let n = tensor.shape.iter().product::<u64>();
                assert_eq!(tensor.end - tensor.begin, n * tensor.dtype.bytes());
                expected = tensor.end;
            }
            assert_eq!(header.data_start + expected, file_bytes);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
