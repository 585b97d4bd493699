//! The engine: admit, check, revoke and reinstate, side by side.

use std::cell::Cell;
use std::cell::RefCell;
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
use super::AuthorityDirectory;
use super::BreakGlass;
use super::Config;
use super::Denial;
use super::Error;
use super::Event;
use super::Fingerprinter;
use super::Journal;
use super::JournalEntry;
use super::JournalError;
use super::LayerBuilder;
use super::Level;
use super::ListOutcome;
use super::Listed;
use super::NamePrints;
use super::Outcome;
use super::Preview;
use super::Registers;
use super::Resumed;
use super::Spelling;
use super::Standing;
use super::State;
use super::Target;
use super::TokenOutcome;
use super::Which;
use super::crl;
use super::crl::Crl;
use super::crl::Verdict;
use super::crl::Verified;
use super::event::ADMIN;
use super::journal_file::Contents;
use super::ledger::Ledger;
use super::ledger::Lift;
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
use super::uptime::Uptime;
use super::uptime::UptimeCounter;
use crate::clock::Clock;
use crate::clock::Timestamp;
use crate::session::Cause;
use crate::session::Credential;
use crate::session::Fingerprint;
use crate::session::Guard;
use crate::session::Heeds;
use crate::session::Killed;
use crate::session::Origin;
use crate::session::Session;
use crate::session::SessionId;
use crate::session::Sessions;
use crate::telemetry::LONGEST_NAME;
use crate::telemetry::LineLimiter;
use crate::telemetry::cut;

/// How long a revocation waits for the sessions that it ended. None can be served meanwhile: each looks at its own
/// kill before it does anything else.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often housekeeping gives its turn away before it takes one.
const MOST_YIELDS: usize = 1000;
/// How often the journal notes how long the gate has run, at most: less than the minute after which the caller comes again,
/// which may be a moment early.
const NOTE: Duration = Duration::from_secs(50);

/// Where an event was decided: by which clock its time is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decider {
    /// Here, by the clock of this gate.
    Administrator,
    /// Elsewhere.
    Feed,
}

/// A revocation or suspension that is published.
struct Denied {
    entry: JournalEntry,
    merged: Merged,
}

/// A reinstatement that is on its way to the journal.
struct Lifts {
    /// What stands under a name of the target's issuer that leads to other authorities as well: it goes on to hold for
    /// their keys.
    carried: Vec<JournalEntry>,
    /// The reinstatement under each name, first the one that it gives.
    lifts: Vec<Event>,
}

