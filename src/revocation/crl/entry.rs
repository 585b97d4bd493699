//! The entries of a list (RFC 5280, sections 5.1.2.6 and 5.3), read one by one where they stand.

use super::Error;
use super::der::ENUMERATED;
use super::der::Fault;
use super::der::INTEGER;
use super::der::Reader;
use super::der::SEQUENCE;
use super::der::Value;
use super::der::dotted;
use super::extension::Extension;
use super::moment;
use crate::clock::Timestamp;
use crate::identity::SerialRef;

/// One certificate that a list names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its serial number.
    pub serial: SerialRef<'a>,
    /// Why it is on the list.
    pub reason: Reason,
    /// Its time, as it stands: most who walk through a list do not look at it.
    revoked_at: &'a [u8],
}

impl Entry<'_> {
    /// When the authority revoked it.
    pub fn revoked_at(&self) -> Timestamp {
        // The survey has read it: there is always one.
        moment::of(self.revoked_at).unwrap_or(Timestamp::MAX)
    }

    /// Whether it is suspended only (`certificateHold`).
    pub fn is_held(&self) -> bool {
        self.reason == Reason::CertificateHold
    }

    /// Whether a delta takes it off the list (`removeFromCRL`).
    pub fn is_removed(&self) -> bool {
        self.reason == Reason::RemoveFromCrl
    }
}

/// Why a certificate is on a list (RFC 5280, section 5.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// None was given, or one that RFC 5280 does not know: it is revoked all the same.
    Unspecified,
    /// The holder's key is in other hands.
    KeyCompromise,
    /// The authority's key is in other hands.
    CaCompromise,
    /// The holder's name or standing has changed.
    AffiliationChanged,
    /// There is a newer certificate.
    Superseded,
    /// It is no longer needed.
    CessationOfOperation,
    /// It is suspended, and may come back.
    CertificateHold,
    /// In a delta: it is no longer suspended, or has expired.
    RemoveFromCrl,
    /// The holder may no longer do what it vouches for.
    PrivilegeWithdrawn,
    /// The key of an attribute authority is in other hands.
    AaCompromise,
}

impl Reason {
    /// The name that RFC 5280 gives it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "keyCompromise",
            Self::CaCompromise => "cACompromise",
            Self::AffiliationChanged => "affiliationChanged",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessationOfOperation",
            Self::CertificateHold => "certificateHold",
            Self::RemoveFromCrl => "removeFromCRL",
            Self::PrivilegeWithdrawn => "privilegeWithdrawn",
            Self::AaCompromise => "aACompromise",
        }
    }

    #[inline]
    fn of(code: u8) -> Self {
        match code {
            1 => Self::KeyCompromise,
            2 => Self::CaCompromise,
            3 => Self::AffiliationChanged,
            4 => Self::Superseded,
            5 => Self::CessationOfOperation,
            6 => Self::CertificateHold,
            8 => Self::RemoveFromCrl,
            9 => Self::PrivilegeWithdrawn,
            10 => Self::AaCompromise,
            _ => Self::Unspecified,
        }
    }
}

/// Walks through the entries of a list that was verified.
#[derive(Clone, Debug)]
pub(super) struct Entries<'a> {
    rest: Reader<'a>,
}

impl<'a> Entries<'a> {
    /// **Invariant:** `entries` went through [`survey`] without a fault: what is left out here is nothing but serials
    /// that no certificate can have.
    pub(super) fn new(entries: Reader<'a>) -> Self {
        Self { rest: entries }
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    #[inline]
    fn next(&mut self) -> Option<Entry<'a>> {
        while !self.rest.is_empty() {
            let raw = Raw::read(&mut self.rest).ok()?;
            let Some(serial) = SerialRef::from_der(raw.serial) else {
                continue;
            };
            let reason = raw.reason().ok()?;
            return Some(Entry { serial, reason, revoked_at: raw.revoked_at.body });
        }
        None
    }
}

/// How many entries a list has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    /// Those that can be looked up.
    pub(super) read: u64,
    /// Those whose serial is so long that no certificate with it is let in.
    pub(super) skipped: u64,
}

