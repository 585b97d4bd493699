//! How the registry's file keeps a certificate: what is its own in a row, what it shares with its kin apart.
//!
//! Most certificates come by one of few paths, and most of what can revoke them is the path's.

use aws_lc_rs::digest;
use serde::Deserialize;
use serde::Serialize;

use super::Level;
use super::Seen;
use super::Spelling;
use super::Target;
use super::certificates::Digest;
use crate::clock::Timestamp;

/// Half of a SHA-256, where what it finds is looked at again.
pub(super) type Half = [u8; 16];

/// What is a certificate's own; its SHA-256 is the key of the row. Times are milliseconds.
#[derive(Serialize, Deserialize)]
pub(super) struct Row {
    serial: String,
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    principal: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    /// The key that signed it, absent in rows of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    issuer_key: Option<String>,
    issued_at: i64,
    not_before: i64,
    not_after: i64,
    first_seen: i64,
    last_seen: i64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    authority: bool,
    /// What can revoke it beside its serial number and its key: principals and tasks, as they are written.
    names: Vec<(Level, String)>,
    /// Likewise, those that were read from a DNS name. Earlier versions left it out, and kept `names` in lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dns: Option<Vec<(Level, String)>>,
    /// The [`Path`] that it came by.
    pub(super) path: Half,
}

/// What certificates that came by one path share. Lists are sorted.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Path {
    issuers: Vec<String>,
    /// The key ids of the nearest authority: a serial number may be revoked under each.
    under: Vec<String>,
    targets: Vec<Target>,
}

impl Row {
    /// Takes a certificate apart. The path comes as it is written, and by what it is found.
    pub(super) fn split(seen: &Seen) -> serde_json::Result<(Self, Vec<u8>)> {
        let mut path = Path { issuers: seen.issuers.clone(), ..Path::default() };
        let (mut names, mut dns) = (Vec::new(), Vec::new());
        for target in &seen.targets {
            match target.level() {
                _ if !seen.owns(target) => path.targets.push(target.clone()),
                Level::Certificate => path.under.extend(target.issuer().map(str::to_owned)),
                Level::Key => {}
                level if target.spelling() == Spelling::Dns => dns.push((level, target.name().to_owned())),
                level => names.push((level, target.name().to_owned())),
            }
        }
        path.under.sort_unstable();
        path.targets.sort_unstable();
        let path = serde_json::to_vec(&path)?;
        let row = Self {
            serial: seen.serial.clone(),
            key: seen.key.clone(),
            principal: seen.principal.clone(),
            agent: seen.agent.clone(),
            issuer_key: seen.issuer_key.clone(),
            issued_at: seen.issued_at,
            not_before: seen.not_before.millis(),
            not_after: seen.not_after.millis(),
            first_seen: seen.first_seen.millis(),
            last_seen: seen.last_seen.millis(),
            authority: seen.authority,
            names,
            dns: Some(dns),
            path: half(&path),
        };
        Ok((row, path))
    }

    /// Puts it together again; without its path, if that was forgotten before it.
    pub(super) fn join(self, sha256: &Digest, path: Option<Path>) -> Seen {
        let Path { issuers, under, targets: shared } = path.unwrap_or_default();
        let mut targets = vec![Target::of(Level::Certificate, None, &self.serial)];
        targets.extend(under.iter().map(|id| Target::of(Level::Certificate, Some(id), &self.serial)));
        targets.push(Target::of(Level::Key, None, &self.key));
        targets.extend(self.names());
        targets.extend(shared);
        Seen {
            serial: self.serial,
            sha256: sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
            key: self.key,
            principal: self.principal,
            agent: self.agent,
            issuers,
            issuer_key: self.issuer_key,
            issued_at: self.issued_at,
            not_before: Timestamp::from_millis(self.not_before),
            not_after: Timestamp::from_millis(self.not_after),
            first_seen: Timestamp::from_millis(self.first_seen),
            last_seen: Timestamp::from_millis(self.last_seen),
            targets,
            authority: self.authority,
        }
    }

    /// What can revoke it beside its serial number and its key.
    fn names(&self) -> Vec<Target> {
        let names = self.names.iter();
        match &self.dns {
            Some(dns) => {
                let exact = names.map(|(level, name)| Target::of(*level, None, name));
                exact.chain(dns.iter().map(|(level, name)| Target::of_dns(*level, name))).collect()
            }
            None => names.map(|(level, name)| self.name_of_earlier_version(*level, name)).collect(),
        }
    }

    /// The name that an earlier version wrote, as the certificate spells it.
    fn name_of_earlier_version(&self, level: Level, name: &str) -> Target {
        let is_spiffe = self.principal.as_ref().is_some_and(|principal| principal.starts_with("spiffe://"));
        let agent = self.agent.as_deref().filter(|agent| agent.eq_ignore_ascii_case(name));
        match (is_spiffe, agent) {
            (true, Some(agent)) if level == Level::Principal => Target::of(level, None, agent),
            (true, _) if level == Level::Task || name.contains(':') => Target::of(level, None, name),
            _ => Target::of_dns(level, name),
        }
    }

    /// By what it is found: its serial number, its key, its names in both readings.
    pub(super) fn index(&self) -> impl Iterator<Item = Half> {
        let numbers = [entry(Level::Certificate, &self.serial), entry(Level::Key, &self.key)];
        let names = self.names.iter().chain(self.dns.iter().flatten());
        let names = names.flat_map(|(level, name)| entries(&Target::of(*level, None, name)));
        numbers.into_iter().chain(names)
    }
}

/// By what the certificates whose own a target may be are found: as it is written, and as a DNS name spells it.
pub(super) fn entries(target: &Target) -> impl Iterator<Item = Half> + use<> {
    let folded = target.folded().map(|folded| entry(target.level(), &folded));
    std::iter::once(entry(target.level(), target.name())).chain(folded)
}

fn entry(level: Level, name: &str) -> Half {
    half(format!("{level}\0{name}").as_bytes())
}

fn half(bytes: &[u8]) -> Half {
    let digest = digest::digest(&digest::SHA256, bytes);
    let mut half = Half::default();
    half.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    half
}
