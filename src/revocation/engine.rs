//! The engine: admit, check, revoke and reinstate, side by side.

use std::cell::Cell;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use aws_lc_rs::rand;
use redb::StorageBackend;
use redb::backends::InMemoryBackend;

use super::Action;
use super::BreakGlass;
use super::Config;
use super::Denial;
use super::Error;
use super::Event;
use super::Fingerprinter;
use super::Journal;
use super::JournalError;
use super::LayerBuilder;
use super::Level;
use super::ListOutcome;
use super::Listed;
use super::Outcome;
use super::Preview;
use super::Registers;
use super::Resumed;
use super::Standing;
use super::State;
use super::Target;
use super::TokenOutcome;
use super::Which;
use super::crl;
use super::crl::Crl;
use super::crl::Verdict;
use super::crl::Verified;
use super::journal::Contents;
use super::ledger::Ledger;
use super::ledger::Merged;
use super::ledger::PARTS;
use super::lists::InForce;
use super::outcome::code;
use super::protocol;
use super::registers::Entry;
use super::registers::Terms;
use super::set::Set;
use super::token_list;
use super::token_list::TokenList;
use crate::clock::Clock;
use crate::clock::Timestamp;
use crate::session::Cause;
use crate::session::Credential;
use crate::session::Fingerprint;
use crate::session::Guard;
use crate::session::Killed;
use crate::session::Origin;
use crate::session::Session;
use crate::session::SessionId;
use crate::session::Sessions;

/// How long a revocation waits for the sessions that it ended. None can be served meanwhile: each looks at its own
/// kill before it does anything else.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often housekeeping gives its turn away before it takes one.
const MOST_YIELDS: usize = 1000;

/// The revocation engine. Shared by every listener of a process.
pub struct Engine {
    set: Set,
    sessions: Arc<Sessions>,
    fingerprinter: Fingerprinter,
    journal: Journal,
    clock: Clock,
    skew: Duration,
    remember: Duration,
    /// Why each entry is there. Writers to the set hold this lock; readers take it after a hit only.
    ledger: Mutex<Ledger>,
    /// How many wait for it. A mutex goes to whoever comes first after it is free, which is mostly who had it before.
    waiting: AtomicUsize,
    lists: InForce,
    break_glass: BreakGlass,
}

impl Engine {
    /// The name of the journal's file in a state directory.
    pub const JOURNAL: &str = "revocations.redb";

    /// Opens the engine on a state directory, which is made if missing; everything in its journal is in effect when
    /// this returns.
    pub fn open(directory: &Path, config: &Config, clock: Clock) -> Result<Self, Error> {
        if !Self::has_journal(directory) {
            Self::make_directory(directory)?;
            Self::make_journal(directory)?;
        }
        Self::reopen(directory, config, clock)
    }

    /// The same on a state directory whose journal must be there: a missing one was lost.
    pub fn reopen(directory: &Path, config: &Config, clock: Clock) -> Result<Self, Error> {
        let path = directory.join(Self::JOURNAL);
        let opened = Journal::open(&path).and_then(|opened| Self::new(opened, config, clock));
        opened.map_err(|error| Error::Open { path, error })
    }

