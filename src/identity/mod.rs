//! WHO: the names in a certificate, the path that vouches for them, and the claim that a request makes.
//!
//! Pure and synchronous: bytes in, a verdict out. **Invariant:** ambiguity is refused, never resolved; a name that
//! leaves this room is canonical, so that two spellings of one name compare equal.

mod anchor;
mod authority;
mod binding;
mod certificate;
mod chain;
mod checks;
mod dns;
mod path;
mod serial;
mod servers;
mod spiffe;
mod template;

use serde::Deserialize;

pub use anchor::Anchor;
pub use anchor::AnchorUse;
pub use authority::Authority;
pub use authority::AuthorityCertificate;
pub use binding::Binding;
pub use binding::Claim;
pub use binding::ClaimSource;
pub use binding::Identity;
pub use certificate::Certificate;
pub use certificate::KeyId;
pub use certificate::Subject;
pub use certificate::name_text;
pub use chain::Trust;
pub use chain::VerifiedChain;
pub(crate) use checks::MAX_CHECKS;
pub use dns::DnsName;
pub use path::limit_bytes;
pub use serial::Serial;
pub use serial::SerialRef;
pub use serial::SerialText;
pub use servers::ServerTrust;
pub use spiffe::SpiffeId;
pub use spiffe::TrustDomain;
pub use template::PathClaim;
pub use template::Template;
pub use template::ambiguous_path;

/// `[identity]`: whose names are accepted, and what a request may claim.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The SPIFFE trust domains whose identities are accepted.
    pub trust_domains: Vec<TrustDomain>,
    /// How an agent id is read from a SPIFFE ID or DNS name.
    pub templates: Vec<Template>,
    /// Where a request says which agent it speaks for.
    pub claim: ClaimSource,
    /// What a claim names where a template has variables beside trust domain, agent and task.
    #[serde(default)]
    pub claim_scope: ClaimScope,
}

impl Config {
    /// The templates under which a claim of an agent id alone is refused.
    pub fn scoped_templates(&self) -> impl Iterator<Item = &Template> {
        let vouched = self.claim_scope == ClaimScope::Agent;
        self.templates.iter().filter(move |template| !vouched && template.scope().is_some())
    }
}

/// What a claim names where a template has variables beside `{trust_domain}`, `{agent}` and `{task}`, such as `{tenant}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClaimScope {
    /// The principal: its SPIFFE ID or DNS name. Two tenants may have agents of the same id.
    #[default]
    Principal,
    /// The agent id as well: the configuration vouches that no two agents of a trust domain share one.
    Agent,
}

/// Why a certificate's names, or a request's claim, were not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The subject alternative names cannot be read, or name more than one subject.
    #[error("ambiguous identity: {0}")]
    Ambiguous(String),
    /// The identity belongs to nobody that this gate serves.
    #[error("foreign identity: {0}")]
    Foreign(String),
    /// The request claims another identity than its certificate proves.
    #[error("the request claims `{claimed}`, its certificate is `{principal}`{hint}")]
    Mismatch {
        /// What the request claims.
        claimed: String,
        /// What the certificate proves.
        principal: String,
        /// Why its own agent id is no claim; empty where the claim is another agent's.
        hint: &'static str,
    },
    /// The request claims nothing where a claim is expected.
    #[error("the request claims no identity")]
    Unclaimed,
}

/// Why the bytes of a certificate, or of a chain of them, were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Not a certificate (RFC 5280, section 4.1), or trailing bytes behind one.
    #[error("not a certificate: {0}")]
    Malformed(String),
    /// More certificates than are looked at (the first six beside the leaf), and no path among those.
    #[error("no valid path among the first six of the {0} certificates presented beside the leaf")]
    TooMany(usize),
    /// More bytes of certificates than any chain needs.
    #[error("{0} bytes of certificates presented, more than the 32,768 that are read")]
    TooLarge(usize),
    /// No path was found with as many signature checks as one chain may cost.
    #[error("no valid path found within {0} signature checks")]
    TooManyChecks(usize),
    /// No path was found with the few signature checks that are left to a network whose chains did not verify and have cost
    /// too many of them in the last seconds.
    #[error("not verified: chains from this network that do not verify have cost too many signature checks")]
    TooManyFailures,
    /// The same authority again, for other trust domains.
    #[error("the same authority is configured twice, for different trust domains")]
    Conflict,
    /// A configured authority that is none: its certificate is of an old version, or lacks basic constraints that say
    /// `CA:TRUE` (RFC 5280, section 4.2.1.9).
    #[error("not the certificate of an authority: it lacks basic constraints with CA:TRUE")]
    NotAnAuthority,
    /// A configured authority with an extension that must be understood (RFC 5280, section 4.2).
    #[error("the critical extension {0} is not known here")]
    CriticalExtension(String),
    /// A configured authority whose key usage lacks keyCertSign (RFC 5280, section 4.2.1.3).
    #[error("may not sign certificates: its key usage lacks keyCertSign")]
    AnchorUsage,
    /// A configured authority that is for another use (RFC 5280, section 4.2.1.12).
    #[error("its extended key usage lacks {0}")]
    AnchorPurpose(&'static str),
    /// More authorities stand below a configured one than it allows (RFC 5280, section 4.2.1.9).
    #[error(
        "{0} authorities stand between the leaf and its anchor: more than the anchor's path length allows"
    )]
    PathLength(usize),
    /// A leaf whose key usage lacks digitalSignature (RFC 8446, section 4.4.2.2).
    #[error("the leaf may not sign handshakes: its key usage lacks digitalSignature")]
    LeafUsage,
    /// A leaf that may sign certificates or revocation lists (SPIFFE X.509-SVID, section 4.1).
    #[error("the leaf may sign certificates or revocation lists")]
    LeafSigns,
    /// An authority between the leaf and its anchor whose key usage lacks keyCertSign (RFC 5280, section 6.1.4, step n).
    #[error("an authority on the path may not sign certificates: its key usage lacks keyCertSign")]
    IssuerUsage,
    /// No path to a configured certificate authority verifies (RFC 5280, section 6).
    #[error("no valid path: {}", in_words(.0))]
    Path(webpki::Error),
}

/// Why no path verifies, in words where the library has none of its own.
fn in_words(error: &webpki::Error) -> String {
    let words = match error {
        webpki::Error::UnknownIssuer => "no configured authority issued the certificate",
        webpki::Error::CaUsedAsEndEntity => "the certificate is an authority's own, not a client's",
        webpki::Error::EndEntityUsedAsCa => "a certificate on the path is no authority's",
        webpki::Error::InvalidSignatureForPublicKey => {
            "a signature on the path is not that of the authority it names"
        }
        webpki::Error::NameConstraintViolation => {
            "a name in the certificate is outside what an authority on the path may vouch for"
        }
        other => return other.to_string(),
    };
    format!("{words} ({error:?})")
}
