//! `GET /v1/check`: would this certificate, principal or token be let in, and why not.
//!
//! The verdict comes from the functions that judge requests; what is added here is the explanation.

use std::collections::HashSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use serde::Serialize;
use utoipa::IntoParams;
use utoipa::ToSchema;

use super::Api;
use super::body::Filter;
use super::listing::Moment;
use super::refusal::ProblemDocument;
use super::refusal::Refusal;
use super::refusal::Refusals;
use super::revocations::Revocation;
use crate::clock::Timestamp;
use crate::identity;
use crate::identity::Certificate;
use crate::identity::DnsName;
use crate::identity::Identity;
use crate::identity::SpiffeId;
use crate::identity::Subject;
use crate::revocation::Denial;
use crate::revocation::Level;
use crate::revocation::Listed;
use crate::revocation::Seen;
use crate::revocation::Target;
use crate::revocation::Targets;
use crate::session::Credential;
use crate::session::Heeds;

/// Certificates of one target that are listed.
const MAX_CERTIFICATES: usize = 100;

/// Whom to judge: exactly one of `certificate`, `serial`, `principal`, `key`, `token` and `task`.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Question {
    /// This certificate: DER, base64url without padding.
    certificate: Option<String>,
    /// What it presents beside it: likewise, separated by commas.
    issuers: Option<String>,
    /// The certificate of this serial, if the gate has seen it.
    serial: Option<String>,
    /// The key id of its issuer.
    issuer: Option<String>,
    /// This SPIFFE ID, DNS name or agent id.
    principal: Option<String>,
    /// Certificates on this key: SHA-256 of its SubjectPublicKeyInfo.
    key: Option<String>,
    /// The token of this jti.
    token: Option<String>,
    /// Everything of this task.
    task: Option<String>,
    /// When the credential was issued, where it is not the certificate that tells; now, if absent.
    #[param(value_type = Option<Moment>)]
    issued_at: Option<Timestamp>,
}

/// Whether it would be let in, and why not.
#[derive(Serialize, ToSchema)]
pub(super) struct Verdict {
    /// Whether it would be let in. Of a serial that several certificates have: whether all of them would. Of a principal,
    /// key or task that the gate has seen valid certificates of: whether any of them would.
    allowed: bool,
    /// The code of the refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    code: Option<String>,
    /// The refusal in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<String>,
    /// Whose it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    principal: Option<String>,
    /// False where the gate has never seen it: then the verdict only says what stands against that name. Absent of tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    known: Option<bool>,
    /// The certificates that it is about; the first hundred that the gate has seen.
    certificates: Vec<CertificateVerdict>,
    /// Every entry that stands against it.
    hits: Vec<Hit>,
    /// Live sessions of it.
    sessions: usize,
    /// Of somebody who holds a role: that unsigned messages alone deny it, which the admin listener does not heed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    note: Option<&'static str>,
}

/// One certificate, and whether it would be let in.
#[derive(Serialize, ToSchema)]
struct CertificateVerdict {
    serial: String,
    /// SHA-256 of the certificate.
    sha256: String,
    /// SHA-256 of its SubjectPublicKeyInfo.
    key: String,
    /// The key ids of its authorities, nearest first.
    issuers: Vec<String>,
    #[schema(value_type = String, format = DateTime)]
    not_before: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    not_after: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    principal: Option<String>,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    code: Option<String>,
}

/// An entry that stands against it.
#[derive(Serialize, ToSchema)]
struct Hit {
    #[serde(flatten)]
    entry: Revocation,
    /// Whether it applies to what was issued then.
    applies: bool,
}

/// Why it would not be let in.
struct No {
    code: &'static str,
    reason: String,
}

