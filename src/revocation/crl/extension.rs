//! Extensions of a list (RFC 5280, section 5.2).
//!
//! What is understood is honoured whether or not it is marked critical; the mark decides only what happens to the rest:
//! unknown and critical is refused, unknown and not critical is passed over.

use super::Error;
use super::Number;
use super::Scope;
use super::der::BOOLEAN;
use super::der::Fault;
use super::der::INTEGER;
use super::der::OCTET_STRING;
use super::der::OID;
use super::der::Reader;
use super::der::SEQUENCE;
use super::der::Value;
use super::der::dotted;

/// One extension (RFC 5280, section 4.1).
pub(super) struct Extension<'a> {
    pub(super) oid: Value<'a>,
    pub(super) is_critical: bool,
    /// The OCTET STRING; its contents are DER again.
    pub(super) value: Value<'a>,
}

impl<'a> Extension<'a> {
    pub(super) fn read(extensions: &mut Reader<'a>) -> Result<Self, Fault> {
        let mut fields = extensions.expect(SEQUENCE, "not an extension")?.inside();
        let oid = fields.expect(OID, "an extension without an object identifier")?;
        let is_critical = fields.optional(BOOLEAN)?.map_or(Ok(false), Value::boolean)?;
        let value = fields.expect(OCTET_STRING, "an extension without a value")?;
        fields.end("more behind an extension's value")?;
        Ok(Self { oid, is_critical, value })
    }

    /// The one value inside, which must have this tag.
    pub(super) fn inner(&self, tag: u8, what: &'static str) -> Result<Value<'a>, Fault> {
        let mut inside = self.value.inside();
        let value = inside.expect(tag, what)?;
        inside.end("more behind the contents of an extension")?;
        Ok(value)
    }
}

/// What the extensions of a list say.
#[derive(Default)]
pub(super) struct Extensions<'a> {
    /// The key identifier of the signer.
    pub(super) key_id: Option<&'a [u8]>,
    pub(super) number: Option<Number>,
    /// RFC 5280, section 5.2.3, wants it not critical.
    pub(super) number_is_critical: bool,
    /// The number of the list that a delta is based on.
    pub(super) base: Option<Number>,
    pub(super) scope: Option<Scope>,
    has_key_id: bool,
}

impl<'a> Extensions<'a> {
    pub(super) fn read(extensions: Value<'a>) -> Result<Self, Error> {
        let mut rest = extensions.inside();
        if rest.is_empty() {
            return Err(extensions.fault("an empty list of extensions").into());
        }
        let mut found = Self::default();
        while !rest.is_empty() {
            found.take(&Extension::read(&mut rest)?)?;
        }
        Ok(found)
    }

    fn take(&mut self, extension: &Extension<'a>) -> Result<(), Error> {
        let is_first = match extension.oid.body {
            AUTHORITY_KEY_IDENTIFIER => {
                self.key_id = key_id(extension)?;
                !std::mem::replace(&mut self.has_key_id, true)
            }
            CRL_NUMBER => {
                let number = Number::read(extension.inner(INTEGER, "the list's number is not an INTEGER")?)?;
                self.number_is_critical |= extension.is_critical;
                self.number.replace(number).is_none()
            }
            DELTA_CRL_INDICATOR => {
                let base = Number::read(extension.inner(INTEGER, "the base's number is not an INTEGER")?)?;
                self.base.replace(base).is_none()
            }
            ISSUING_DISTRIBUTION_POINT => self.scope.replace(Scope::read(extension.value)?).is_none(),
            oid if extension.is_critical => {
                let (oid, at) = (dotted(oid), extension.oid.at);
                return Err(Error::Critical { oid, at });
            }
            _ => true,
        };
        match is_first {
            true => Ok(()),
            false => Err(extension.oid.fault("an extension for the second time").into()),
        }
    }
}

/// `keyIdentifier [0]` of an AuthorityKeyIdentifier (RFC 5280, section 4.2.1.1). Its other form, issuer and serial, is
/// passed over: the signature decides.
fn key_id<'a>(extension: &Extension<'a>) -> Result<Option<&'a [u8]>, Fault> {
    let identifier = extension.inner(SEQUENCE, "not an authority key identifier")?;
    let found = identifier.inside().optional(0x80)?;
    match found {
        Some(id) if id.body.is_empty() || id.body.len() > 64 => {
            Err(id.fault("not a key identifier: 1 to 64 bytes"))
        }
        found => Ok(found.map(|id| id.body)),
    }
}

const CRL_NUMBER: &[u8] = &[0x55, 0x1d, 0x14];
const DELTA_CRL_INDICATOR: &[u8] = &[0x55, 0x1d, 0x1b];
const ISSUING_DISTRIBUTION_POINT: &[u8] = &[0x55, 0x1d, 0x1c];
const AUTHORITY_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 0x23];
