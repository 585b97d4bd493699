//! The lists of one authority that count, and what they say together. The order in which they came does not matter.
//!
//! An authority may sign two lists with the same number and time and other content, by mistake or because it was copied.
//! Neither is the newer one: both count, until a newer one comes.

use std::collections::BTreeMap;
use std::collections::HashSet;

use super::Crl;
use super::Entry;
use super::Error;
use super::Kind;
use super::List;
use super::Mark;
use super::Number;
use super::Scope;
use super::Verified;
use crate::identity::SerialRef;

/// More deltas of one scope, none of which covers another, are not kept: a full list is missing.
const MAX_DELTAS: usize = 16;
/// More lists of one scope with the same number and time are not kept.
const MAX_TWINS: usize = 16;

/// The lists of one signer's key that count: of each name and scope the newest full one, and the deltas that say more.
#[derive(Clone, Debug, Default)]
pub struct Lists {
    /// By name too: what a key says under a new name replaces nothing that it said under another.
    parts: BTreeMap<(String, Scope), Part>,
}

/// What became of a list that was taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts from now on.
    New,
    /// What is known, once more.
    Unchanged,
    /// A delta that is no newer than the full list that is known: all it says is in there.
    Superseded,
}

#[derive(Clone, Debug, Default)]
struct Part {
    /// Of one number and time; mostly one.
    full: Vec<List>,
    /// Newer than `full`, by number; each later one has a later base, or it would cover those before it.
    deltas: Vec<List>,
}

impl Lists {
    /// Takes in a list of this signer (RFC 5280, sections 5.2.3 and 5.2.4).
    ///
    /// A list that is older than what is known is refused. A delta whose base is not known yet counts for what it adds.
    pub fn accept(&mut self, verified: Verified) -> Result<Verdict, Error> {
        let list = verified.into_list();
        let crl = list.crl();
        let part = self.parts.entry((crl.issuer.name.clone(), crl.scope.clone())).or_default();
        match list.crl().kind {
            Kind::Full => part.accept_full(list),
            Kind::Delta { base } => part.accept_delta(list, base),
        }
    }

    /// What each of them says about itself.
    pub fn crls(&self) -> impl Iterator<Item = &Crl> {
        self.parts.values().flat_map(Part::lists).map(List::crl)
    }

    /// Lists that contradict each other: each that has the number, the time and the scope of another.
    pub fn twins(&self) -> impl Iterator<Item = &Crl> {
        self.parts.values().flat_map(|part| {
            part.lists().map(List::crl).filter(|crl| part.lists().any(|other| are_twins(crl, other.crl())))
        })
    }

    /// Gives `sink` every certificate that is revoked or suspended, with the list that says so.
    ///
    /// A certificate may come more than once; it is suspended if all of its entries are, else revoked. `removeFromCRL`
    /// lifts a suspension and never a revocation: it takes an entry off that is held, and leaves any other.
    /// Needs memory for the entries that a delta takes off, nothing else.
    pub fn each<'l>(&'l self, mut sink: impl FnMut(&'l Crl, Entry<'l>)) {
        self.parts.values().for_each(|part| part.each(&mut sink));
    }
}

impl Part {
    fn accept_full(&mut self, list: List) -> Result<Verdict, Error> {
        let new = list.crl().mark();
        // Not by the digest alone: its signer may speak for more keys by now.
        if self.full.iter().any(|known| known.crl() == list.crl()) {
            return Ok(Verdict::Unchanged);
        }
        if let Some(known) = self.full.first().map(|known| known.crl().mark()) {
            // A number does not make a list newer than one without: there time decides.
            if new.rank() < known.rank() || (known.number.is_none() && new.this_update < known.this_update) {
                return Err(older(new, known));
            }
        }
        self.full.retain(|known| are_twins(known.crl(), list.crl()));
        insert_twin(&mut self.full, list)?;
        self.deltas.retain(|delta| delta.crl().number > new.number);
        Ok(Verdict::New)
    }