/// Say whether a certificate, principal or token would be let in, and why not.
#[utoipa::path(
    get, path = "/v1/check", tag = "revocations", params(Question), security(("bearer" = []), ()),
    responses(
        (status = 200, description = "The verdict.", body = Verdict),
        (status = 404, description = "An unknown serial.", body = ProblemDocument, content_type = "application/problem+json"),
        Refusals,
    )
)]
pub(super) async fn check(
    State(api): State<Arc<Api>>,
    Filter(question): Filter<Question>,
) -> Result<Json<Verdict>, Refusal> {
    question.is_one()?;
    api.at_leisure(move |api| api.check(&question)).await?.map(Json)
}

const UNHEEDED: &str =
    "the admin listener lets it in all the same: only unsigned messages deny it, which it does not heed";
const ONE: &str = "query: exactly one of certificate, serial, principal, key, token, task";

impl Question {
    fn is_one(&self) -> Result<(), Refusal> {
        let given = [&self.certificate, &self.serial, &self.principal, &self.key, &self.token, &self.task];
        if given.into_iter().flatten().count() != 1 {
            return Err(Refusal::bad_request(ONE));
        }
        if self.issuers.is_some() && self.certificate.is_none() {
            return Err(Refusal::bad_request("query: issuers goes with certificate"));
        }
        if self.issuer.is_some() && self.serial.is_none() {
            return Err(Refusal::bad_request("query: issuer goes with serial"));
        }
        if self.issued_at.is_some() && self.certificate.is_some() {
            return Err(Refusal::bad_request("query: a certificate tells itself when it was issued"));
        }
        Ok(())
    }
}

impl Api {
    fn check(&self, question: &Question) -> Result<Verdict, Refusal> {
        let at = question.issued_at;
        match question {
            Question { certificate: Some(leaf), issuers, .. } => self.check_chain(leaf, issuers.as_deref()),
            Question { serial: Some(serial), issuer, .. } => self.check_serial(serial, issuer.as_deref(), at),
            Question { principal: Some(name), .. } => self.check_principal(name, at),
            Question { key: Some(key), .. } => self.check_target(Level::Key, key, at),
            Question { token: Some(jti), .. } => self.check_target(Level::Token, jti, at),
            Question { task: Some(task), .. } => self.check_target(Level::Task, task, at),
            _ => Err(Refusal::bad_request(ONE)),
        }
    }

    fn check_chain(&self, leaf: &str, issuers: Option<&str>) -> Result<Verdict, Refusal> {
        let leaf = der(leaf, "certificate")?;
        let issuers = issuers.into_iter().flat_map(|issuers| issuers.split(','));
        let issuers = issuers.map(|issuer| der(issuer, "issuers")).collect::<Result<Vec<_>, _>>()?;
        let now = self.clock.now();
        let chain = match self.trust.verify(&leaf, &issuers, now) {
            Ok(chain) => chain,
            Err(identity::ChainError::Malformed(why)) => {
                return Err(Refusal::bad_request(format!("query: certificate: {why}")));
            }
            Err(error) => return Ok(self.verdict(Some(No::of_chain(&error, &leaf)), None, &[], 0)),
        };
        let names = chain.leaf.subject.clone();
        let identity = names.and_then(|names| self.binding.identify(&names, chain.trust_domains.as_deref()));
        let seen = Seen::leaf(&chain, identity.as_ref().ok(), now);
        let issued_at = seen.issued_at;
        let no = identity.as_ref().err().map(No::of_names);
        let mut verdict = self.verdict(no, seen.principal.clone(), &seen.targets, issued_at);
        verdict.sessions = self.live(|holder| holder.sha256.as_deref() == Some(&seen.sha256));
        let mut same = self.registry.by_serial(&seen.serial, None).into_iter();
        verdict.known = Some(verdict.sessions > 0 || same.any(|one| one.sha256 == seen.sha256));
        let mut certificate = self.certificate(&seen).0;
        (certificate.allowed, certificate.code) = (verdict.allowed, verdict.code.clone());
        verdict.certificates = vec![certificate];
        Ok(verdict)
    }

