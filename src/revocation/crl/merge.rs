//! Several lists together: which of them count, and what they say in sum. The order in which they came does not matter.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::HashSet;

use super::Crl;
use super::Entry;
use super::Kind;
use super::List;
use super::Number;
use super::Scope;
use crate::identity::KeyId;
use crate::identity::SerialRef;

/// The lists of one signer and scope that count, as indices into what was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The newest full list.
    pub full: Option<usize>,
    /// The newest delta that says more than it.
    pub delta: Option<usize>,
    /// Whether the delta fits the full list, so that it may also take entries off it (RFC 5280, section 5.2.4). One that
    /// does not only adds.
    pub fits: bool,
}

/// For each signer and scope the lists that count, sorted by both.
pub fn parts<'c>(crls: impl IntoIterator<Item = &'c Crl>) -> Vec<Part> {
    let mut groups: BTreeMap<(&KeyId, &Scope), Vec<(usize, &Crl)>> = BTreeMap::new();
    for (index, crl) in crls.into_iter().enumerate() {
        groups.entry((&crl.issuer.key, &crl.scope)).or_default().push((index, crl));
    }
    groups.into_values().map(|group| part(&group)).collect()
}

fn part(group: &[(usize, &Crl)]) -> Part {
    let full = newest(group.iter().filter(|(_, crl)| crl.kind == Kind::Full));
    let at = full.and_then(|(_, crl)| crl.number);
    let says_more = |crl: &Crl| crl.kind != Kind::Full && (at.is_none() || crl.number > at);
    let deltas = || group.iter().filter(|(_, crl)| says_more(crl));
    let fitting = newest(deltas().filter(|(_, crl)| fits(crl.kind, at)));
    let delta = fitting.or_else(|| newest(deltas()));
    Part {
        full: full.map(|(index, _)| *index),
        delta: delta.map(|(index, _)| *index),
        fits: fitting.is_some(),
    }
}

/// Of the same list twice, the first.
fn newest<'g, 'c: 'g>(lists: impl Iterator<Item = &'g (usize, &'c Crl)>) -> Option<&'g (usize, &'c Crl)> {
    lists.max_by_key(|(index, crl)| (crl.mark(), Reverse(*index)))
}

fn fits(kind: Kind, full: Option<Number>) -> bool {
    matches!((kind, full), (Kind::Delta { base }, Some(full)) if full >= base)
}

/// Gives `sink` every certificate that is revoked or suspended by the lists that count, with the list that says so.
///
/// A certificate may come more than once; it is suspended if all of its entries are, else revoked. `removeFromCRL` lifts
/// a suspension and never a revocation: it takes an entry off that is held, and leaves any other.
/// Needs memory for the entries that deltas take off, nothing else.
pub fn merge<'l>(lists: &'l [List], mut sink: impl FnMut(&'l Crl, Entry<'l>)) {
    for part in parts(lists.iter().map(List::crl)) {
        let full = part.full.and_then(|index| lists.get(index));
        let delta = part.delta.and_then(|index| lists.get(index));
        let removed: HashSet<SerialRef<'_>> = match delta {
            Some(delta) if part.fits => {
                delta.entries().filter(Entry::is_removed).map(|entry| entry.serial).collect()
            }
            _ => HashSet::new(),
        };
        if let Some(list) = full {
            let stays = |entry: &Entry<'_>| !(entry.is_held() && removed.contains(&entry.serial));
            list.entries().filter(stays).for_each(|entry| sink(list.crl(), entry));
        }
        if let Some(list) = delta {
            list.entries().filter(|entry| !entry.is_removed()).for_each(|entry| sink(list.crl(), entry));
        }
    }
}