    fn accept_delta(&mut self, list: List, base: Number) -> Result<Verdict, Error> {
        let new = list.crl().mark();
        if self.number() >= new.number {
            return Ok(Verdict::Superseded);
        }
        for known in self.deltas.iter().map(List::crl) {
            if known == list.crl() {
                return Ok(Verdict::Unchanged);
            }
            if known.mark().rank() > new.rank() && known.kind.starts_at() <= base {
                return Err(older(new, known.mark()));
            }
        }
        let stays = |known: &Crl| {
            known.mark().rank() > new.rank() || are_twins(known, list.crl()) || known.kind.starts_at() < base
        };
        self.deltas.retain(|known| stays(known.crl()) && known.crl().digest != new.digest);
        if self.deltas.len() >= MAX_DELTAS {
            return Err(Error::Deltas { base, known: self.number(), max: MAX_DELTAS });
        }
        let at = self.deltas.partition_point(|known| known.crl().mark() < new);
        self.deltas.insert(at, list);
        Ok(Verdict::New)
    }

    fn lists(&self) -> impl Iterator<Item = &List> {
        self.full.iter().chain(&self.deltas)
    }

    fn number(&self) -> Option<Number> {
        self.full.first().and_then(|full| full.crl().number)
    }

    fn each<'l>(&'l self, sink: &mut impl FnMut(&'l Crl, Entry<'l>)) {
        // The newest that fits the full list may also take entries off it; those that do not fit only add.
        let fits = |delta: &&List| self.number() >= Some(delta.crl().kind.starts_at());
        let newest = self.deltas.iter().rfind(fits).map(|delta| delta.crl().mark().rank());
        let is_newest = |delta: &&List| Some(delta.crl().mark().rank()) == newest;
        let fitting = || self.deltas.iter().filter(fits).filter(is_newest);
        let removed = removed_by_all(fitting());
        let stays = |entry: &Entry<'_>| !(entry.is_held() && removed.contains(&entry.serial));
        for full in &self.full {
            full.entries().filter(stays).for_each(|entry| sink(full.crl(), entry));
        }
        for delta in fitting().chain(self.deltas.iter().filter(|delta| !fits(delta))) {
            let adds = delta.entries().filter(|entry| !entry.is_removed());
            adds.for_each(|entry| sink(delta.crl(), entry));
        }
    }
}

/// The serials that each of these deltas takes off: where two contradict each other, an entry stays.
fn removed_by_all<'l>(deltas: impl Iterator<Item = &'l List>) -> HashSet<SerialRef<'l>> {
    let removed = |delta: &'l List| -> HashSet<SerialRef<'l>> {
        delta.entries().filter(Entry::is_removed).map(|entry| entry.serial).collect()
    };
    let both = |mut known: HashSet<SerialRef<'l>>, other: HashSet<SerialRef<'l>>| {
        known.retain(|serial| other.contains(serial));
        known
    };
    deltas.map(removed).reduce(both).unwrap_or_default()
}

/// Whether neither of two lists of one scope is newer, and they say different things.
fn are_twins(one: &Crl, other: &Crl) -> bool {
    one.mark().rank() == other.mark().rank() && one.digest != other.digest
}

fn insert_twin(lists: &mut Vec<List>, list: List) -> Result<(), Error> {
    if lists.len() >= MAX_TWINS {
        return Err(Error::Twins { max: MAX_TWINS });
    }
    let at = lists.partition_point(|known| known.crl().digest < list.crl().digest);
    lists.insert(at, list);
    Ok(())
}

fn older(new: Mark, known: Mark) -> Error {
    match (new.number, known.number) {
        (Some(number), Some(known)) if number < known => Error::Fallen { number, known },
        (Some(number), Some(_)) => Error::Repeated { number },
        (None, Some(known)) => Error::Unnumbered { known },
        (_, None) => Error::Earlier { this_update: new.this_update, known: known.this_update },
    }
}
