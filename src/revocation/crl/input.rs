//! What was fetched: a list as it is (DER), or in its textual form (RFC 7468, section 6), or something else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::Error;

/// The DER of a list. Binary is not copied; text becomes a copy of three quarters of its size.
///
/// Text must hold exactly one `X509 CRL` block. Around the block anything is tolerated that is not another block,
/// because RFC 7468, section 2, allows it and `openssl crl -text` writes it; a second block of any kind is refused,
/// because half of such a file would be ignored.
pub(super) fn der(input: &Bytes, max_bytes: usize) -> Result<Bytes, Error> {
    if input.len() > max_bytes {
        return Err(Error::TooLarge { size: input.len(), max: max_bytes });
    }
    if input.first() == Some(&super::der::SEQUENCE) {
        return Ok(input.clone());
    }
    let Some(begin) = find(input, BEGIN, 0) else {
        return Err(Error::NotAList(looks_like(input)));
    };
    let label = input.get(begin..).unwrap_or_default();
    if !label.starts_with(FIRST) {
        let label: String = label.iter().skip(BEGIN.len()).take(32).map(|byte| char::from(*byte)).collect();
        let label = label.split("--").next().unwrap_or_default().escape_default().to_string();
        return Err(Error::NotAList(format!("a PEM block of `{label}`")));
    }
    let start = begin + FIRST.len();
    let end = find(input, LAST, start);
    let end = end.ok_or(Error::Pem { at: begin, what: "the block has no end: truncated" })?;
    if let Some(at) = find(input, BEGIN, end) {
        return Err(Error::Pem { at, what: "a second block" });
    }
    decode(input.get(start..end).unwrap_or_default(), start)
}

const BEGIN: &[u8] = b"-----BEGIN ";
const FIRST: &[u8] = b"-----BEGIN X509 CRL-----";
const LAST: &[u8] = b"-----END X509 CRL-----";

fn find(bytes: &[u8], what: &[u8], from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    // Dashes are rare in base64 and in binary alike: most bytes are looked at once.
    let mut starts = rest.iter().enumerate().filter(|(_, byte)| **byte == b'-').map(|(at, _)| at);
    starts.find(|at| rest.get(*at..).is_some_and(|rest| rest.starts_with(what))).map(|at| from + at)
}

/// Base64 with white space anywhere, piece by piece.
fn decode(text: &[u8], start: usize) -> Result<Bytes, Error> {
    let mut decoded = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let mut piece = [0; PIECE];
    let mut filled = 0;
    let mut flush = |piece: &[u8], at: usize| {
        let mut bytes = [0; PIECE];
        let count = STANDARD.decode_slice(piece, &mut bytes);
        let count = count.map_err(|_| Error::Pem { at: start + at, what: "not base64" })?;
        decoded.extend_from_slice(bytes.get(..count).unwrap_or_default());
        Ok::<(), Error>(())
    };
    let mut is_padded = false;
    for (at, byte) in text.iter().enumerate().filter(|(_, byte)| !byte.is_ascii_whitespace()) {
        if is_padded && filled == 0 {
            return Err(Error::Pem { at: start + at, what: "more base64 behind its end" });
        }
        if let Some(place) = piece.get_mut(filled) {
            *place = *byte;
        }
        filled += 1;
        if filled == PIECE {
            is_padded = *byte == b'=';
            flush(&piece, at)?;
            filled = 0;
        }
    }
    flush(piece.get(..filled).unwrap_or_default(), text.len())?;
    Ok(Bytes::from(decoded))
}

/// Base64 is decoded in pieces of this many characters; a multiple of four.
const PIECE: usize = 1024;

/// What was sent instead of a list, for whoever has to find out why.
fn looks_like(bytes: &[u8]) -> String {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    let start = text.get(..text.len().min(48)).unwrap_or_default();
    match bytes {
        [] => return "nothing at all".to_owned(),
        [0x1f, 0x8b, ..] => return "it is compressed (gzip)".to_owned(),
        [b'P', b'K', 3, 4, ..] => return "it is compressed (zip)".to_owned(),
        [b'B', b'Z', b'h', ..] => return "it is compressed (bzip2)".to_owned(),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => return "it is compressed (zstd)".to_owned(),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => return "it is compressed (xz)".to_owned(),
        _ => {}
    }
    let kind = match text.first() {
        None => return "white space only".to_owned(),
        Some(b'<') => "it looks like HTML or XML",
        Some(b'{' | b'[') => "it looks like JSON",
        Some(_) if start.iter().all(|byte| (b' '..=b'~').contains(byte) || byte.is_ascii_whitespace()) => {
            "it looks like text"
        }
        Some(_) => "neither DER nor PEM",
    };
    format!("{kind}, beginning `{}`", start.escape_ascii())
}