    fn check_serial(
        &self,
        serial: &str,
        issuer: Option<&str>,
        at: Option<Timestamp>,
    ) -> Result<Verdict, Refusal> {
        let target = target(Level::Certificate, serial, issuer)?;
        let target = self.engine.resolve(&target).map_err(|e| Refusal::ambiguous_issuer(&e))?;
        let spellings = self.engine.spellings(&target);
        let by = |target: &Target| self.registry.by_serial(target.name(), target.issuer());
        let seen = spellings.iter().map(by).find(|seen| !seen.is_empty()).unwrap_or_default();
        if seen.is_empty() {
            // Told of, but never seen.
            let listed = self.engine.listed(std::slice::from_ref(&target)).into_iter();
            let mut targets: Vec<Target> = listed.map(|listed| listed.target).collect();
            targets.extend(self.engine.standing_by_any_name(&target).into_iter().map(|(target, _)| target));
            // An event and a list may name it alike.
            targets.sort();
            targets.dedup();
            return match targets.is_empty() {
                false => Ok(self.verdict(None, None, &targets, self.at(at))),
                true => Err(Refusal::never_seen(target.name())),
            };
        }
        let mut targets: Vec<Target> = seen.iter().flat_map(|seen| seen.targets.clone()).collect();
        targets.sort();
        targets.dedup();
        let issued_at = seen.iter().map(|seen| seen.issued_at).min().unwrap_or_default();
        let principal = seen.iter().find_map(|seen| seen.principal.clone());
        // What stands against them is told; whether it hits is judged for each by itself.
        let mut verdict = self.verdict(None, principal, &targets, issued_at);
        let (certificates, refusals): (Vec<_>, Vec<_>) =
            seen.iter().map(|seen| self.certificate(seen)).unzip();
        verdict.decide(refusals.into_iter().flatten().next());
        verdict.known = Some(true);
        verdict.certificates = certificates;
        verdict.sessions = self.live(|holder| holder.serial.as_deref() == Some(target.name()));
        Ok(verdict)
    }

    fn check_principal(&self, name: &str, at: Option<Timestamp>) -> Result<Verdict, Refusal> {
        let named = target(Level::Principal, name, None)?;
        let (mut targets, mut no) = (vec![self.carried(&named)], None);
        match self.identify(named.name()) {
            Some(Ok(identity)) => {
                let all = Targets::of_identity(&identity);
                targets.extend(all.own.into_iter().chain(all.mass));
            }
            Some(Err(error)) => no = Some(No::of_names(&error)),
            None => {}
        }
        targets.sort();
        targets.dedup();
        let mut verdict = self.verdict(no, Some(named.name().to_owned()), &targets, self.at(at));
        self.add_certificates(&mut verdict, &named, at.is_none());
        verdict.known = Some(self.sightings.include(&named));
        verdict.sessions = self.engine.sessions_of(&named).len();
        Ok(verdict)
    }

    fn check_target(&self, level: Level, name: &str, at: Option<Timestamp>) -> Result<Verdict, Refusal> {
        let target = target(level, name, None)?;
        let mut verdict =
            self.verdict(None, self.registry.behind(&target).0, &[self.carried(&target)], self.at(at));
        self.add_certificates(&mut verdict, &target, at.is_none());
        verdict.known = (level != Level::Token).then(|| self.sightings.include(&target));
        verdict.sessions = self.engine.sessions_of(&target).len();
        Ok(verdict)
    }

    /// A typed agent or task id as certificates carry it, by the gate's templates.
    fn carried(&self, typed: &Target) -> Target {
        let is_dns = match typed.level() {
            Level::Principal => self.binding.reads_agents_of_dns_only(),
            Level::Task => self.binding.reads_tasks_of_dns_only(),
            _ => false,
        };
        if is_dns { typed.as_dns() } else { typed.clone() }
    }

