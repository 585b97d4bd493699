//! Layers made in bulk, off the path, in the order of the table and with the room that a new one has.

use super::layer::Layer;
use super::layer::Tally;
use super::layer::is_plain;
use super::registers::Entry;
use super::table::Key;
use crate::session::Fingerprint;

/// Parts that a builder sorts into: one part's share of the table stays in a core's cache while it is filled.
const PARTS: usize = 256;

/// Collects what a layer is to hold, off the path, and makes it in one go.
pub struct LayerBuilder {
    plain: Vec<Vec<Key>>,
    conditional: Vec<(Key, Entry)>,
}

/// A layer that is ready to take its place in the set.
pub struct NewLayer {
    pub(super) layer: Layer,
    pub(super) tally: Tally,
}

impl Default for LayerBuilder {
    fn default() -> Self {
        Self { plain: vec![Vec::new(); PARTS], conditional: Vec::new() }
    }
}

impl LayerBuilder {
    /// For about so many entries, so that no part has to be moved when it grows.
    pub fn with_room(entries: usize) -> Self {
        // Keys are hashes: the parts hardly differ.
        let part = entries / PARTS + entries / PARTS / 16;
        Self { plain: (0..PARTS).map(|_| Vec::with_capacity(part)).collect(), conditional: Vec::new() }
    }

    /// Adds an entry. Of several for one fingerprint, each counts: what one of them denies is denied.
    pub fn push(&mut self, fingerprint: Fingerprint, entry: Entry) {
        let key = Key::from(fingerprint);
        match self.plain.get_mut(key.part(PARTS)) {
            Some(part) if is_plain(entry) => part.push(key),
            _ => self.conditional.push((key, entry)),
        }
    }

    /// How many entries were added.
    pub fn len(&self) -> usize {
        self.plain.iter().map(Vec::len).sum::<usize>() + self.conditional.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes the layer.
    pub fn build(self) -> NewLayer {
        let layer = Layer::with_room(self.len(), self.conditional.len());
        let mut tally = Tally::default();
        for part in self.plain {
            // Part by part in the order of the table, each part given back once it is in.
            for key in part {
                layer.put(&mut tally, key, Some(Entry::REVOKED));
            }
        }
        for (key, entry) in self.conditional {
            let entry = layer.find(key).map_or(entry, |other| other.union(entry));
            layer.put(&mut tally, key, Some(entry));
        }
        NewLayer { layer, tally }
    }
}