    /// Makes a state directory, for its user alone.
    pub fn make_directory(directory: &Path) -> Result<(), Error> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        let failed = |e: io::Error| JournalError::Write(e.to_string());
        made.map_err(failed).map_err(|error| Error::Open { path: directory.join(Self::JOURNAL), error })
    }

    /// Makes the empty journal of a state directory.
    pub fn make_journal(directory: &Path) -> Result<(), Error> {
        let path = directory.join(Self::JOURNAL);
        Journal::make(&path).map_err(|error| Error::Open { path, error })
    }

    /// An engine whose journal is on the storage that `storage` returns; it is asked again after each failed write.
    /// For tests of failing disks.
    #[doc(hidden)]
    pub fn on_storage<B: StorageBackend>(
        storage: impl FnMut() -> io::Result<B> + Send + 'static,
        config: &Config,
        clock: Clock,
    ) -> Result<Self, Error> {
        Journal::on(storage)
            .and_then(|opened| Self::new(opened, config, clock))
            .map_err(|error| Error::Open { path: Self::JOURNAL.into(), error })
    }

    /// An engine that forgets everything with the process. For dry runs, tests and benches.
    #[doc(hidden)]
    pub fn in_memory(config: &Config, clock: Clock) -> Result<Self, Error> {
        Self::on_storage(|| Ok(InMemoryBackend::new()), config, clock)
    }

    fn new(
        (journal, contents): (Journal, Contents),
        config: &Config,
        clock: Clock,
    ) -> Result<Self, JournalError> {
        let no_randomness = || JournalError::Write("the system has no randomness".into());
        let fingerprinter = Fingerprinter::random().ok_or_else(no_randomness)?;
        let mut random = [0; 4];
        rand::fill(&mut random).map_err(|_| no_randomness())?;
        let first = SessionId::first(u32::from_ne_bytes(random));
        let engine = Self {
            set: Set::default(),
            sessions: Arc::new(Sessions::starting_at(first)),
            fingerprinter,
            journal,
            clock,
            skew: config.skew,
            remember: config.remember,
            ledger: Mutex::default(),
            waiting: AtomicUsize::new(0),
            lists: InForce::default(),
            break_glass: BreakGlass::default(),
        };
        engine.load(contents);
        Ok(engine)
    }

    /// Whether a state directory has a journal.
    pub fn has_journal(directory: &Path) -> bool {
        directory.join(Self::JOURNAL).exists()
    }

    /// A session begins: **register, then check.** While break-glass lasts it begins although it is denied, which its
    /// requests are told by [`Self::check`].
    pub fn admit(&self, credential: Arc<Credential>, origin: Origin) -> Result<Guard, Denial> {
        let now = self.clock.now();
        let register = || self.sessions.register(credential, origin, now);
        protocol::admit(register, |guard| {
            let session = guard.session();
            self.check(session).or_else(|denial| if self.spares(session) { Ok(()) } else { Err(denial) })
        })
    }

    /// A session whose credential may be none at all, or of nobody known, is to be served because break-glass lasts.
    /// Whether it may: if so, it ends with that.
    pub fn tolerate(&self, session: &Session) -> bool {
        // Marked only then, so that no refusal in quiet times has consequences; and asked again after the mark.
        self.spares(session) && {
            session.tolerate();
            self.spares(session)
        }
    }

    /// Whether break-glass lasts, so that nothing is refused to a session.
    pub fn spares(&self, session: &Session) -> bool {
        self.break_glass.spares(session)
    }

    /// Whether break-glass lasts, and who declared it.
    pub fn break_glass(&self) -> &BreakGlass {
        &self.break_glass
    }

    /// Ends break-glass: **switch enforcement on, then sweep.** Everything that is denied by now, or was only tolerated,
    /// is out when this returns. `None` if there is none, or it has not lapsed.
    pub async fn end_break_glass(&self, which: Which) -> Option<Resumed> {
        let ended = Cell::new(None);
        let swept = protocol::enforce(
            || ended.set(self.break_glass.switch_off(which)),
            || {
                let declared = ended.take()?;
                let killed = self.sessions.kill_denied(|session| {
                    let over = || Cause { code: "advisory_over", reason: String::new() };
                    self.denied(session).or_else(|| session.is_tolerated().then(over))
                });
                Some((declared, killed))
            },
        );
        let (declared, killed) = swept?;
        let sessions_pending = killed.ended(PATIENCE).await;
        Some(Resumed { declared, sessions_ended: killed.count(), sessions_pending })
    }

    /// A request begins: held against the set only if the set has moved since this session was last held against it.
    #[inline]
    pub fn check(&self, session: &Session) -> Result<(), Denial> {
        let generation = self.set.generation();
        if session.seen() == generation { Ok(()) } else { self.check_anew(session, generation) }
    }

    #[cold]
    fn check_anew(&self, session: &Session, generation: u64) -> Result<(), Denial> {
        self.judge(session.credential())?;
        session.set_seen(generation);
        Ok(())
    }

    /// Holds a credential against the set, without a session. Revoked outranks suspended, whichever source says so.
    pub fn judge(&self, credential: &Credential) -> Result<(), Denial> {
        let issued_at = credential.issued_at;
        let mut suspended = None;
        let denied = |fingerprint, entry: Entry| match entry.denies(issued_at)? {
            true => {
                suspended.get_or_insert(fingerprint);
                None
            }
            false => Some(fingerprint),
        };
        let revoked = self.set.probe(credential.own.iter().chain(&credential.mass), denied);
        match (revoked, suspended) {
            (Some(fingerprint), _) => Err(self.explain(fingerprint, false, issued_at)),
            (None, Some(fingerprint)) => Err(self.explain(fingerprint, true, issued_at)),
            (None, None) => Ok(()),
        }
    }

    /// Takes an event in. A revocation or suspension: **publish, kill, persist, acknowledge** (by returning). A
    /// reinstatement: persist, publish, acknowledge.
    ///
    /// # Errors
    /// [`Error::Revoked`] for a reinstatement that would need force; [`Error::Journal`] for a reinstatement that could
    /// not be written, which then has no effect. A revocation never fails: what is not on disk is said in the outcome.
    pub async fn apply(&self, mut event: Event) -> Result<Outcome, Error> {
        // Clamped once, here, and journalled clamped: no message from the future blocks a later one.
        event.at = self.clamped(event.at);
        let started = Instant::now();
        match event.action {
            Action::Revoke | Action::Suspend => Ok(self.revoke(event, started).await),
            Action::Reinstate => self.reinstate(event, started).await,
        }
    }

    /// Takes a revocation list in: **publish, kill**, and nothing else: who fetched the list keeps it. It replaces what
    /// the signer said before; what others said, and what was revoked by events, stands as it was.
    ///
    /// Takes time in proportion to all lists of the signer, some 50 ns an entry: not for a thread that serves.
    pub fn take_in(&self, verified: Verified) -> Result<ListOutcome, crl::Error> {
        let started = Instant::now();
        let crl = verified.crl().clone();
        let replace = |signer: &str, layer| self.set.replace_layer(signer, layer);
        let mut accepted = Ok((Verdict::Unchanged, Duration::ZERO));
        // Even where nothing is new: a session that an earlier call was about to end is waited for by this one too.
        let killed = protocol::revoke(
            || {
                let verdict = self.lists.accept(verified, &self.fingerprinter, replace);
                accepted = verdict.map(|verdict| (verdict, started.elapsed()));
            },
            || self.kill_denied(),
        );
        let (verdict, effective_after) = accepted?;
        Ok(ListOutcome { crl, verdict, generation: self.generation(), effective_after, killed })
    }

    /// The same for a list of tokens, whose signature held: it replaces what its registry said before.
    pub fn take_in_tokens(&self, list: TokenList) -> Result<TokenOutcome, token_list::Error> {
        let started = Instant::now();
        let replace = |name: &str, layer| self.set.replace_layer(name, layer);
        let mut accepted = Ok((Verdict::Unchanged, Duration::ZERO));
        let killed = protocol::revoke(
            || {
                let verdict = self.lists.accept_tokens(list, &self.fingerprinter, replace);
                accepted = verdict.map(|verdict| (verdict, started.elapsed()));
            },
            || self.kill_denied(),
        );
        let (verdict, effective_after) = accepted?;
        Ok(TokenOutcome { verdict, effective_after, killed })
    }

    /// How many tokens the list of each registry revokes.
    pub fn token_counts(&self) -> Vec<(String, usize)> {
        self.lists.token_counts()
    }

    /// What each revocation list that is in force says about itself, by signer.
    pub fn lists(&self) -> Vec<Crl> {
        self.lists.crls()
    }

    /// Every entry of a revocation list for one of these targets, of certificates and tokens; of a serial
    /// without an issuer, in the lists of every signer. Reads the lists from start to end.
    pub fn listed(&self, targets: &[Target]) -> Vec<Listed> {
        self.lists.find(targets)
    }

    /// What [`Self::apply`] would do with an event. Changes nothing.
    pub fn preview(&self, event: &Event) -> Preview {
        let fingerprint = self.fingerprinter.target(&event.target);
        let known = self.ledger().find(fingerprint).map(|(_, registers)| registers.clone());
        let mut registers = known.unwrap_or_default();
        if event.is_refused(&registers) {
            return Preview { changes: false, refused: true, sessions: Vec::new() };
        }
        let before = registers.entry();
        registers.merge(&Event { at: self.clamped(event.at), ..event.clone() });
        let after = registers.entry();
        let mut sessions = Vec::new();
        if let (Some(entry), false) = (after, event.action == Action::Reinstate) {
            let denied = |session: &Session| entry.denies(session.credential().issued_at).is_some();
            sessions = self.sessions.matching(fingerprint, denied);
            sessions.retain(|session| session.cause().is_none() && !self.spares(session));
        }
        Preview { changes: after != before, refused: false, sessions }
    }

    /// Ends one session, whatever its credential, which is not denied and may come again. Returns how many sessions
    /// neither let go within a second nor could be cut hard (none, or this one); `None` if there is none of that name.
    pub async fn end_session(&self, id: SessionId, cause: Cause) -> Option<usize> {
        let killed = self.sessions.end(id, cause)?;
        Some(killed.ended(PATIENCE).await)
    }

    /// When something that is decided here and now about a target happens: now, or just after the latest that is known
    /// of it, so that neither a clock that was set back nor a message from the near future makes it count for nothing.
    pub fn now_for(&self, target: &Target) -> Timestamp {
        let latest = self.ledger().find(self.fingerprinter.target(target)).and_then(|(_, r)| r.latest());
        let after = latest.map(|latest| latest.plus(Duration::from_millis(1)));
        after.map_or(self.clock.now(), |after| after.max(self.clock.now()))
    }

    /// Forgets what has had its time, but for what the journal has no room to hear of. Returns of how many targets
    /// something that stood has lapsed.
    pub fn expire(&self) -> usize {
        self.due().into_iter().map(|part| self.expire_part(part)).sum()
    }

    /// The parts of what is known in which something may have had its time: for [`Self::expire_part`].
    pub fn due(&self) -> Vec<usize> {
        self.ledger().due(&self.terms())
    }

    /// The same as [`Self::expire`] for one part, so that whoever shares a thread with those who revoke can let them in
    /// between.
    pub fn expire_part(&self, part: usize) -> usize {
        // Without room in the journal it waits for the next time.
        let Some(room) = self.journal.room() else { return 0 };
        let terms = self.terms();
        self.let_others_in();
        let mut ledger = self.ledger();
        let lapsed = ledger.expire(part, &terms);
        if !lapsed.entries.is_empty() {
            self.set.publish(lapsed.entries);
        }
        // Under the lock: a suspension that comes next must not reach the journal before.
        room.expire(lapsed.targets, terms);
        lapsed.count
    }

    /// Makes the fingerprints of credentials.
    pub fn fingerprinter(&self) -> &Fingerprinter {
        &self.fingerprinter
    }

    /// The live sessions.
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// Moves whenever the set does.
    pub fn generation(&self) -> u64 {
        self.set.generation()
    }

    /// How many targets are revoked or suspended.
    pub fn entries(&self) -> usize {
        self.entries_by_level().iter().sum()
    }

    /// The same, level by level, in the order of [`Level::ALL`].
    pub fn entries_by_level(&self) -> [usize; Level::ALL.len()] {
        self.ledger().counts()
    }

    /// All that is known of a target, of which nothing need stand; `None` if nothing is.
    pub fn standing(&self, target: &Target) -> Option<Registers> {
        self.ledger().find(self.fingerprinter.target(target)).map(|(_, registers)| registers.clone())
    }

    /// What `pick` makes of the targets that anything is known of, in no order; without those it makes nothing of.
    ///
    /// A revocation that comes meanwhile waits for a small part of this, and may be seen or not. `pick` compares and
    /// copies, and does nothing else: it must not call the engine.
    pub fn select<T>(&self, mut pick: impl FnMut(&Target, &Registers) -> Option<T>) -> Vec<T> {
        let mut picked = Vec::new();
        for part in 0..PARTS {
            self.let_others_in();
            let ledger = self.ledger();
            picked.extend(ledger.part(part).filter_map(|(target, registers)| pick(target, registers)));
        }
        picked
    }

    /// Whether everything in effect is on disk.
    pub fn is_durable(&self) -> bool {
        self.journal.is_durable()
    }

    /// Why not everything in effect is on disk; `None` while it is.
    pub fn journal_fault(&self) -> Option<JournalError> {
        self.journal.fault()
    }

    async fn revoke(&self, event: Event, started: Instant) -> Outcome {
        let fingerprint = self.fingerprinter.target(&event.target);
        let published = Cell::new((Merged::default(), Duration::ZERO));
        let (killed, enforced) = protocol::revoke(
            || published.set((self.publish(fingerprint, &event), started.elapsed())),
            || {
                // Read after the set was published: the end of break-glass stores first, and then looks at the set.
                let enforced = !self.break_glass.is_on();
                (self.kill(fingerprint, &event, published.get().0.after, enforced), enforced)
            },
        );
        let (merged, effective_after) = published.get();
        let generation = self.generation();
        let sessions_pending = killed.ended(PATIENCE).await;
        let enforced_after = started.elapsed();
        let (id, at) = (event.id.clone(), event.at);
        let durable = self.journal.append(event).await;
        Outcome {
            id,
            at,
            changed: merged.is_change(),
            generation,
            enforced,
            sessions_ended: killed.count(),
            sessions_pending,
            effective_after,
            enforced_after,
            durable_after: started.elapsed(),
            durable,
        }
    }

    async fn reinstate(&self, event: Event, started: Instant) -> Result<Outcome, Error> {
        let fingerprint = self.fingerprinter.target(&event.target);
        if self.ledger().find(fingerprint).is_some_and(|(_, registers)| event.is_refused(registers)) {
            return Err(Error::Revoked(event.target));
        }
        self.journal.append(event.clone()).await.map_err(Error::Journal)?;
        let durable_after = started.elapsed();
        let changed = self.publish(fingerprint, &event).is_change();
        let generation = self.generation();
        let effective_after = started.elapsed();
        Ok(Outcome {
            id: event.id,
            at: event.at,
            changed,
            generation,
            enforced: !self.break_glass.is_on(),
            sessions_ended: 0,
            sessions_pending: 0,
            effective_after,
            enforced_after: effective_after,
            durable_after,
            durable: Ok(()),
        })
    }

    /// Merges an event into the registers of its target, and makes the result visible to every reader.
    fn publish(&self, fingerprint: Fingerprint, event: &Event) -> Merged {
        let mut ledger = self.ledger();
        let merged = ledger.merge(fingerprint, event);
        // An event that changes nothing moves no generation: a flood of duplicates makes nobody probe again.
        if merged.is_change() {
            self.set.publish([(fingerprint, merged.after)]);
            drop(ledger);
            self.tell_if_late(event);
        }
        merged
    }

    fn kill(
        &self,
        fingerprint: Fingerprint,
        event: &Event,
        published: Option<Entry>,
        enforced: bool,
    ) -> Killed {
        let reason = event.reason.clone().unwrap_or_default();
        self.sessions.kill(fingerprint, |session| {
            let suspended = published?.denies(session.credential().issued_at)?;
            if !enforced && BreakGlass::concerns(session) {
                return None;
            }
            Some(Cause { code: code(event.target.level(), suspended), reason: reason.clone() })
        })
    }

    /// Ends every session that is denied, whatever denies it.
    fn kill_denied(&self) -> Killed {
        self.sessions.kill_denied(|session| self.denied(session).filter(|_| !self.spares(session)))
    }

    /// Why a session is denied, if it is.
    fn denied(&self, session: &Session) -> Option<Cause> {
        let denial = self.judge(session.credential()).err()?;
        Some(Cause { code: denial.code(), reason: denial.reason })
    }

    /// What of a credential is suspended, even if more of it is revoked.
    pub fn suspension(&self, credential: &Credential) -> Option<Denial> {
        let mut suspended = None;
        let issued_at = credential.issued_at;
        self.set.probe(credential.own.iter().chain(&credential.mass), |fingerprint, entry| {
            if entry.denies(issued_at)? {
                suspended.get_or_insert(fingerprint);
            }
            None::<()>
        });
        suspended.map(|fingerprint| self.explain(fingerprint, true, issued_at))
    }

    fn load(&self, contents: Contents) {
        let terms = self.terms();
        let mut ledger = self.ledger();
        ledger.reserve(contents.len());
        let mut entries = LayerBuilder::default();
        let mut lapsed = Vec::new();
        for row in contents {
            let fingerprint = self.fingerprinter.target(&row.0);
            let (entry, outdated) = ledger.load(fingerprint, row, &terms);
            if let Some(entry) = entry {
                entries.push(fingerprint, entry);
            }
            lapsed.extend(outdated);
        }
        self.set.load(entries.build());
        if let Some(room) = self.journal.room() {
            room.expire(lapsed, terms);
        }
    }

    fn terms(&self) -> Terms {
        Terms { now: self.clock.now(), skew: self.skew, remember: self.remember }
    }

    /// What comes so late may have been lifted by a reinstatement that is forgotten. It stands all the same.
    fn tell_if_late(&self, event: &Event) {
        if event.action != Action::Reinstate && self.terms().outlived(event.at) {
            tracing::warn!(
                id = event.id, target = %event.target, at = %event.at, action = event.action.name(),
                "took effect although it is older than what is remembered; if it was lifted before, lift it again"
            );
        }
    }

    fn clamped(&self, at: Timestamp) -> Timestamp {
        at.min(self.clock.now().plus(self.skew))
    }

    /// Why a fingerprint is denied to what was issued then. Whatever said so may be gone by now.
    fn explain(&self, fingerprint: Fingerprint, suspended: bool, issued_at: i64) -> Denial {
        let live = self.standing_of(fingerprint, suspended, issued_at);
        let (level, standing) = live.unwrap_or((Level::Certificate, None));
        if let Some(standing) = standing {
            return Denial { level, suspended, reason: standing.reason.unwrap_or_default() };
        }
        let named = self.set.named(fingerprint);
        let says_so = |entry: Entry| suspended == (entry.revoked_before == i64::MIN);
        match named.iter().find(|(_, entry)| says_so(*entry)) {
            Some((layer, _)) => self.lists.explain(layer, suspended),
            None => Denial { level, suspended, reason: String::new() },
        }
    }

    /// The level of a target that was told of live, and what stands of it against what was issued then, if it still does.
    fn standing_of(
        &self,
        fingerprint: Fingerprint,
        suspended: bool,
        issued_at: i64,
    ) -> Option<(Level, Option<Standing>)> {
        let ledger = self.ledger();
        let (target, registers) = ledger.find(fingerprint)?;
        let state = if suspended { State::Suspended } else { State::Revoked };
        let hits = |standing: &Standing| standing.issued_before.is_none_or(|before| issued_at < before);
        let mut standings = registers.standings();
        let standing = standings.find(|(found, standing)| *found == state && hits(standing));
        Some((target.level(), standing.map(|(_, standing)| standing.clone())))
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        ledger
    }

    /// For whoever takes the lock again and again, and is in no hurry.
    fn let_others_in(&self) {
        for _ in 0..MOST_YIELDS {
            if self.waiting.load(Ordering::Relaxed) == 0 {
                return;
            }
            std::thread::yield_now();
        }
    }
}