    /// Adds the certificates that the gate has seen of a principal, key or task. Where it has, and none of those that are
    /// still valid would be let in, the verdict is no; unless they do not count, because it is about one issued at a time.
    fn add_certificates(&self, verdict: &mut Verdict, target: &Target, count: bool) {
        let seen = self.registry.by_target(target, MAX_CERTIFICATES);
        let (certificates, refusals): (Vec<_>, Vec<_>) =
            seen.iter().map(|seen| self.certificate(seen)).unzip();
        let now = self.clock.now();
        let valid = seen.iter().zip(refusals).filter(|(seen, _)| now < seen.not_after);
        let refusals: Option<Vec<No>> = valid.map(|(_, refusal)| refusal).collect();
        let first = refusals.and_then(|refusals| refusals.into_iter().next());
        if let (true, true, Some(no)) = (count, verdict.allowed, first) {
            let reason =
                format!("no certificate that the gate has seen of it would be let in: {}", no.reason);
            verdict.decide(Some(No { reason, ..no }));
        }
        verdict.certificates = certificates;
        let note = |seen: &Seen| self.note_for(seen.principal.as_deref(), &seen.targets, seen.issued_at);
        verdict.note = verdict.note.or_else(|| seen.iter().find_map(note));
    }

    /// The note about a principal that has a role and is denied by unsigned messages alone.
    fn note_for(&self, principal: Option<&str>, targets: &[Target], issued_at: i64) -> Option<&'static str> {
        let holds = principal.is_some_and(|name| self.access.knows(name));
        let denies = |heeds| self.denial_for(targets, issued_at, heeds).is_some();
        (holds && denies(Heeds::All) && !denies(Heeds::Signed)).then_some(UNHEEDED)
    }

    /// When a credential was issued that is asked about: now, if nothing else is said.
    fn at(&self, asked: Option<Timestamp>) -> i64 {
        asked.unwrap_or_else(|| self.clock.now()).secs()
    }

    /// Who has this name here; `None` for what is neither a SPIFFE ID nor a DNS name that the gate reads.
    pub(super) fn identify(&self, name: &str) -> Option<Result<Identity, identity::Error>> {
        if let Ok(id) = SpiffeId::parse(name) {
            let subject = Subject { spiffe: Some(id), dns: Vec::new() };
            return Some(self.binding.identify(&subject, None));
        }
        let subject = Subject { spiffe: None, dns: vec![DnsName::parse(name)?] };
        // A bare agent id reads as a DNS name that no template fits.
        self.binding.identify(&subject, None).ok().map(Ok)
    }

    fn verdict(
        &self,
        no: Option<No>,
        principal: Option<String>,
        targets: &[Target],
        issued_at: i64,
    ) -> Verdict {
        let no = no.or_else(|| self.denial(targets, issued_at).map(No::of_denial));
        let mut known = HashSet::new();
        let hits = targets.iter().flat_map(|target| self.engine.standings_against(target));
        let hits = hits.filter(|(target, _)| known.insert(target.clone())).flat_map(|(target, registers)| {
            let hit = |(state, standing): (_, &crate::revocation::Standing)| Hit {
                applies: standing.issued_before.is_none_or(|before| issued_at < before),
                entry: Revocation::new(&target, state, standing).named(&self.registry),
            };
            registers.standings().map(hit).collect::<Vec<_>>()
        });
        let hits = hits.chain(self.listed(targets)).collect();
        let (code, reason) = no.map(|no| (no.code.to_owned(), no.reason)).unzip();
        Verdict {
            allowed: code.is_none(),
            code,
            reason,
            note: self.note_for(principal.as_deref(), targets, issued_at),
            principal,
            known: Some(false),
            certificates: Vec::new(),
            hits,
            sessions: 0,
        }
    }

    /// What lists say of them, of tokens and of certificates. A serial alone stands beside the same with its issuer, who alone can say it.
    fn listed(&self, targets: &[Target]) -> Vec<Hit> {
        let is_whole = |target: &&Target| target.level() == Level::Token || target.issuer().is_some();
        let named: Vec<Target> = targets.iter().filter(is_whole).cloned().collect();
        let hit = |listed: Listed| Hit {
            applies: true,
            entry: Revocation::new(&listed.target, listed.state, &listed.standing).named(&self.registry),
        };
        self.engine.listed(&named).into_iter().map(hit).collect()
    }

    pub(super) fn denial(&self, targets: &[Target], issued_at: i64) -> Option<Denial> {
        self.denial_for(targets, issued_at, Heeds::All)
    }

    /// Why the gate, or the admin listener, would refuse who carries these.
    fn denial_for(&self, targets: &[Target], issued_at: i64, heeds: Heeds) -> Option<Denial> {
        let own = self.engine.fingerprinter().all_carried(targets);
        self.engine.judge(&Credential { own, issued_at, heeds, ..Credential::default() }).err()
    }

    /// Whether a certificate that was seen would be let in, by itself.
    fn certificate(&self, seen: &Seen) -> (CertificateVerdict, Option<No>) {
        let no = match self.denial(&seen.targets, seen.issued_at) {
            Some(denial) => Some(No::of_denial(denial)),
            None if self.clock.now() >= seen.not_after => Some(No::of_expiry(seen.not_after)),
            // Which of the two it was is not remembered.
            None if seen.principal.is_none() && !seen.authority => {
                Some(No { code: "identity_ambiguous", reason: "its names are not accepted".into() })
            }
            None => None,
        };
        let verdict = CertificateVerdict {
            serial: seen.serial.clone(),
            sha256: seen.sha256.clone(),
            key: seen.key.clone(),
            issuers: seen.issuers.clone(),
            not_before: seen.not_before,
            not_after: seen.not_after,
            principal: seen.principal.clone(),
            allowed: no.is_none(),
            code: no.as_ref().map(|no| no.code.to_owned()),
        };
        (verdict, no)
    }

    fn live(&self, is_wanted: impl Fn(&crate::session::Holder) -> bool) -> usize {
        let sessions = self.engine.sessions().list();
        sessions.iter().filter(|session| is_wanted(&session.credential().holder)).count()
    }
}

