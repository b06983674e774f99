//! A reading position in bytes that are not trusted: every step is checked against what is left.

use crate::error::Error;

pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub fn offset(&self) -> u64 {
        self.position as u64
    }

    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// The next `n` bytes; `what` names them in the error.
    #[inline]
    pub fn take(&mut self, n: u64, what: &'static str) -> Result<&'a [u8], Error> {
        let left = &self.bytes[self.position..];
        match usize::try_from(n).ok().and_then(|n| left.get(..n)) {
            Some(taken) => {
                self.position += taken.len();
                Ok(taken)
            }
            None => Err(Error::Truncated { what, offset: self.offset(), needed: n, available: left.len() as u64 }),
        }
    }

    #[inline]
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Error> {
        let taken = self.take(N as u64, what)?;
        Ok(taken.try_into().expect("take returned exactly N bytes"))
    }

    #[inline]
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    #[inline]
    pub fn u64(&mut self, what: &'static str) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A length-prefixed string. It must be UTF-8.
    #[inline]
    pub fn string(&mut self, what: &'static str) -> Result<&'a str, Error> {
        let length = self.u64(what)?;
        let offset = self.offset();
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes).map_err(|cause| Error::Malformed {
            problem: format!("{what} is not UTF-8 text"),
            offset: offset + cause.valid_up_to() as u64,
            advice: "the file is damaged or not written to the GGUF specification, convert it again",
        })
    }
}