/// Reads every entry once, so that a list is known to be whole before the first of them has an effect.
pub(super) fn survey(entries: Reader<'_>, is_delta: bool) -> Result<Count, Error> {
    let mut rest = entries;
    let mut count = Count::default();
    while !rest.is_empty() {
        let index = count.read + count.skipped;
        let start = rest;
        match judge(&mut rest, is_delta) {
            Ok(true) => count.read += 1,
            Ok(false) => count.skipped += 1,
            Err(error) => {
                let serial =
                    serial_of(start).map_or_else(|| "unreadable".to_owned(), |serial| serial.to_string());
                return Err(Error::Entry { index, serial, error: Box::new(error) });
            }
        }
    }
    Ok(count)
}

/// Whether the next entry can be looked up.
#[inline]
fn judge(rest: &mut Reader<'_>, is_delta: bool) -> Result<bool, Error> {
    let at = rest.at();
    let raw = Raw::read(rest)?;
    moment::read(raw.revoked_at)?;
    if raw.reason()? == Reason::RemoveFromCrl && !is_delta {
        return Err(Fault { at, what: "removeFromCRL in a list that is not a delta" }.into());
    }
    if raw.serial.is_empty() {
        return Err(Fault { at, what: "an empty serial" }.into());
    }
    Ok(SerialRef::from_der(raw.serial).is_some())
}

fn serial_of(mut rest: Reader<'_>) -> Option<SerialRef<'_>> {
    let mut fields = rest.next().ok()?.inside();
    SerialRef::from_der(fields.expect(INTEGER, "no serial").ok()?.body)
}

/// An entry whose time and extensions are still unread.
struct Raw<'a> {
    serial: &'a [u8],
    revoked_at: Value<'a>,
    extensions: Reader<'a>,
}

impl<'a> Raw<'a> {
    #[inline]
    fn read(rest: &mut Reader<'a>) -> Result<Self, Fault> {
        let mut fields = rest.expect(SEQUENCE, "not an entry")?.inside();
        let serial = fields.expect(INTEGER, "an entry without a serial")?.body;
        let revoked_at = fields.next()?;
        Ok(Self { serial, revoked_at, extensions: fields })
    }

    #[inline]
    fn reason(&self) -> Result<Reason, Error> {
        match self.extensions.rest() {
            [] => Ok(Reason::Unspecified),
            // Nearly every entry that has extensions has exactly this one.
            [0x30, 12, 0x30, 10, 6, 3, 0x55, 0x1d, 0x15, 4, 3, 10, 1, code] => Ok(Reason::of(*code)),
            _ => read_extensions(self.extensions),
        }
    }
}

/// The reason among an entry's extensions. What an invalidity date says is passed over: a revoked certificate is
/// refused from now on, whenever its key was lost.
#[cold]
fn read_extensions(mut fields: Reader<'_>) -> Result<Reason, Error> {
    let extensions = fields.expect(SEQUENCE, "neither a time nor extensions of an entry")?;
    fields.end("more behind the extensions of an entry")?;
    let mut rest = extensions.inside();
    if rest.is_empty() {
        return Err(extensions.fault("an empty list of extensions").into());
    }
    let (mut reason, mut has_invalidity_date) = (None, false);
    while !rest.is_empty() {
        let extension = Extension::read(&mut rest)?;
        let is_first = match extension.oid.body {
            REASON_CODE => {
                let code = extension.inner(ENUMERATED, "a reason that is not ENUMERATED")?;
                let [code] = code.body else {
                    return Err(code.fault("a reason that is not one byte").into());
                };
                reason.replace(Reason::of(*code)).is_none()
            }
            INVALIDITY_DATE => !std::mem::replace(&mut has_invalidity_date, true),
            CERTIFICATE_ISSUER => {
                return Err(Error::Unsupported(
                    "an entry of another issuer (certificateIssuer: an indirect list)",
                ));
            }
            oid if extension.is_critical => {
                return Err(Error::Critical { oid: dotted(oid), at: extension.oid.at });
            }
            _ => true,
        };
        if !is_first {
            return Err(extension.oid.fault("an extension for the second time").into());
        }
    }
    Ok(reason.unwrap_or(Reason::Unspecified))
}

const REASON_CODE: &[u8] = &[0x55, 0x1d, 0x15];
const INVALIDITY_DATE: &[u8] = &[0x55, 0x1d, 0x18];
const CERTIFICATE_ISSUER: &[u8] = &[0x55, 0x1d, 0x1d];
