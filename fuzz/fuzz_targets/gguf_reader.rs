//! Any bytes to the GGUF reader: they are refused with a message, or everything in them can be walked, decoded and
//! written again.
#![no_main]

use hublabio_gguf::{Error, GgufFile, Writer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match GgufFile::from_vec(data.to_vec()) {
        Ok(file) => walk(&file),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});

fn walk(file: &GgufFile) {
    for (key, value) in file.metadata().iter() {
        assert!(file.metadata().get(key).is_some());
        let _ = (value.to_string(), value.as_u64(), value.as_f64());
        // The typed getters must answer or refuse, whatever the value is.
        let metadata = file.metadata();
        let _ = (metadata.u32(key), metadata.u64(key), metadata.i32(key), metadata.f32(key), metadata.bool(key));
        let _ = (metadata.str(key), metadata.str_array(key), metadata.bool_array(key));
        let _ = (metadata.f32_array(key), metadata.i32_array(key), metadata.u32_array(key));
    }
    for view in file.views() {
        assert_eq!(view.data.len() as u64, view.info.n_bytes());
        assert_eq!(view.row_bytes() as u64 * view.info.n_rows(), view.info.n_bytes());
        // A block of at least one byte holds at most 256 weights, so decoding is bounded by the input's size.
        match view.to_f32() {
            Ok(weights) => assert_eq!(weights.len() as u64, view.info.n_elements()),
            Err(error) => assert!(!view.info.ty.can_decode(), "{error}"),
        }
        assert_eq!(file.tensor(&view.info.name).map(|found| found.data.as_ptr()), Some(view.data.as_ptr()));
    }
    match rewrite(file) {
        // The same content, whatever gaps and order of offsets the input had.
        Ok(bytes) => {
            let again = GgufFile::from_vec(bytes).expect("what the writer wrote can be read");
            assert_eq!(again.metadata().len(), file.metadata().len());
            assert!(again.views().zip(file.views()).all(|(a, b)| a.info.name == b.info.name && a.data == b.data));
        }
        // The writer is stricter than the reader about names of 64 bytes and odd alignments.
        Err(Error::InTensor { .. } | Error::Writer { .. }) => {}
        Err(error) => panic!("a file that was read cannot be written: {error}"),
    }
}

fn rewrite(file: &GgufFile) -> Result<Vec<u8>, Error> {
    // An alignment of a gigabyte is valid, but padding to it would make the fuzzer wait for nothing.
    if file.alignment() > 4096 {
        return Err(Error::Writer { problem: "large alignment".to_owned(), advice: "" });
    }
    let mut writer = Writer::with_metadata(file.metadata().clone());
    for info in file.tensors() {
        writer.add_tensor(&info.name, &info.dims, info.ty)?;
    }
    writer.to_bytes(file.views().map(|view| view.data))
}
