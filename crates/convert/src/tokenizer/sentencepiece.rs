//! `tokenizer.model`, a SentencePiece model.
//!
//! It is one protobuf message; this reads the few fields that GGUF has a place for and steps over the others. Numbers
//! of fields are those of `sentencepiece_model.proto`.
//!
//! ```text
//! ModelProto: 1 pieces (repeated) { 1 text, 2 score: f32, 3 type }
//!             2 trainer { 3 model type, 40 unknown id, 41 BOS id, 42 EOS id, 43 padding id }
//!             3 normalizer { 2 character map, 3 add a space before the text, 4 merge spaces }
//! ```

use crate::error::Error;

const BAD_FILE: &str =
    "this is no SentencePiece model, or a damaged one: fetch it again, or remove it if there is a tokenizer.json";

/// What a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are SentencePiece's own
pub enum PieceType {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// One piece; its place in the list is its id.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// Its text, with `▁` for a space.
    pub text: String,
    /// Its score.
    pub score: f32,
    /// What it is.
    pub ty: PieceType,
}

/// What a model says.
#[derive(Clone, Debug)]
pub struct SentencePiece {
    /// All pieces.
    pub pieces: Vec<Piece>,
    /// Whether it merges pairs; else it looks for the likeliest way to cut a text (unigram).
    pub is_bpe: bool,
    /// Whether a space is put before a text.
    pub add_dummy_prefix: bool,
    /// Whether runs of spaces become one and those at the ends go.
    pub remove_extra_whitespaces: bool,
    /// Which characters become which, in the library's own form; empty for none.
    pub charsmap: Vec<u8>,
    /// Ids of the unknown, BOS, EOS and padding piece, where there is one.
    pub special_ids: [(&'static str, Option<u32>); 4],
}

impl SentencePiece {
    /// Reads a model.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        // Defaults are those of the proto file.
        let mut model = Self {
            pieces: Vec::new(),
            is_bpe: false,
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            charsmap: Vec::new(),
            special_ids: [("unk", Some(0)), ("bos", Some(1)), ("eos", Some(2)), ("pad", None)],
        };
        for field in Message(bytes) {
            match field? {
                (1, Field::Bytes(bytes)) => model.pieces.push(piece(bytes, model.pieces.len())?),
                (2, Field::Bytes(bytes)) => model.trainer(bytes)?,
                (3, Field::Bytes(bytes)) => {
                    for field in Message(bytes) {
                        match field? {
                            (2, Field::Bytes(map)) => model.charsmap = map.to_vec(),
                            (3, Field::Number(add)) => model.add_dummy_prefix = add != 0,
                            (4, Field::Number(remove)) => model.remove_extra_whitespaces = remove != 0,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if model.pieces.is_empty() {
            return Err(Error::malformed("it has no pieces", BAD_FILE));
        }
        let n_pieces = model.pieces.len() as u64;
        for (_, id) in &mut model.special_ids {
            *id = id.filter(|&id| u64::from(id) < n_pieces);
        }
        Ok(model)
    }

    fn trainer(&mut self, bytes: &[u8]) -> Result<(), Error> {
        for field in Message(bytes) {
            let (number, Field::Number(value)) = field? else { continue };
            // Negative numbers, which stand for none, do not fit.
            let id = u32::try_from(value).ok();
            match number {
                3 => self.is_bpe = value == 2,
                40..=43 => self.special_ids[number as usize - 40].1 = id,
                _ => {}
            }
        }
        Ok(())
    }
}

fn piece(bytes: &[u8], id: usize) -> Result<Piece, Error> {
    let mut piece = Piece { text: String::new(), score: 0.0, ty: PieceType::Normal };
    for field in Message(bytes) {
        match field? {
            (1, Field::Bytes(text)) => {
                let text = std::str::from_utf8(text)
                    .map_err(|_| Error::malformed(format!("piece {id} is not UTF-8"), BAD_FILE))?;
                text.clone_into(&mut piece.text);
            }
            (2, Field::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Field::Number(ty)) => {
                piece.ty = match ty {
                    1 => PieceType::Normal,
                    2 => PieceType::Unknown,
                    3 => PieceType::Control,
                    4 => PieceType::UserDefined,
                    5 => PieceType::Unused,
                    6 => PieceType::Byte,
                    _ => return Err(Error::malformed(format!("piece {id} has the type {ty}"), BAD_FILE)),
                };
            }
            _ => {}
        }
    }
    if !piece.score.is_finite() {
        return Err(Error::malformed(format!("piece {id} has the score {}", piece.score), BAD_FILE));
    }
    Ok(piece)
}

/// The value of a field.
enum Field<'a> {
    Number(u64),
    Fixed32(u32),
    Fixed64,
    Bytes(&'a [u8]),
}

/// The fields of a message, in order: number and value. Ends after the first error.
struct Message<'a>(&'a [u8]);

impl<'a> Message<'a> {
    fn next_field(&mut self) -> Option<(u64, Field<'a>)> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Field::Number(self.varint()?),
            1 => self.take(8).map(|_| Field::Fixed64)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            // Groups, which nobody uses any more.
            _ => return None,
        };
        Some((key >> 3, value))
    }

    /// Seven bits a byte, the lowest first; the last byte has its high bit clear.
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

impl<'a> Iterator for Message<'a> {
    type Item = Result<(u64, Field<'a>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.next_field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or_else(|| Error::malformed("a field is cut off or of no known kind", BAD_FILE)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two pieces, `<unk>` and `▁a` with the score -1.5, of a BPE model without padding.
    const MODEL: &[u8] = b"\x0a\x09\x0a\x05<unk>\x18\x02\x0a\x0b\x0a\x04\xe2\x96\x81a\x15\x00\x00\xc0\xbf\
        \x12\x0e\x18\x02\xd8\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x1a\x02\x18\x00";

    #[test]
    fn a_model_is_read() {
        let model = SentencePiece::parse(MODEL).unwrap();
        assert_eq!(model.pieces[0], Piece { text: "<unk>".into(), score: 0.0, ty: PieceType::Unknown });
        assert_eq!(model.pieces[1], Piece { text: "▁a".into(), score: -1.5, ty: PieceType::Normal });
        assert!(model.is_bpe && !model.add_dummy_prefix);
        assert_eq!(model.special_ids, [("unk", Some(0)), ("bos", Some(1)), ("eos", None), ("pad", None)]);
    }

    #[test]
    fn a_model_that_is_cut_or_changed_never_panics() {
        for length in 0..MODEL.len() {
            let _ = SentencePiece::parse(&MODEL[..length]);
        }
        for place in 0..MODEL.len() {
            for byte in 0..=255 {
                let mut bytes = MODEL.to_vec();
                bytes[place] = byte;
                let _ = SentencePiece::parse(&bytes);
            }
        }
        for bytes in [&b""[..], b"\x0a", b"\x0b", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x0a\x02\x18\x09"]
        {
            assert!(SentencePiece::parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
