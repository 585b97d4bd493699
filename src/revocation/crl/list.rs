//! One list, from its bytes to its entries: frame, signer, signature, entries, and only then what is new in it.

use bytes::Bytes;

use super::Crl;
use super::Entries;
use super::Error;
use super::Issuers;
use super::Kind;
use super::Limits;
use super::Number;
use super::algorithm::Signed;
use super::der::BIT_STRING;
use super::der::CONTEXT_0;
use super::der::INTEGER;
use super::der::Reader;
use super::der::SEQUENCE;
use super::der::Value;
use super::entry;
use super::extension::Extensions;
use super::input;
use super::moment;
use crate::clock::Timestamp;
use crate::identity::name_text;

/// A longer name of an issuer is refused: it is written out before anybody has vouched for it.
const MAX_NAME: usize = 16 * 1024;

/// A list that is whole and signed, not yet compared with those before it.
#[derive(Clone, Debug)]
pub struct Verified {
    list: List,
}

/// A list whose entries may be read.
#[derive(Clone, Debug)]
pub(super) struct List {
    der: Bytes,
    /// Where the entries are in `der`.
    entries: std::ops::Range<usize>,
    crl: Crl,
}

impl Verified {
    /// Reads a list of one of `issuers` and verifies its signature (RFC 5280, sections 5.1 and 6.3.3).
    ///
    /// Takes time in proportion to the list (it is hashed and read once): not for a thread that serves requests. Beside
    /// `input`, it needs a few kilobytes whatever the size of the list; if `input` is text (PEM), one decoded copy.
    pub fn read(input: &Bytes, issuers: &Issuers, limits: &Limits, now: Timestamp) -> Result<Self, Error> {
        let der = input::der(input, limits.max_bytes)?;
        let frame = Frame::read(&der)?;
        let (this_update, next_update) = frame.times(limits, now)?;
        let extensions = frame.extensions()?;
        let kind = kind(&extensions)?;
        let signed = Signed::new(frame.signed, frame.algorithm, frame.signature).map_err(Error::Algorithm)?;
        let issuer = issuers.signer(frame.issuer, extensions.key_id, &signed, now).map_err(|fault| {
            let name = name_text(frame.issuer).unwrap_or_else(|| "an unreadable name".to_owned());
            Error::Signer { name, fault }
        })?;
        let count = entry::survey(frame.entries, matches!(kind, Kind::Delta { .. }))?;
        let start = frame.entries.at();
        let entries = start..start + frame.entries.rest().len();
        let warnings = warnings(frame.is_v2, &extensions);
        let crl = Crl {
            issuer,
            scope: extensions.scope.unwrap_or_default(),
            kind,
            number: extensions.number,
            this_update,
            next_update,
            entries: count.read,
            skipped: count.skipped,
            digest: signed.digest(),
            warnings,
        };
        Ok(Self { list: List { der: der.clone(), entries, crl } })
    }

    /// What it says about itself.
    pub fn crl(&self) -> &Crl {
        &self.list.crl
    }

    /// For who compares it with the lists before it.
    pub(super) fn into_list(self) -> List {
        self.list
    }
}

impl List {
    /// What it says about itself.
    pub(super) fn crl(&self) -> &Crl {
        &self.crl
    }

    /// Its entries, in its order; [`Crl::entries`] of them. A serial may be there twice.
    pub(super) fn entries(&self) -> Entries<'_> {
        let bytes = self.der.get(self.entries.clone()).unwrap_or_default();
        Entries::new(Reader::new(bytes, self.entries.start))
    }
}

/// A CertificateList (RFC 5280, section 5.1) whose entries and extensions are still unread.
struct Frame<'a> {
    /// The TBSCertList, as it is signed.
    signed: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
    /// The name of the issuer, DER.
    issuer: &'a [u8],
    is_v2: bool,
    this_update: Value<'a>,
    next_update: Option<Value<'a>>,
    entries: Reader<'a>,
    extensions: Option<Value<'a>>,
}

