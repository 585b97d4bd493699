//! Who is at the other end: a verified chain, its identity and everything that can revoke it, made once a chain.
//!
//! A bounded cache from the SHA-256 of what a client presented to what was made of it (`verdicts`). A hit costs a hash;
//! validity is looked at again on each. A resumed TLS session, for which rustls runs no verifier, finds its peer here
//! too, or is verified anew. A chain that is not known gets few signature checks while those of its network that failed have
//! cost too many.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use aws_lc_rs::digest;
use http::HeaderValue;
use prometheus::IntCounter;
use rustls::pki_types::CertificateDer;
use tokio::time::Instant;
use tracing::field::display;

use super::Limits;
use super::RejectAt;
use super::accounts::Account;
use super::accounts::Accounts;
use super::error::REVOKED;
use super::failures::ChainFailures;
use super::failures::FEW_CHECKS;
use super::handshake::Handshake;
use super::headers::IdentityHeaders;
use super::presented;
use super::presented::Presented;
use super::verdicts::ChainDigest;
use super::verdicts::VerifiedChains;
use crate::clock::Clock;
use crate::clock::Timestamp;
use crate::identity::Binding;
use crate::identity::ChainError;
use crate::identity::Error;
use crate::identity::Identity;
use crate::identity::MAX_CHECKS;
use crate::identity::Trust;
use crate::identity::VerifiedChain;
use crate::identity::limit_bytes;
use crate::revocation::Engine;
use crate::revocation::Registry;
use crate::revocation::Seen;
use crate::session::Credential;
use crate::session::Heeds;
use crate::telemetry::LONGEST_NAME;
use crate::telemetry::LONGEST_REASON;
use crate::telemetry::LineKind;
use crate::telemetry::LineLimiter;
use crate::telemetry::LineSource;
use crate::telemetry::Metrics;
use crate::telemetry::cut;

const UNVERIFIED: &str = "authentication error: a client certificate does not verify";

/// What becomes, in the handshake, of a client whose chain does not verify. Nobody is ever believed to be whom such a
/// chain names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strangers {
    /// The handshake fails, but not while break-glass lasts.
    Tolerated,
    /// The handshake goes on: each route decides about such a client; on the admin listener, its token does.
    LetIn,
}

/// A client whose chain was verified.
pub struct Peer {
    /// The chain.
    pub chain: VerifiedChain,
    /// Who it is here, or why its names are not accepted.
    pub identity: Result<Identity, Error>,
    /// What can revoke it.
    pub credential: Arc<Credential>,
    /// What upstreams are told about it.
    pub(super) headers: IdentityHeaders,
    /// How much it takes, under whichever certificate; `None` if that is not limited.
    pub(super) account: Option<Arc<Account>>,
    /// `mtls_auth_total{result="success"}` of its kind.
    pub(super) success: IntCounter,
    /// Whether the names on its path are known.
    has_taught: AtomicBool,
}

impl Peer {
    /// The principal's name; empty if its names were not accepted.
    pub fn principal(&self) -> &str {
        self.identity.as_ref().map_or("", |identity| identity.principal.as_str())
    }

    /// The kind of principal, of bounded variety.
    pub fn kind(&self) -> &str {
        self.identity.as_ref().map_or("unknown", |identity| identity.kind.as_str())
    }

    /// Whether the verified path is valid at `now`.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.chain.leaf.not_before <= now && now < self.chain.not_after
    }
}

/// Tells who a client is, for one set of authorities and one binding.
pub struct Peers {
    trust: Arc<Trust>,
    binding: Binding,
    reject_at: RejectAt,
    strangers: Strangers,
    engine: Arc<Engine>,
    clock: Clock,
    metrics: Metrics,
    registry: Option<Arc<Registry>>,
    accounts: Option<Accounts>,
    nobody: Arc<Credential>,
    heeds: Heeds,
    chains: VerifiedChains,
    /// `None` where they are not limited.
    failures: Option<ChainFailures>,
    cache_hits: IntCounter,
    reuses: IntCounter,
    lines: Arc<LineLimiter>,
}

impl Peers {
    /// A fresh, empty cache under these rules.
    pub fn new(
        trust: Arc<Trust>,
        binding: Binding,
        engine: Arc<Engine>,
        clock: Clock,
        metrics: Metrics,
    ) -> Self {
        let cache_hits = metrics.cache_hits.with_label_values(&["certificate"]);
        let reuses = metrics.cache_hits.with_label_values(&["principal"]);
        engine.learn(trust.authorities());
        Self {
            trust,
            binding,
            reject_at: RejectAt::Request,
            strangers: Strangers::Tolerated,
            engine,
            clock,
            metrics,
            registry: None,
            accounts: None,
            nobody: Arc::default(),
            heeds: Heeds::All,
            chains: VerifiedChains::new(),
            failures: None,
            cache_hits,
            reuses,
            lines: Arc::default(),
        }
    }

