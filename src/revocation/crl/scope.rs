//! What part of an authority's certificates a list speaks of (RFC 5280, section 5.2.5).

use std::fmt;

use aws_lc_rs::digest::SHA256;
use aws_lc_rs::digest::digest;

use super::Error;
use super::der::CONTEXT_0;
use super::der::CONTEXT_1;
use super::der::Reader;
use super::der::SEQUENCE;
use super::der::Value;

/// A longer issuing distribution point than this is refused: its names are kept.
const MAX_BYTES: usize = 16 * 1024;

/// The part of an authority's certificates that a list covers: two lists of one scope replace each other, lists of
/// several scopes stand side by side.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// The names of the distribution point, DER, sorted: their order says nothing.
    names: Vec<Vec<u8>>,
    only: Option<Only>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Only {
    Users,
    Authorities,
}

impl Scope {
    /// Whether it is everything that the authority issued.
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// The names of the distribution point that are URIs.
    pub fn uris(&self) -> impl Iterator<Item = &str> {
        let uris = self.names.iter().filter(|name| name.first() == Some(&URI));
        uris.filter_map(|name| {
            let value = Reader::new(name, 0).next().ok()?;
            std::str::from_utf8(value.body).ok()
        })
    }

    /// SHA-256 of what it consists of: two that are written alike may differ.
    pub fn id(&self) -> [u8; 32] {
        let mut text = vec![match self.only {
            None => 0,
            Some(Only::Users) => 1,
            Some(Only::Authorities) => 2,
        }];
        // Each is DER, and so ends where it says.
        self.names.iter().for_each(|name| text.extend_from_slice(name));
        let mut id = [0; 32];
        id.iter_mut().zip(digest(&SHA256, &text).as_ref()).for_each(|(to, from)| *to = *from);
        id
    }

    /// Reads an issuing distribution point.
    pub(super) fn read(extension: Value<'_>) -> Result<Self, Error> {
        if extension.body.len() > MAX_BYTES {
            return Err(extension.fault("an issuing distribution point of over 16 KiB").into());
        }
        let mut outer = extension.inside();
        let point = outer.expect(SEQUENCE, "not an issuing distribution point")?;
        outer.end("more behind an issuing distribution point")?;
        let mut fields = point.inside();
        if fields.is_empty() {
            return Err(point.fault("an empty issuing distribution point").into());
        }
        let mut scope = Self::default();
        if let Some(names) = fields.optional(CONTEXT_0)? {
            scope.names = names_of(names)?;
        }
        let users = flag(&mut fields, 0x81)?;
        let authorities = flag(&mut fields, 0x82)?;
        if let Some(reasons) = fields.optional(0x83)? {
            return Err(match reasons.body {
                [0..=7, _, ..] => Error::Unsupported("a list for some reasons only (onlySomeReasons)"),
                _ => reasons.fault("onlySomeReasons is not a BIT STRING of reasons").into(),
            });
        }
        if flag(&mut fields, 0x84)? {
            return Err(Error::Unsupported("an indirect list (indirectCRL)"));
        }
        if flag(&mut fields, 0x85)? {
            return Err(Error::Unsupported("a list of attribute certificates (onlyContainsAttributeCerts)"));
        }
        fields.end("an unknown field in an issuing distribution point")?;
        scope.only = match (users, authorities) {
            (true, true) => return Err(point.fault("only users and only authorities at once").into()),
            (true, false) => Some(Only::Users),
            (false, true) => Some(Only::Authorities),
            (false, false) => None,
        };
        Ok(scope)
    }
}

/// An optional BOOLEAN; a FALSE that DER would leave out says nothing else.
fn flag(fields: &mut Reader<'_>, tag: u8) -> Result<bool, Error> {
    Ok(fields.optional(tag)?.map_or(Ok(false), Value::boolean)?)
}

/// The names of a DistributionPointName (RFC 5280, section 4.2.1.13), each as it stands.
fn names_of(point: Value<'_>) -> Result<Vec<Vec<u8>>, Error> {
    let mut choice = point.inside();
    let name = choice.next()?;
    choice.end("more than one name of a distribution point")?;
    let mut names = Vec::new();
    match name.tag {
        CONTEXT_0 => {
            let mut full = name.inside();
            while !full.is_empty() {
                names.push(full.next()?.whole.to_vec());
            }
        }
        CONTEXT_1 => names.push(name.whole.to_vec()),
        _ => return Err(name.fault("not a name of a distribution point").into()),
    }
    if names.is_empty() {
        return Err(name.fault("a distribution point without a name").into());
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// `uniformResourceIdentifier [6]` of a GeneralName.
const URI: u8 = 0x86;

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.only {
            None => "all certificates",
            Some(Only::Users) => "end-entity certificates",
            Some(Only::Authorities) => "certificates of authorities",
        })?;
        if self.names.is_empty() {
            return Ok(());
        }
        let uris: Vec<String> = self.uris().map(|uri| uri.escape_debug().to_string()).collect();
        match uris.is_empty() {
            true => f.write_str(" of one distribution point"),
            false => write!(f, " of {}", uris.join(", ")),
        }
    }
}
