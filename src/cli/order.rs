//! One change as it is sent, and the options that a change may have.

use std::path::Path;
use std::path::PathBuf;

use clap::ArgGroup;
use clap::Args;
use clap::builder::PossibleValue;
use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser;
use serde::Serialize;

use super::certificate;
use super::question::moment;
use super::server::ServerArgs;
use crate::clock::Timestamp;
use crate::revocation::Action;
use crate::revocation::Level;
use crate::revocation::Target;

/// One change of the admin API (`POST /v1/revocations`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Change {
    pub(super) action: Action,
    pub(super) level: Level,
    pub(super) target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) issuer: Option<String>,
    /// The SHA-256 of the certificate, if it was read from a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) issued_before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expires_at: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) force: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) all_names: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) preemptive: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) dry_run: bool,
}

impl Change {
    /// Checks the target and what goes with the action, as the server will; the reason why it cannot be a change.
    pub(super) fn checked(mut self) -> Result<Self, String> {
        let of_strikes = [("--issued-before", &self.issued_before), ("--expires-at", &self.expires_at)];
        let given = of_strikes.iter().find(|(_, value)| value.is_some());
        if let (Action::Reinstate, Some((name, _))) = (self.action, given) {
            return Err(format!(
                "{name}: a reinstatement lifts all of an entry; it goes with revoke and suspend"
            ));
        }
        // As openssl prints a serial.
        if let Some(serial) = self.target.strip_prefix("serial=").filter(|_| self.level == Level::Certificate)
        {
            self.target = serial.to_owned();
        }
        let read = Target::parse(self.level, &self.target, self.issuer.as_deref());
        read.map(|_| self).map_err(|error| error.to_string())
    }

    /// Whether it hits more than one can name.
    pub(super) fn is_mass(&self) -> bool {
        matches!(self.level, Level::Issuer | Level::TrustDomain)
    }

    /// The target in words.
    pub(super) fn subject(&self) -> String {
        format!("{} {}", self.level, self.target)
    }
}

/// What to change, where, and as whom.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["target", "certificate", "file"])))]
pub(super) struct ChangeArgs {
    /// What the target is; with --certificate, a certificate if nothing else is said.
    #[arg(long, value_parser = level())]
    pub(super) level: Option<Level>,
    /// The target: a serial, a key's SHA-256, a SPIFFE ID, DNS name or agent id, a jti, a task id, a CA key id, ...
    #[arg(long)]
    target: Option<String>,
    /// Read the target from a certificate (PEM): its serial and issuer, its key, its principal or its trust domain,
    /// as --level says; for an issuer, the authority's own certificate.
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// Many changes, one a line: TARGET (with --level), or LEVEL TARGET [ISSUER], or a JSON object; # comments.
    /// `-` is standard input. Nothing is sent if a line cannot be read.
    #[arg(long, value_name = "LIST")]
    pub(super) file: Option<PathBuf>,
    /// The issuer's key id, where the target is a serial.
    #[arg(long)]
    pub(super) issuer: Option<String>,
    /// Why; it is logged, audited and, where configured, told to the client.
    #[arg(long)]
    reason: Option<String>,
    /// Hit only what was issued before: RFC 3339, Unix seconds, how long ago (1h), or now.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    issued_before: Option<String>,
    /// When what is hit has expired, and the entry may be forgotten: RFC 3339, or Unix seconds.
    #[arg(long, value_name = "TIME", value_parser = time)]
    expires_at: Option<String>,
    /// Change nothing; say what would be hit.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do not ask: needed for an issuer, a trust domain or yourself where nobody sits at a terminal.
    #[arg(long, short)]
    pub(super) yes: bool,
    #[command(flatten)]
    pub(super) server: ServerArgs,
}

/// What is done to the targets, however they are named.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// For good.
    Revoke(Unseen),
    /// Until it is reinstated.
    Suspend(Unseen),
    /// Lifts a suspension, and a revocation only by force.
    Reinstate {
        /// Lift a revocation too.
        force: bool,
        /// Lift what stands under the other names of the same principal too.
        all_names: bool,
    },
}

/// What becomes of a serial that the gate has not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unseen {
    Refused,
    Denied,
}

impl Order {
    fn action(self) -> Action {
        match self {
            Self::Revoke(_) => Action::Revoke,
            Self::Suspend(_) => Action::Suspend,
            Self::Reinstate { .. } => Action::Reinstate,
        }
    }

    /// What is done, in a word.
    pub(super) fn name(self) -> &'static str {
        self.action().name()
    }

    /// What was done, in a word.
    pub(super) fn done(self) -> &'static str {
        match self {
            Self::Revoke(_) => "revoked",
            Self::Suspend(_) => "suspended",
            Self::Reinstate { .. } => "reinstated",
        }
    }
}

impl ChangeArgs {
    /// The change that the options describe; one for `target` at `level`.
    pub(super) fn change(&self, order: Order, level: Level, target: &str) -> Change {
        Change {
            action: order.action(),
            level,
            target: target.trim().to_owned(),
            issuer: None,
            sha256: None,
            reason: self.reason.clone(),
            issued_before: self.issued_before.clone(),
            expires_at: self.expires_at.clone(),
            force: matches!(order, Order::Reinstate { force: true, .. }),
            all_names: matches!(order, Order::Reinstate { all_names: true, .. }),
            preemptive: matches!(order, Order::Revoke(Unseen::Denied) | Order::Suspend(Unseen::Denied)),
            dry_run: false,
        }
    }

    /// The certificate that the target is read from.
    pub(super) fn certificate(&self) -> Option<&Path> {
        self.certificate.as_deref()
    }

    /// The one change that the command line names; why it names none.
    pub(super) fn named(&self, order: Order) -> Result<Change, String> {
        let Some(file) = &self.certificate else {
            let level = self.level.ok_or("--level is missing: what the target is, such as principal")?;
            let target = self.target.as_deref().ok_or("--target is missing")?;
            let change = Change { issuer: self.issuer.clone(), ..self.change(order, level, target) };
            return change.checked();
        };
        let level = self.level.unwrap_or(Level::Certificate);
        let (target, issuer) = certificate::target(file, level)?;
        let is_named = self.issuer.is_some();
        let issuer = self.issuer.clone().or(issuer);
        let is_one = level == Level::Certificate && !is_named;
        let sha256 = is_one.then(|| certificate::sha256(file)).transpose()?;
        Change { issuer, sha256, ..self.change(order, level, &target) }.checked()
    }
}

/// A level, by a name that shells can complete.
pub(super) fn level() -> impl TypedValueParser<Value = Level> {
    let names = Level::ALL.map(|level| match level {
        Level::Principal => PossibleValue::new(level.name()).alias("agent"),
        level => PossibleValue::new(level.name()),
    });
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Level>())
}

/// Checked here, and read where it counts.
pub(super) fn time(text: &str) -> Result<String, &'static str> {
    let read = Timestamp::parse(text);
    read.map(|_| text.to_owned()).ok_or("RFC 3339, such as 2026-11-22T12:00:00Z, or Unix seconds")
}
