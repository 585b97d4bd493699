//! The list that was read last, on disk, so that a start without a network refuses what was refused.

use std::fs::File;
use std::io;
use std::path::Path;

use aws_lc_rs::digest;
use bytes::Bytes;
use serde::Deserialize;
use serde::Serialize;

use crate::clock::Timestamp;
use crate::feed::fetch::read_capped;
use crate::feed::files::write_whole;

const VERSION: u32 = 1;

/// A file of `lists` in the state directory, called by its issuer, whatever the feed is called:
///
/// ```text
/// {"version":1, "read":"2026-10-14T17:46:40.000Z", "keys":"<the registry's keys>", "list":"<the list>"}
/// ```
///
/// Both as they were fetched. The list is verified again, by these keys, when it is read.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    version: u32,
    /// When it was read last.
    pub(super) read: Timestamp,
    pub(super) keys: String,
    pub(super) list: String,
}

impl Kept {
    /// What the file of an issuer is called: the beginning of its SHA-256, and `.tokens`.
    pub(super) fn name(issuer: &str) -> String {
        let digest = digest::digest(&digest::SHA256, issuer.trim_end_matches('/').as_bytes());
        let start = digest.as_ref().iter().take(16);
        start.map(|byte| format!("{byte:02x}")).chain([".tokens".to_owned()]).collect()
    }

    pub(super) fn new(read: Timestamp, keys: &Bytes, list: &Bytes) -> Result<Self, String> {
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).map_err(|e| e.to_string());
        Ok(Self { version: VERSION, read, keys: text(keys)?, list: text(list)? })
    }

    /// `None` if nothing was kept. `max`: the most bytes that a list may have.
    pub(super) fn read(path: &Path, max: usize) -> Result<Option<Self>, String> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|e| e.to_string())?,
        };
        // Quotes and line ends are escaped, and there are the keys.
        let max = max.saturating_mul(2).saturating_add(1 << 20);
        let bytes = read_capped(file, max).map_err(|e| e.to_string())?;
        let bytes = bytes.ok_or_else(|| format!("over {max} bytes"))?;
        let kept: Self = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
        match kept.version {
            VERSION => Ok(Some(kept)),
            other => Err(format!("of version {other}")),
        }
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), String> {
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = serde_json::to_vec(self).map_err(|e| failed(&e))?;
        write_whole(path, &text).map_err(|e| failed(&e))
    }
}