impl Verdict {
    fn decide(&mut self, no: Option<No>) {
        self.allowed = no.is_none();
        (self.code, self.reason) = no.map(|no| (no.code.to_owned(), no.reason)).unzip();
    }
}

impl No {
    fn of_chain(error: &identity::ChainError, leaf: &CertificateDer<'_>) -> Self {
        let untrusted = |reason| Self { code: "certificate_untrusted", reason };
        match error {
            identity::ChainError::Path(webpki::Error::CertExpired { .. }) => match Certificate::parse(leaf) {
                Ok(certificate) => Self::of_expiry(certificate.not_after),
                Err(error) => untrusted(error.to_string()),
            },
            identity::ChainError::Path(webpki::Error::UnknownIssuer) => {
                untrusted("no path leads to an authority that the gate trusts (gate.tls.client_ca)".into())
            }
            error => untrusted(error.to_string()),
        }
    }

    fn of_expiry(not_after: Timestamp) -> Self {
        Self { code: "certificate_expired", reason: format!("it expired at {not_after}") }
    }

    fn of_names(error: &identity::Error) -> Self {
        let code = match error {
            identity::Error::Foreign(_) => "trust_domain_denied",
            _ => "identity_ambiguous",
        };
        Self { code, reason: error.to_string() }
    }

    fn of_denial(denial: Denial) -> Self {
        let state = if denial.suspended { "suspended" } else { "revoked" };
        let reason = match denial.reason.as_str() {
            "" => format!("its {} is {state}", denial.level.name().replace('_', " ")),
            why => format!("its {} is {state}: {why}", denial.level.name().replace('_', " ")),
        };
        Self { code: denial.code(), reason }
    }
}

fn target(level: Level, name: &str, issuer: Option<&str>) -> Result<Target, Refusal> {
    Target::parse(level, name, issuer).map_err(|e| Refusal::bad_request(format!("query: {e}")))
}

fn der(text: &str, key: &str) -> Result<CertificateDer<'static>, Refusal> {
    let decoded = URL_SAFE_NO_PAD.decode(text.trim_end_matches('='));
    decoded.map(CertificateDer::from).map_err(|e| Refusal::bad_request(format!("query: {key}: {e}")))
}