    /// Lets revoked certificates fail in the handshake already.
    pub fn reject_at(mut self, reject_at: RejectAt) -> Self {
        self.reject_at = reject_at;
        self
    }

    /// Verifies chains that are not known with few signature checks, where chains of the same network that failed to verify
    /// have cost too many lately.
    pub fn limiting_failures(mut self) -> Self {
        self.failures = Some(ChainFailures::default());
        self
    }

    /// Keeps accounts of what each client takes, as far as that is limited.
    pub fn within(mut self, limits: Limits) -> Self {
        self.accounts = Accounts::new(limits);
        self
    }

    /// Takes the lines of the log that clients cause from the budgets of the process.
    pub fn limiting_lines(mut self, lines: Arc<LineLimiter>) -> Self {
        self.lines = lines;
        self
    }

    /// Asks for a line of the log; returns how many like it were left out before, if it is to be said.
    pub(super) fn admits_line(&self, kind: LineKind, source: LineSource<'_>) -> Option<u64> {
        self.lines.admit(kind, source, self.clock.elapsed())
    }

    /// What each client takes.
    pub(super) fn accounts(&self) -> Option<&Accounts> {
        self.accounts.as_ref()
    }

    /// Lets clients whose chain does not verify finish their handshake, whose signature is checked all the same.
    pub fn strangers(mut self, strangers: Strangers) -> Self {
        self.strangers = strangers;
        self
    }

    /// Says which entries count against these clients.
    pub fn heeding(mut self, heeds: Heeds) -> Self {
        self.heeds = heeds;
        self
    }

    /// Notes in `registry` every certificate that is verified, and at once the authorities that are trusted.
    pub fn noting_in(mut self, registry: Arc<Registry>) -> Self {
        let now = self.clock.now();
        let anchors = self.trust.authorities();
        anchors
            .flat_map(|anchor| Seen::authority(std::slice::from_ref(anchor), now))
            .for_each(|seen| registry.note(seen));
        self.registry = Some(registry);
        self
    }

    /// Whom it trusts.
    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// The rules by which names become identities.
    pub fn binding(&self) -> &Binding {
        &self.binding
    }

    /// What a session without a client certificate stands on.
    pub(super) fn nobody(&self) -> &Arc<Credential> {
        &self.nobody
    }

