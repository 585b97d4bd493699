//! What lists have in common: pages, times, names.

use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error as _;
use utoipa::PartialSchema;
use utoipa::ToSchema;
use utoipa::openapi::KnownFormat;
use utoipa::openapi::ObjectBuilder;
use utoipa::openapi::OneOfBuilder;
use utoipa::openapi::RefOr;
use utoipa::openapi::Schema;
use utoipa::openapi::SchemaFormat;
use utoipa::openapi::schema::Type;

/// The most rows on one page.
const MAX_PAGE: usize = 1000;

/// A time in a request: RFC 3339, or whole Unix seconds.
pub(super) struct Moment;

impl PartialSchema for Moment {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .description(Some("RFC 3339."));
        // Years 0 to 9999: what RFC 3339 can express.
        let seconds = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(-62_167_219_200_i64))
            .maximum(Some(253_402_300_799_i64))
            .description(Some("Unix seconds."));
        OneOfBuilder::new().item(text).item(seconds).into()
    }
}

impl ToSchema for Moment {}

/// How many rows, from 1 to 1000.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit(pub(super) usize);

impl Default for Limit {
    fn default() -> Self {
        Self(100)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let limit = usize::deserialize(deserializer)?;
        let fits = (1..=MAX_PAGE).contains(&limit);
        if fits { Ok(Self(limit)) } else { Err(D::Error::custom(format!("limit: 1 to {MAX_PAGE}"))) }
    }
}

/// Whether a row passes a filter that may be absent.
pub(super) fn fits<T: PartialEq + ?Sized>(wanted: Option<&T>, found: Option<&T>) -> bool {
    wanted.is_none_or(|wanted| found == Some(wanted))
}
