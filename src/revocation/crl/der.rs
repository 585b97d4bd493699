//! A reader of DER (ITU-T X.690, section 10): definite, minimal lengths and single-byte tags, or nothing.
//!
//! It borrows and never allocates. **Invariant:** whatever it hands out lies inside the bytes that it was given.

/// What is wrong with the bytes, and where: an offset from the start of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) at: usize,
    pub(super) what: &'static str,
}

/// One tag, length and value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<'a> {
    pub(super) tag: u8,
    /// The contents.
    pub(super) body: &'a [u8],
    /// Tag, length and contents.
    pub(super) whole: &'a [u8],
    /// Where the contents begin.
    pub(super) at: usize,
}

impl<'a> Value<'a> {
    /// A reader of the contents.
    #[inline]
    pub(super) fn inside(&self) -> Reader<'a> {
        Reader { rest: self.body, at: self.at }
    }

    /// The contents of a BIT STRING of whole bytes.
    pub(super) fn whole_bytes(self) -> Result<&'a [u8], Fault> {
        match self.body.split_first() {
            Some((0, bytes)) => Ok(bytes),
            _ => Err(self.fault("a BIT STRING that is not whole bytes")),
        }
    }

    /// The contents of a BOOLEAN.
    pub(super) fn boolean(self) -> Result<bool, Fault> {
        match self.body {
            [0x00] => Ok(false),
            [0xff] => Ok(true),
            _ => Err(self.fault("a BOOLEAN that is neither TRUE nor FALSE")),
        }
    }

    /// A fault of this value.
    pub(super) fn fault(&self, what: &'static str) -> Fault {
        Fault { at: self.at.saturating_sub(self.whole.len() - self.body.len()), what }
    }
}

/// Reads values one behind the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader of bytes that begin at the offset `at`.
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { rest: bytes, at }
    }

    /// Where the next value begins.
    #[inline]
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Whether nothing is left.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// What is left.
    #[inline]
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The tag of the next value, if there is one.
    #[inline]
    pub(super) fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// The next value.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Value<'a>, Fault> {
        let (tag, header, length) = match *self.rest {
            [tag, length @ 0..=0x7f, ..] => (tag, 2, usize::from(length)),
            _ => self.long_form()?,
        };
        if tag & 0x1f == 0x1f {
            return Err(self.fault("a tag of several bytes"));
        }
        let Some((whole, rest)) = self.rest.split_at_checked(header + length) else {
            return Err(self.fault("longer than what holds it: truncated, or a wrong length"));
        };
        let value = Value { tag, body: whole.get(header..).unwrap_or_default(), whole, at: self.at + header };
        self.rest = rest;
        self.at += whole.len();
        Ok(value)
    }

    /// The next value, which must have this tag.
    #[inline]
    pub(super) fn expect(&mut self, tag: u8, what: &'static str) -> Result<Value<'a>, Fault> {
        let start = self.at;
        match self.peek() {
            Some(found) if found == tag => self.next(),
            _ => Err(Fault { at: start, what }),
        }
    }

    /// The next value, if it has this tag.
    #[inline]
    pub(super) fn optional(&mut self, tag: u8) -> Result<Option<Value<'a>>, Fault> {
        if self.peek() == Some(tag) { self.next().map(Some) } else { Ok(None) }
    }

    /// Makes sure that nothing is left.
    #[inline]
    pub(super) fn end(&self, what: &'static str) -> Result<(), Fault> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.fault(what)) }
    }

    /// A fault at the next value.
    pub(super) fn fault(&self, what: &'static str) -> Fault {
        Fault { at: self.at, what }
    }

    /// Tag, length of the header and length of the contents, where those take several bytes to say.
    fn long_form(&self) -> Result<(u8, usize, usize), Fault> {
        let (tag, count, bytes) = match *self.rest {
            [tag, count @ 0x81..=0x84, ref bytes @ ..] => (tag, usize::from(count & 0x7f), bytes),
            [_, 0x80, ..] => return Err(self.fault("an indefinite length, which DER has not")),
            [_, _, ..] => return Err(self.fault("a length of over four bytes")),
            _ => return Err(self.fault("ends within a value: truncated")),
        };
        let Some(digits) = bytes.get(..count) else {
            return Err(self.fault("ends within a length: truncated"));
        };
        let length = digits.iter().fold(0, |length: usize, digit| length << 8 | usize::from(*digit));
        if length < 0x80 || digits.first() == Some(&0) {
            return Err(self.fault("a length that is not minimal"));
        }
        Ok((tag, 2 + count, length))
    }
}

/// Tags of the universal class, and those of the context that are used here.
pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const ENUMERATED: u8 = 0x0a;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
pub(super) const SEQUENCE: u8 = 0x30;
/// `[0]`, constructed.
pub(super) const CONTEXT_0: u8 = 0xa0;
/// `[1]`, constructed.
pub(super) const CONTEXT_1: u8 = 0xa1;

/// An object identifier in dotted form, for messages; at most 32 arcs of it.
pub(super) fn dotted(oid: &[u8]) -> String {
    let mut arcs: Vec<u64> = Vec::new();
    let mut arc: u64 = 0;
    for byte in oid {
        arc = arc.wrapping_shl(7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if arcs.is_empty() {
                let first = (arc / 40).min(2);
                arcs.push(first);
                arc -= first * 40;
            }
            arcs.push(arc);
            arc = 0;
        }
        if arcs.len() > 32 {
            break;
        }
    }
    arcs.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(bytes: &[u8]) -> Result<&[u8], &'static str> {
        Reader::new(bytes, 0).next().map(|value| value.body).map_err(|fault| fault.what)
    }

    #[test]
    fn only_the_one_encoding_is_read() {
        assert_eq!(next(&[4, 1, 7]), Ok(&[7][..]));
        let long = [&[4, 0x81, 0x80][..], &[0; 128]].concat();
        assert_eq!(next(&long).map(<[u8]>::len), Ok(128));
        for (bytes, part) in [
            (&[][..], "truncated"),
            (&[4], "truncated"),
            (&[4, 2, 0], "truncated"),
            (&[4, 0x82, 1], "truncated"),
            (&[4, 0x84, 0xff, 0xff, 0xff, 0xff], "truncated"),
            (&[0x30, 0x80, 0, 0], "indefinite"),
            (&[4, 0x81, 1, 0], "minimal"),
            (&[4, 0x82, 0, 0x80], "minimal"),
            (&[4, 0x85, 1, 0, 0, 0, 0], "four"),
            (&[0x1f, 1, 0], "tag"),
        ] {
            let error = next(bytes).unwrap_err();
            assert!(error.contains(part), "{bytes:x?}: {error}");
        }
    }

    #[test]
    fn object_identifiers_are_dotted() {
        assert_eq!(dotted(&[0x55, 0x1d, 0x15]), "2.5.29.21");
        assert_eq!(dotted(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05]), "1.2.840.113549.1.1.5");
        assert_eq!(dotted(&[0x88, 0x37]), "2.999");
        dotted(&[0xff; 4096]);
    }
}