    /// Verifies what a client presents in a handshake, or recognises it. Too many bytes are refused unread, and a chain
    /// that is not known gets few signature checks while the failures of its network have cost too many.
    pub(super) fn recognise(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<Arc<Peer>, ChainError> {
        limit_bytes(leaf, intermediates)?;
        let digest = digest_of(leaf, intermediates);
        if let Some(peer) = self.known(&digest) {
            self.cache_hits.inc();
            return Ok(peer);
        }
        let address = Handshake::address().map(|address| address.ip());
        let is_limited = self.failures.as_ref().zip(address);
        let is_limited = is_limited.is_some_and(|(all, address)| all.are_too_many(address, Instant::now()));
        let most = if is_limited { FEW_CHECKS } else { MAX_CHECKS };
        let (verified, checks) = self.trust.verify_within(leaf, intermediates, self.clock.now(), most);
        self.count_failure(&verified, checks, address);
        let verified = verified.map_err(|error| match error {
            ChainError::TooManyChecks(_) if is_limited => ChainError::TooManyFailures,
            error => error,
        });
        Ok(self.remember(digest, verified?))
    }

    /// Recognises whom a handshake, full or resumed, has left us with; verifies anew if the chain was forgotten, however
    /// often its network has failed.
    pub(super) fn recognise_again(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        address: IpAddr,
    ) -> Result<Arc<Peer>, ChainError> {
        limit_bytes(leaf, intermediates)?;
        let digest = digest_of(leaf, intermediates);
        let verify = || {
            let (verified, checks) =
                self.trust.verify_within(leaf, intermediates, self.clock.now(), MAX_CHECKS);
            self.count_failure(&verified, checks, Some(address));
            Ok(self.remember(digest, verified?))
        };
        let peer = self.known(&digest).map_or_else(verify, Ok)?;
        // Not before: only who has the key of the leaf teaches what its authorities are called.
        if !peer.has_taught.load(Ordering::Relaxed) && self.engine.teach(&peer.chain.issuers) {
            peer.has_taught.store(true, Ordering::Relaxed);
        }
        Ok(peer)
    }

    fn known(&self, digest: &ChainDigest) -> Option<Arc<Peer>> {
        self.chains.get(digest).filter(|peer| peer.is_valid(self.clock.now()))
    }

    fn count_failure(
        &self,
        verified: &Result<VerifiedChain, ChainError>,
        checks: usize,
        address: Option<IpAddr>,
    ) {
        if let (Err(_), Some(failures), Some(address)) = (verified, &self.failures, address) {
            failures.count(address, checks, Instant::now());
        }
    }

    fn remember(&self, digest: ChainDigest, chain: VerifiedChain) -> Arc<Peer> {
        let peer = Arc::new(self.describe(chain));
        self.chains.insert(digest, Arc::clone(&peer));
        peer
    }

    /// Counts a request that found its identity and binding already made.
    pub(super) fn count_reuse(&self) {
        self.reuses.inc();
    }

    /// Whether the handshake of a client whose chain does not verify goes on.
    pub(super) fn lets_strangers_in(&self) -> bool {
        match self.strangers {
            Strangers::Tolerated => self.engine.break_glass().is_on(),
            Strangers::LetIn => true,
        }
    }

    /// Counts a client whose chain does not verify, and says who it claims to be.
    pub(super) fn refuse_stranger(&self, leaf: &CertificateDer<'_>, error: &ChainError) {
        let code = presented::code_of(error);
        self.metrics.auth.with_label_values(&["failure", "none"]).inc();
        self.metrics.refusals.with_label_values(&[code]).inc();
        let (address, source) = in_handshake();
        let Some(unsaid) = self.admits_line(LineKind::warning(UNVERIFIED, code), source) else { return };
        let Presented { id: presented_id, serial: presented_serial } = Presented::read(leaf);
        let (address, reason) = (address.map(display), error.to_string());
        let reason = &*cut(&reason, LONGEST_REASON);
        tracing::warn!(address, code, presented_id, presented_serial, reason, unsaid, "{UNVERIFIED}");
    }

    /// Whether this client is refused in the handshake already.
    pub(super) fn rejects(&self, peer: &Peer) -> bool {
        if self.reject_at == RejectAt::Request || self.lets_strangers_in() {
            return false;
        }
        let Err(denial) = self.engine.judge(&peer.credential) else { return false };
        self.metrics.auth.with_label_values(&["revoked", peer.kind()]).inc();
        self.metrics.refusals.with_label_values(&[denial.code()]).inc();
        let ((address, source), code) = (in_handshake(), denial.code());
        let Some(unsaid) = self.admits_line(LineKind::warning(REVOKED, code), source) else { return true };
        let (principal_id, serial) = (&*cut(peer.principal(), LONGEST_NAME), peer.chain.leaf.serial.as_str());
        let (address, revocation_reason) = (address.map(display), &*cut(&denial.reason, LONGEST_REASON));
        tracing::warn!(address, code, principal_id, serial, revocation_reason, unsaid, "{REVOKED}");
        true
    }

    fn describe(&self, chain: VerifiedChain) -> Peer {
        let subject = chain.leaf.subject.clone();
        let identity =
            subject.and_then(|names| self.binding.identify(&names, chain.trust_domains.as_deref()));
        let credential = self.engine.credential(&chain, &identity);
        let credential = Arc::new(Credential { heeds: self.heeds, ..credential });
        if let Some(registry) = &self.registry {
            let seen = Seen::all(&chain, identity.as_ref().ok(), self.clock.now());
            seen.for_each(|seen| registry.note(seen));
        }
        let headers = IdentityHeaders::new(&chain.leaf, identity.as_ref().ok());
        let kind = identity.as_ref().map_or("unknown", |identity| identity.kind.as_str());
        let success = self.metrics.auth.with_label_values(&["success", kind]);
        let principal = identity.as_ref().map_or("unknown", |identity| identity.principal.as_str());
        self.metrics.expiries.note(principal, chain.leaf.serial.as_str(), chain.not_after.secs());
        let of = |accounts: &Accounts| identity.is_ok().then(|| accounts.of_principal(principal));
        let account = self.accounts.as_ref().and_then(of);
        let has_taught = AtomicBool::new(false);
        Peer { chain, identity, credential, headers, account, success, has_taught }
    }
}

/// SHA-256 over the length-prefixed certificates.
fn digest_of(leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> ChainDigest {
    let mut context = digest::Context::new(&digest::SHA256);
    for der in std::iter::once(leaf).chain(intermediates) {
        context.update(&der.len().to_be_bytes());
        context.update(der);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// An address as a header value.
pub(super) fn address_value(address: std::net::IpAddr) -> HeaderValue {
    HeaderValue::try_from(address.to_string()).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

/// Returns the client's address and its line budget. Before the handshake ends, the client has not proved possession of the
/// key, so the principal's budget is not used.
fn in_handshake() -> (Option<SocketAddr>, LineSource<'static>) {
    let address = Handshake::address();
    (address, address.map_or(LineSource::Unknown, |address| LineSource::Address(address.ip())))
}

#[cfg(test)]
mod tests {
    use rcgen::BasicConstraints;
    use rcgen::CertificateParams;
    use rcgen::DnType;
    use rcgen::IsCa;
    use rcgen::Issuer;
    use rcgen::KeyPair;

    use super::*;
    use crate::identity::ClaimScope;
    use crate::identity::ClaimSource;
    use crate::identity::Config as IdentityConfig;
    use crate::revocation::Config as RevocationConfig;

    fn named(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    fn peers(trust: Trust) -> Peers {
        let clock = Clock::manual(Timestamp::from_secs(1_792_000_000));
        let config = IdentityConfig {
            trust_domains: Vec::new(),
            templates: Vec::new(),
            claim: ClaimSource::None,
            claim_scope: ClaimScope::default(),
        };
        let engine = Engine::in_memory(&RevocationConfig::default(), clock.clone()).unwrap();
        let binding = Binding::new(&config);
        Peers::new(Arc::new(trust), binding, Arc::new(engine), clock, Metrics::new().unwrap())
    }

    /// Seen failing with a cache that is bounded by number: it kept 8,141 of them, 388 MB.
    #[test]
    fn chains_of_any_size_are_remembered_within_bytes() {
        let (root, key) = (named("root"), KeyPair::generate().unwrap());
        let mut trust = Trust::new();
        trust.add(root.self_signed(&key).unwrap().der(), None).unwrap();
        let mut leaf = CertificateParams::new(vec!["a.lab.test".to_owned()]).unwrap();
        let large = rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![7; 20_000]);
        leaf.custom_extensions.push(large);
        let issuer = Issuer::from_params(&root, &key);
        let leaf = leaf.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().clone();
        let peers = peers(trust);
        let peer = peers.recognise(&leaf, &[]).unwrap();
        let digest = |i: u32| <ChainDigest>::try_from([i.to_be_bytes(); 8].concat()).unwrap();
        (0..8192).for_each(|i| peers.chains.insert(digest(i), Arc::clone(&peer)));
        let kept = (0..8192).filter(|i| peers.chains.get(&digest(*i)).is_some()).count();
        let bytes = kept * (leaf.len() + peer.headers.bytes());
        assert!((16 << 20..=64 << 20).contains(&bytes), "{kept}: {bytes}");
    }

    /// Seen failing with the cache keyed by the leaf alone: whatever came with it, the first verdict was given again.
    #[test]
    fn the_same_leaf_with_other_intermediates_is_another_chain() {
        let roots = ["one", "two"].map(|name| (named(name), KeyPair::generate().unwrap()));
        let mut trust = Trust::new();
        let mut add = |(params, key): &(CertificateParams, KeyPair)| {
            trust.add(params.self_signed(key).unwrap().der(), None).unwrap();
        };
        roots.iter().for_each(&mut add);
        let (below, key) = (named("below"), KeyPair::generate().unwrap());
        let by = |(params, root): &(CertificateParams, KeyPair)| {
            below.signed_by(&key, &Issuer::from_params(params, root)).unwrap().der().clone()
        };
        let [first, second] = roots.each_ref().map(by);
        let stranger = (named("one"), KeyPair::generate().unwrap());
        let bogus = by(&stranger);
        let leaf = CertificateParams::new(vec!["a.lab.test".to_owned()]).unwrap();
        let issuer = Issuer::from_params(&below, &key);
        let leaf = leaf.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().clone();
        let peers = peers(trust);
        let recognise = |presented: &[&CertificateDer<'static>]| {
            let presented: Vec<CertificateDer<'static>> = presented.iter().copied().cloned().collect();
            let again = || peers.recognise_again(&leaf, &presented, IpAddr::from([192, 0, 2, 1]));
            let [one, again] = [peers.recognise(&leaf, &presented), again()];
            let of = |peer: Result<Arc<Peer>, ChainError>| {
                peer.ok().map(|peer| peer.chain.issuers.iter().map(|own| own.key.clone()).collect::<Vec<_>>())
            };
            let (one, again) = (of(one), of(again));
            assert_eq!(one, again);
            one
        };
        let over_first = recognise(&[&first]).unwrap();
        let over_second = recognise(&[&second]).unwrap();
        assert_eq!(over_first.first(), over_second.first());
        assert_ne!(over_first.last(), over_second.last());
        assert_eq!(recognise(&[&bogus]), None);
        assert_eq!(recognise(&[]), None);
        assert_eq!(recognise(&[&bogus, &first]).as_ref(), Some(&over_first));
        assert_eq!(recognise(&[&first]).as_ref(), Some(&over_first));
    }
}