/// The revocation engine. Shared by every listener of a process.
pub struct Engine {
    pub(super) set: Set,
    sessions: Arc<Sessions>,
    fingerprinter: Fingerprinter,
    journal: Journal,
    pub(super) clock: Clock,
    uptime: UptimeCounter,
    skew: Duration,
    remember: Duration,
    /// Why each entry is there. Writers to the set hold this lock; readers take it after a hit only.
    ledger: Mutex<Ledger>,
    /// How many wait for it. A mutex goes to whoever comes first after it is free, which is mostly who had it before.
    waiting: AtomicUsize,
    lists: InForce,
    break_glass: BreakGlass,
    authorities: AuthorityDirectory,
    /// The lines of the log that clients cause.
    pub(super) lines: Arc<LineLimiter>,
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
        let terms = Terms::of(config, clock.now(), Uptime::default());
        let opened = Journal::open(&path, terms).and_then(|opened| Self::new(opened, config, clock));
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
        Journal::on(storage, Terms::of(config, clock.now(), Uptime::default()))
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
            uptime: UptimeCounter::new(clock.clone(), contents.uptime),
            clock,
            skew: config.skew,
            remember: config.remember,
            ledger: Mutex::default(),
            waiting: AtomicUsize::new(0),
            lists: InForce::default(),
            break_glass: BreakGlass::default(),
            authorities: AuthorityDirectory::default(),
            lines: Arc::default(),
        };
        engine.load(contents.rows);
        Ok(engine)
    }

    /// The same, with the lines of the log limited by `lines`, together with all others that clients cause.
    #[must_use]
    pub fn limiting_lines(mut self, lines: Arc<LineLimiter>) -> Self {
        self.lines = lines;
        self
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
        let credential = session.credential();
        self.judge(credential)?;
        if credential.heeds == Heeds::Signed {
            self.tell_unheeded(credential);
        }
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
        let (fingerprint, is_suspended) = match (revoked, suspended) {
            (Some(fingerprint), _) => (fingerprint, false),
            (None, Some(fingerprint)) => (fingerprint, true),
            (None, None) => return Ok(()),
        };
        match credential.heeds {
            Heeds::All => Err(self.explain(fingerprint, is_suspended, credential)),
            Heeds::Signed => self.judge_by_signed(credential),
        }
    }

    /// Takes an event of a feed in. A revocation or suspension: **publish, kill, persist, acknowledge** (by returning). A
    /// reinstatement: persist, publish, acknowledge.
    ///
    /// # Errors
    /// [`Error::Revoked`] for a reinstatement that would need force; [`Error::Administered`] for one of what an
    /// administrator has suspended; [`Error::Journal`] for a reinstatement that could not be written, which then has no
    /// effect. A revocation never fails: the outcome says if it is not on disk.
    pub async fn apply(&self, event: Event) -> Result<Outcome, Error> {
        self.carry_out(event, Decider::Feed).await
    }

    /// The same for what is decided here. It happens now, whatever its `at`, and after everything that is known of its
    /// target or on its way to the journal, so that neither a clock that was set back nor an entry from the future
    /// outranks it.
    pub async fn decide(&self, event: Event) -> Result<Outcome, Error> {
        let event = Event { source: Some(ADMIN.into()), unsigned: false, ..event };
        self.carry_out(event, Decider::Administrator).await
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
        for why in crl.warnings.iter().filter(|_| verdict == Verdict::New) {
            tracing::warn!(list = crl.title(), why, "a revocation list counts although it breaks RFC 5280");
        }
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

    /// The revocation lists that another one with the same number and time contradicts: the entries of both count.
    pub fn contradicting_lists(&self) -> Vec<Crl> {
        self.lists.twins()
    }

    /// Every entry of a revocation list for one of these targets, of certificates and tokens; of a serial
    /// without an issuer, in the lists of every signer. Reads the lists from start to end.
    pub fn listed(&self, targets: &[Target]) -> Vec<Listed> {
        self.lists.find(targets)
    }

    /// Whether an event of a feed is dated further ahead of the present than the skew allows.
    pub fn is_ahead(&self, event: &Event) -> bool {
        event.at > self.latest_of_feeds()
    }

    /// What [`Self::decide`] would do with an event. Changes nothing.
    pub fn preview(&self, event: &Event) -> Preview {
        let mut event = event.clone();
        self.name_as_kept(&mut event.target);
        let target = event.target.clone();
        let print = self.fingerprinter.target(&target);
        let mut registers = {
            let ledger = self.ledger();
            self.stamp(&ledger, print, &mut event, Decider::Administrator);
            ledger.find(print).map(|(_, registers)| registers.clone()).unwrap_or_default()
        };
        let others = self.standing_by_any_name(&target);
        if others.iter().any(|(_, registers)| event.is_refused(registers)) {
            return Preview { changes: false, refused: true, sessions: Vec::new() };
        }
        let before = registers.entries();
        registers.merge(&event, Uptime::MAX);
        let after = registers.entries();
        let mut sessions = Vec::new();
        let lifts = event.action == Action::Reinstate;
        if !lifts {
            let denied = |session: &Session| after.deny(session.credential()).is_some();
            sessions = self.sessions_of(&target);
            sessions.retain(|session| denied(session) && session.cause().is_none() && !self.spares(session));
        }
        let lifts_others = lifts && others.iter().any(|(target, _)| *target != event.target);
        Preview { changes: after != before || lifts_others, refused: false, sessions }
    }

    /// Ends one session, whatever its credential, which is not denied and may come again. Returns how many sessions
    /// neither let go within a second nor could be cut hard (none, or this one); `None` if there is none of that name.
    pub async fn end_session(&self, id: SessionId, cause: Cause) -> Option<usize> {
        let killed = self.sessions.end(id, cause)?;
        Some(killed.ended(PATIENCE).await)
    }

    /// Forgets what has had its time, but for what the journal has no room to hear of. Returns of how many targets
    /// something that stood has lapsed.
    pub fn expire(&self) -> usize {
        self.note_uptime();
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
        let lapsed = ledger.expire(part, &terms, |target| self.fingerprinter.published(target));
        if !lapsed.entries.is_empty() {
            self.set.publish(lapsed.entries);
        }
        // Under the lock: a suspension that comes next must not reach the journal before.
        room.expire(lapsed.targets, terms);
        lapsed.count
    }

    /// Has the journal note each minute how long the gate has run: for a caller that comes by more often.
    pub fn note_uptime(&self) {
        if let Some(room) = self.journal.room()
            && let Some(uptime) = self.uptime.note(NOTE)
        {
            room.note(uptime);
        }
    }

    /// Makes the fingerprints of credentials.
    pub fn fingerprinter(&self) -> &Fingerprinter {
        &self.fingerprinter
    }

    /// The authorities that are known, and their names.
    pub fn authorities(&self) -> &AuthorityDirectory {
        &self.authorities
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

    /// All that is known of the targets whose events hit a credential that carries `carried`.
    pub fn standings_against(&self, carried: &Target) -> Vec<(Target, Registers)> {
        let ledger = self.ledger();
        let prints = self.fingerprinter.carried(carried);
        prints.iter().flat_map(|print| ledger.published(print)).cloned().collect()
    }

    /// The live sessions that an event of `target` hits, those that are ending included, the oldest first.
    pub fn sessions_of(&self, target: &Target) -> Vec<Arc<Session>> {
        let prints = self.fingerprinter.published(target);
        let hit = prints.iter().flat_map(|print| self.sessions.matching(print, |_| true));
        let mut sessions: Vec<Arc<Session>> = hit.collect();
        sessions.sort_unstable_by_key(|session| session.id());
        sessions.dedup_by_key(|session| session.id());
        sessions
    }

    /// Whether a live session carries a name that an event of `target` hits.
    pub fn has_sessions(&self, target: &Target) -> bool {
        self.fingerprinter.published(target).iter().any(|print| self.sessions.has(print))
    }

    /// What `pick` makes of the targets that anything is known of, in no order; without those it makes nothing of.
    ///
    /// A revocation that comes meanwhile waits for a small part of this, and may be seen or not. `pick` compares and
    /// copies, and does nothing else: it must not call the engine.
    pub fn select<T>(&self, mut pick: impl FnMut(&Target, &Registers) -> Option<T>) -> Vec<T> {
        let mut picked = Vec::new();
        self.each_part(&mut pick, |one| picked.push(one));
        picked
    }

    /// The same, part by part: what was picked of one is handed to `act`, which may call the engine, before the next.
    pub(super) fn each_part<T>(
        &self,
        mut pick: impl FnMut(&Target, &Registers) -> Option<T>,
        mut act: impl FnMut(T),
    ) {
        for part in 0..PARTS {
            self.let_others_in();
            let ledger = self.ledger();
            let picked: Vec<T> =
                ledger.part(part).filter_map(|(target, registers)| pick(target, registers)).collect();
            drop(ledger);
            picked.into_iter().for_each(&mut act);
        }
    }

    /// Whether everything in effect is on disk.
    pub fn is_durable(&self) -> bool {
        self.journal.is_durable()
    }

    /// True if the journal's thread has ended, so that nothing is written any more.
    pub fn has_journal_ended(&self) -> bool {
        self.journal.has_ended()
    }

    /// Why not everything in effect is on disk; `None` while it is.
    pub fn journal_fault(&self) -> Option<JournalError> {
        self.journal.fault()
    }

    async fn carry_out(&self, mut event: Event, decider: Decider) -> Result<Outcome, Error> {
        self.name_as_kept(&mut event.target);
        let started = Instant::now();
        match event.action {
            Action::Revoke | Action::Suspend => Ok(self.deny(event, decider, started).await),
            Action::Reinstate => self.lift(event, decider, started).await,
        }
    }

    /// Revokes or suspends: **publish, kill, persist**, under the target and at once under each key that the name of the
    /// target's issuer leads to.
    async fn deny(&self, event: Event, decider: Decider, started: Instant) -> Outcome {
        let published = RefCell::new(Vec::new());
        let effective_after = Cell::new(Duration::ZERO);
        let (killed, enforced) = protocol::revoke(
            || {
                let publish = |event| published.borrow_mut().push(self.publish(event, decider));
                self.under_all_keys(event, publish);
                effective_after.set(started.elapsed());
            },
            || {
                // Read after the set was published: the end of break-glass stores first, and then looks at the set.
                let enforced = !self.break_glass.is_on();
                let published = published.borrow();
                let kills =
                    published.iter().map(|denial| self.kill(&denial.entry.event, denial.merged, enforced));
                (kills.fold(Killed::default(), Killed::and), enforced)
            },
        );
        let published = published.into_inner();
        let generation = self.generation();
        let sessions_pending = killed.ended(PATIENCE).await;
        let enforced_after = started.elapsed();
        let (id, at) =
            published.first().map(|Denied { entry, .. }| (entry.event.id.clone(), entry.event.at)).unzip();
        let merged: Vec<Merged> = published.iter().map(|denial| denial.merged).collect();
        let durable = self.journal.append(published.into_iter().map(|denial| denial.entry).collect()).await;
        Outcome {
            id: id.unwrap_or_default(),
            at: at.unwrap_or(Timestamp::MIN),
            as_asked: merged.iter().all(|merged| merged.as_asked),
            changed: merged.iter().any(|merged| merged.is_change()),
            was_known: merged.iter().any(|merged| merged.was_known),
            generation,
            enforced,
            sessions_ended: killed.count(),
            sessions_pending,
            effective_after: effective_after.get(),
            enforced_after,
            durable_after: started.elapsed(),
            durable,
            other_names: Vec::new(),
        }
    }

    /// Lifts what stands of a target under any name of its issuer: **persist, publish**. All of it, or nothing: one commit
    /// holds it.
    async fn lift(&self, event: Event, decider: Decider, started: Instant) -> Result<Outcome, Error> {
        let Lifts { carried, mut lifts } = self.begin_lifts(event, decider)?;
        for entry in &carried {
            self.carry(entry);
        }
        let entry = |event: &Event| JournalEntry { event: event.clone(), lapses: Uptime::MAX };
        let entries = carried.into_iter().chain(lifts.iter().map(entry)).collect();
        let journalled = self.journal.append(entries).await;
        let durable_after = started.elapsed();
        let end = |event: &Event| {
            let prints = self.fingerprinter.published(&event.target);
            let mut ledger = self.ledger();
            ledger.end_lift(prints.exact);
            // Under the same lock: what is decided in between would have a stamp before that of the reinstatement.
            journalled.is_ok().then(|| self.merge(ledger, prints, event, Uptime::MAX))
        };
        let merged: Vec<Merged> = lifts.iter().filter_map(end).collect();
        journalled.map_err(Error::Journal)?;
        let (generation, effective_after) = (self.generation(), started.elapsed());
        let event = lifts.remove(0);
        Ok(Outcome {
            id: event.id,
            at: event.at,
            as_asked: merged.iter().all(|merged| merged.as_asked),
            changed: merged.iter().any(|merged| merged.is_change()),
            was_known: merged.iter().any(|merged| merged.was_known),
            generation,
            enforced: !self.break_glass.is_on(),
            sessions_ended: 0,
            sessions_pending: 0,
            effective_after,
            enforced_after: effective_after,
            durable_after,
            durable: Ok(()),
            other_names: lifts,
        })
    }

    /// Takes in a decision that was made under another name of its target: **publish, kill**; the journal gets it as
    /// soon as it can. The caller waits for neither the disk nor the sessions.
    pub(super) fn carry_over(&self, entry: JournalEntry) {
        let (is_change, sessions_ended) = self.carry(&entry);
        if is_change {
            tracing::warn!(
                revocation_target = loggable(&entry.event.target),
                id = entry.event.id,
                sessions_ended,
                "an authority was met under a name that was revoked or suspended before: it holds for its key"
            );
        }
        self.journal.submit(entry);
    }

    /// Publishes a decision that was made under another name of its target, and kills. Returns whether that changed
    /// anything, and how many sessions it ended.
    fn carry(&self, entry: &JournalEntry) -> (bool, usize) {
        let event = &entry.event;
        let prints = self.fingerprinter.published(&event.target);
        let published = Cell::new(Merged::default());
        let killed = protocol::revoke(
            || published.set(self.merge(self.ledger(), prints, event, entry.lapses)),
            || self.kill(event, published.get(), !self.break_glass.is_on()),
        );
        (published.get().is_change(), killed.count())
    }

    /// Refuses a reinstatement, or settles its place among the events of its target, under each name of the issuer that
    /// anything stands of: what is decided here from now on, and takes effect while the journal writes, comes after it and
    /// is not lifted by it.
    fn begin_lifts(&self, event: Event, decider: Decider) -> Result<Lifts, Error> {
        let spellings = self.spellings(&event.target);
        let (mut carried, mut lifts) = (Vec::new(), Vec::new());
        let mut ledger = self.ledger();
        for target in spellings {
            let known = ledger.find(self.fingerprinter.target(&target));
            let registers = known.map(|(_, registers)| registers);
            if let Some(registers) = registers {
                if event.is_refused(registers) {
                    return Err(Error::Revoked(target));
                }
                if decider == Decider::Feed && event.lifts_an_administrators(registers) {
                    return Err(Error::Administered(target));
                }
                if event.lifts_what_is_signed(registers) {
                    return Err(Error::Signed(target));
                }
                carried.extend(self.of_other_keys(&event.target, &target, registers));
            }
            let stands = registers.is_some_and(|registers| registers.standings().next().is_some());
            if stands || target == event.target {
                lifts.push(Event { target, ..event.clone() });
            }
        }
        for lift in &mut lifts {
            let fingerprint = self.fingerprinter.target(&lift.target);
            self.stamp(&ledger, fingerprint, lift, decider);
            ledger.begin_lift(fingerprint, lift);
        }
        Ok(Lifts { carried, lifts })
    }

    /// Settles an event's place among those of its target, merges it into the registers, and makes the result visible to
    /// every reader.
    fn publish(&self, mut event: Event, decider: Decider) -> Denied {
        let prints = self.fingerprinter.published(&event.target);
        let ledger = self.ledger();
        self.stamp(&ledger, prints.exact, &mut event, decider);
        let lapses = self.terms().lapses_at(event.expires_at);
        let merged = self.merge(ledger, prints, &event, lapses);
        Denied { entry: JournalEntry { event, lapses }, merged }
    }

    /// Merges an event into the registers of its target, and makes the result visible to every reader.
    fn merge(
        &self,
        mut ledger: MutexGuard<'_, Ledger>,
        prints: NamePrints,
        event: &Event,
        lapses: Uptime,
    ) -> Merged {
        let merged = ledger.merge(prints, event, lapses);
        // An event that changes nothing moves no generation: a flood of duplicates makes nobody probe again.
        if merged.is_change() {
            self.set.publish(merged.entries(prints.exact));
            drop(ledger);
            self.tell_if_late(event);
        }
        merged
    }

    /// Gives an event the time by which it is ordered. One that is decided here comes after everything that is known of
    /// its target: a hybrid logical clock. The time of a feed's event is its own, clamped so that no message from the
    /// future blocks a later one.
    fn stamp(&self, ledger: &Ledger, fingerprint: Fingerprint, event: &mut Event, decider: Decider) {
        let next = |at: Timestamp| at.plus(Duration::from_millis(1));
        let latest = self.latest_of_feeds();
        if decider == Decider::Administrator {
            event.at = ledger.latest(fingerprint).map_or(Timestamp::MIN, next).max(self.clock.now());
            return;
        }
        event.at = event.at.min(latest);
        // A reinstatement from the future was decided while this clock was ahead, or the clock is behind by now. The times
        // then do not tell which of the two was decided first. In doubt the target is denied. The clock of a feed may be
        // ahead by the skew, so the times of its own events do tell.
        let now = self.clock.now();
        let in_doubt = |lift: &Lift| lift.at > latest || (lift.is_local && lift.at > now);
        if let Some(Lift { at: lifted, .. }) = ledger.outranked_by(fingerprint, event).filter(in_doubt) {
            tracing::warn!(
                id = event.id, revocation_target = loggable(&event.target), at = %event.at, %lifted, action = event.action.name(),
                "takes effect although the target was reinstated at a later time: that lies in the future, so \
                 the clock of this gate was or is wrong; if the event is an old one, reinstate the target again"
            );
            event.at = next(lifted);
        }
    }

    /// The latest time that an event of a feed may have.
    fn latest_of_feeds(&self) -> Timestamp {
        self.clock.now().plus(self.skew)
    }

    fn kill(&self, event: &Event, merged: Merged, enforced: bool) -> Killed {
        let prints = self.fingerprinter.published(&event.target);
        let published = merged.after;
        let reason = event.reason.clone().unwrap_or_default();
        let denied = |session: &Session| {
            let suspended = published.deny(session.credential())?;
            if !enforced && BreakGlass::concerns(session) {
                return None;
            }
            Some(Cause { code: code(event.target.level(), suspended), reason: reason.clone() })
        };
        let killed = self.sessions.kill(prints.exact, denied);
        match prints.alias {
            Some(alias) => killed.and(self.sessions.kill(alias, denied)),
            None => killed,
        }
    }

    /// Names a target as an earlier version kept it, where something of that is left: both are one row of the journal.
    pub fn name_as_kept(&self, target: &mut Target) {
        if !target.is_bare() {
            return;
        }
        let print = self.fingerprinter.target(target);
        if let Some((kept, _)) =
            self.ledger().find(print).filter(|(kept, _)| kept.spelling() == Spelling::AnyCase)
        {
            target.clone_from(kept);
        }
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
        suspended.map(|fingerprint| self.explain(fingerprint, true, credential))
    }

    fn load(&self, contents: Vec<(Target, Registers)>) {
        let terms = self.terms();
        let mut ledger = self.ledger();
        ledger.reserve(contents.len());
        let mut entries = LayerBuilder::default();
        let mut lapsed = Vec::new();
        for row in contents {
            row.0.authority().into_iter().for_each(|name| self.authorities.mention(name));
            let prints = self.fingerprinter.published(&row.0);
            let (entry, outdated) = ledger.load(prints, row, &terms);
            if let Some(entry) = entry {
                entries.push(prints.exact, entry);
            }
            lapsed.extend(outdated);
        }
        ledger.aliased().for_each(|(alias, entry)| entries.push(alias, entry));
        self.set.load(entries.build());
        if let Some(room) = self.journal.room() {
            room.expire(lapsed, terms);
        }
    }

    fn terms(&self) -> Terms {
        Terms { now: self.clock.now(), uptime: self.uptime.now(), skew: self.skew, remember: self.remember }
    }

    /// What comes so late may have been lifted by a reinstatement that is forgotten. It stands all the same.
    fn tell_if_late(&self, event: &Event) {
        if event.action != Action::Reinstate && self.terms().outlived(event.at) {
            tracing::warn!(
                id = event.id, revocation_target = loggable(&event.target), at = %event.at, action = event.action.name(),
                "took effect although it is older than what is remembered; if it was lifted before, lift it again"
            );
        }
    }

    /// Why a fingerprint is denied to a credential. Whatever said so may be gone by now.
    pub(super) fn explain(
        &self,
        fingerprint: Fingerprint,
        suspended: bool,
        credential: &Credential,
    ) -> Denial {
        let live = self.standing_of(fingerprint, suspended, credential);
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

    /// The level of a target that was told of live, and what stands of it against a credential, if it still does.
    fn standing_of(
        &self,
        fingerprint: Fingerprint,
        suspended: bool,
        credential: &Credential,
    ) -> Option<(Level, Option<Standing>)> {
        let ledger = self.ledger();
        let state = if suspended { State::Suspended } else { State::Revoked };
        let mut level = None;
        for (target, registers) in ledger.published(fingerprint) {
            let mut standings = registers.standings();
            let standing = standings.find(|(found, standing)| *found == state && standing.hits(credential));
            if let Some((_, standing)) = standing {
                return Some((target.level(), Some(standing.clone())));
            }
            level = Some(target.level());
        }
        level.map(|level| (level, None))
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
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

/// A target as a line of the log has it.
fn loggable(target: &Target) -> String {
    cut(&target.to_string(), LONGEST_NAME).into_owned()
}

impl Drop for Engine {
    /// Notes how long the gate has run: an orderly end loses none of it.
    fn drop(&mut self) {
        if self.journal.is_durable()
            && let Some(room) = self.journal.room()
            && let Some(uptime) = self.uptime.note(Duration::from_secs(1))
        {
            room.note(uptime);
        }
    }
}