impl<'a> Frame<'a> {
    fn read(der: &'a [u8]) -> Result<Self, Error> {
        let mut file = Reader::new(der, 0);
        let mut outer = file.expect(SEQUENCE, "not a SEQUENCE")?.inside();
        if !file.is_empty() {
            let what = if file.peek() == Some(SEQUENCE) { "a second list" } else { "more bytes" };
            return Err(Error::Trailing { at: file.at(), what });
        }
        let tbs = outer.expect(SEQUENCE, "what is signed is not a SEQUENCE")?;
        let algorithm = outer.expect(SEQUENCE, "no signature algorithm")?;
        let signature = outer.expect(BIT_STRING, "no signature")?.whole_bytes()?;
        outer.end("more behind the signature")?;
        let mut fields = tbs.inside();
        if fields.peek() == Some(CONTEXT_0) {
            return Err(Error::NotAList("it looks like a certificate".to_owned()));
        }
        let version = fields.optional(INTEGER)?;
        if version.is_some_and(|version| version.body != [1]) {
            return Err(tbs.fault("a version that is neither 1 nor 2").into());
        }
        let inner = fields.expect(SEQUENCE, "no signature algorithm inside what is signed")?;
        if inner.body != algorithm.body {
            return Err(Error::AlgorithmsDiffer);
        }
        let issuer = fields.expect(SEQUENCE, "no issuer")?;
        if issuer.whole.len() > MAX_NAME {
            return Err(issuer.fault("an issuer with a name of over 16 KiB").into());
        }
        let this_update = fields.next()?;
        let next_update = if moment::is_time(fields.peek()) { Some(fields.next()?) } else { None };
        let entries = fields.optional(SEQUENCE)?;
        let extensions = fields.optional(CONTEXT_0)?;
        fields.end("an unknown field in what is signed")?;
        Ok(Self {
            signed: tbs.whole,
            algorithm: algorithm.body,
            signature,
            issuer: issuer.whole,
            is_v2: version.is_some(),
            this_update,
            next_update,
            entries: entries.map_or(Reader::new(&[], fields.at()), |entries| entries.inside()),
            extensions,
        })
    }

    /// `thisUpdate` and `nextUpdate`, the latter required (RFC 5280, section 5.1.2.5). That it has passed is for the
    /// caller to judge: what was revoked yesterday is no more valid today.
    fn times(&self, limits: &Limits, now: Timestamp) -> Result<(Timestamp, Timestamp), Error> {
        let this_update = moment::read(self.this_update)?;
        if this_update > now.plus(limits.skew) {
            return Err(Error::Future { this_update, now });
        }
        let next_update = moment::read(self.next_update.ok_or(Error::NoNextUpdate)?)?;
        match next_update < this_update {
            true => Err(Error::Reversed { this_update, next_update }),
            false => Ok((this_update, next_update)),
        }
    }

    fn extensions(&self) -> Result<Extensions<'a>, Error> {
        let Some(tagged) = self.extensions else {
            return Ok(Extensions::default());
        };
        if !self.is_v2 {
            return Err(tagged.fault("a list of version 1 with extensions").into());
        }
        let mut inside = tagged.inside();
        let extensions = inside.expect(SEQUENCE, "not a list of extensions")?;
        inside.end("more behind the extensions")?;
        Extensions::read(extensions)
    }
}

/// What a list lacks of what RFC 5280, section 5, demands.
fn warnings(is_v2: bool, extensions: &Extensions<'_>) -> Vec<&'static str> {
    let unnumbered = match (is_v2, extensions.number) {
        (false, _) => Some("it is of version 1, and has no number: only its time says whether it is newer"),
        (true, None) => Some("it has no number: only its time says whether it is newer"),
        (true, Some(_)) => None,
    };
    let critical = extensions.number_is_critical.then_some("its number is marked critical");
    unnumbered.into_iter().chain(critical).collect()
}

fn kind(extensions: &Extensions<'_>) -> Result<Kind, Error> {
    let number = extensions.number;
    match (extensions.base, number) {
        (None, _) => Ok(Kind::Full),
        (Some(base), Some(number)) if base <= number => Ok(Kind::Delta { base }),
        (Some(base), number) => Err(Error::DeltaNumber { base, number: shown(number) }),
    }
}

/// A number that may be missing, for a message.
pub(super) fn shown(number: Option<Number>) -> String {
    number.map_or_else(|| "none".to_owned(), |number| number.to_string())
}
