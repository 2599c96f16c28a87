//! Which places of the journal are held, by what, and which may be given out.

use super::layout::Sent;
use std::collections::{BTreeMap, BTreeSet};

/// What is known of a place that is held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// Which place.
    pub index: u32,
    /// What was written there; `None`: nothing yet.
    pub written: Option<Written>,
}

/// A record in a held place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    /// The attempt.
    pub sent: Sent,
    /// Whether its answer was written too.
    pub answered: bool,
}

/// The places, by what may be done with them. There is one more than are ever given out: the place of the
/// highest durable answer is kept back, so that no torn write can make the journal forget how far it came.
#[derive(Debug)]
pub(super) struct Places {
    free: Vec<u32>,
    held: BTreeMap<u64, Held>,
    next_sequence: u64,
    highest_answer: u64,
    kept_back: Option<KeptBack>,
    given_out_max: usize,
    /// Places that are to be wiped before they are given out again or while they are free.
    to_wipe: BTreeSet<u32>,
    /// Those of them that were given back, and are not free before they are wiped.
    waiting: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct KeptBack {
    index: u32,
    /// Its attempt is retired: it is free as soon as a higher answer is durable.
    idle: bool,
}

impl Places {
    /// `count` places of which those in `held` are taken; the highest durable answer is in `highest_at`.
    pub(super) fn new(count: u32, held: BTreeMap<u64, Held>, next_sequence: u64, highest: (u64, Option<u32>)) -> Self {
        let (highest_answer, highest_at) = highest;
        let is_held = |index: u32| held.values().any(|held| held.index == index);
        let free = (0..count).rev().filter(|&index| !is_held(index) && highest_at != Some(index)).collect();
        let kept_back = highest_at.map(|index| KeptBack { index, idle: !is_held(index) });
        let given_out_max = count.saturating_sub(1) as usize;
        let (to_wipe, waiting) = (BTreeSet::new(), Vec::new());
        Self { free, held, next_sequence, highest_answer, kept_back, given_out_max, to_wipe, waiting }
    }

    /// Takes a place, the one last given back first: few pages of the file are then warm and dirty.
    pub(super) fn reserve(&mut self) -> Option<(u32, u64)> {
        if self.held.len() >= self.given_out_max {
            return None;
        }
        let index = self.free.pop()?;
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.held.insert(sequence, Held { index, written: None });
        Some((index, sequence))
    }

    /// Whether this attempt still holds this place.
    pub(super) fn holds(&self, index: u32, sequence: u64) -> bool {
        self.held.get(&sequence).is_some_and(|held| held.index == index)
    }

    /// Notes what was written for an attempt that holds a place.
    pub(super) fn note_written(&mut self, written: Written) {
        if let Some(held) = self.held.get_mut(&written.sent.sequence) {
            held.written = Some(written);
        }
    }

    /// Ends the hold of an attempt on its place, which is not free before [`Places::give_back`].
    pub(super) fn take(&mut self, sequence: u64) -> Option<Held> {
        self.held.remove(&sequence)
    }

    /// Ends the hold of an attempt that wrote nothing.
    pub(super) fn take_unwritten(&mut self, sequence: u64) -> Option<Held> {
        let unwritten = self.held.get(&sequence).is_some_and(|held| held.written.is_none());
        if unwritten { self.take(sequence) } else { None }
    }

    /// Frees a place that was taken from its holder.
    pub(super) fn give_back(&mut self, index: u32) {
        match &mut self.kept_back {
            Some(kept) if kept.index == index => kept.idle = true,
            _ if self.to_wipe.contains(&index) => self.waiting.push(index),
            _ => self.free.push(index),
        }
    }

    /// The answer of this attempt is durable.
    pub(super) fn note_durable(&mut self, sequence: u64) {
        if sequence <= self.highest_answer {
            return;
        }
        self.highest_answer = sequence;
        let Some(index) = self.held.get(&sequence).map(|held| held.index) else { return };
        if let Some(before) = self.kept_back.replace(KeptBack { index, idle: false })
            && before.idle
        {
            self.give_back(before.index);
        }
    }

    /// From now on every place is wiped once, as soon as nothing in it is needed.
    pub(super) fn begin_wiping(&mut self) {
        let all = self.free.iter().chain(&self.waiting).copied().chain(self.held.values().map(|held| held.index));
        self.to_wipe = all.chain(self.kept_back.map(|kept| kept.index)).collect();
    }

    /// Takes a place that is to be wiped and that nobody holds; [`Places::wiped`] gives it back.
    pub(super) fn next_to_wipe(&mut self) -> Option<u32> {
        let is_wanted = |index: &u32| self.to_wipe.contains(index);
        let at = self.free.iter().position(is_wanted);
        self.waiting.pop().or_else(|| at.map(|at| self.free.swap_remove(at)))
    }

    /// This place has been wiped.
    pub(super) fn wiped(&mut self, index: u32) {
        self.to_wipe.remove(&index);
        self.give_back(index);
    }

    /// How many places are still to be wiped.
    pub(super) fn left_to_wipe(&self) -> usize {
        self.to_wipe.len()
    }

    /// Whether all that keeps a place from being wiped is that it has the highest answer.
    pub(super) fn is_kept_back_from_wiping(&self) -> bool {
        self.kept_back.is_some_and(|kept| kept.idle && self.to_wipe.contains(&kept.index))
    }

    /// Something else remembers an answer as high as this one: its place need not be kept back.
    pub(super) fn let_go_of(&mut self, remembered: u64) {
        if remembered >= self.highest_answer
            && let Some(kept) = self.kept_back.take_if(|kept| kept.idle)
        {
            self.give_back(kept.index);
        }
    }

    /// Everything written and not retired, by sequence.
    pub(super) fn written(&self) -> Vec<(u32, Written)> {
        self.held.values().filter_map(|held| Some((held.index, held.written?))).collect()
    }

    /// How many places are held.
    pub(super) fn count_held(&self) -> usize {
        self.held.len()
    }

    pub(super) const fn highest_answer(&self) -> u64 {
        self.highest_answer
    }

    /// The highest sequence number given out.
    pub(super) const fn last_sequence(&self) -> u64 {
        self.next_sequence - 1
    }
}
