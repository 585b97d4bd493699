//! Why a call came to nothing, and what may have come of it all the same.

use http::StatusCode;
use rustls::CertificateError;

use super::REFUSED;
use super::UNREACHABLE;
use super::USAGE;
use super::complain;
use crate::rig::client::ClientError;

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The command line or a file is wrong; nothing was sent.
    #[error("{0}")]
    Usage(String),
    /// No answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The secret was not taken.
    #[error("{file}: the server gives no token for this secret: {reason}")]
    LogIn {
        /// The file with the secret.
        file: String,
        /// The status of the answer.
        status: StatusCode,
        /// Why.
        reason: String,
    },
}

/// What may have come of a call that got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It only asks.
    Asks,
    /// It changes something.
    Changes,
    /// It shuts out whoever makes the call.
    ChangesCaller,
}

pub(super) const THAT_WAS_YOU: &str =
    "that was you: it is very likely in effect, for the admin API ends the connection of whoever is shut out";
/// How rig names the alert of an authority that the listener does not know.
const UNKNOWN_CA: &str = "unknown CA";

impl CallError {
    /// The exit code.
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Client(ClientError::File(..) | ClientError::OtherKey(..)) => USAGE,
            Self::LogIn { .. } | Self::Client(ClientError::Refused(..)) => REFUSED,
            Self::Client(_) => UNREACHABLE,
        }
    }

    /// Whether the server may have done what it was asked, without having said so.
    pub(super) fn is_in_doubt(&self) -> bool {
        matches!(self, Self::Client(ClientError::Broken(..) | ClientError::Silent(..)))
    }

    /// Says what went wrong, and returns the exit code.
    pub(super) fn told(&self, effect: Effect) -> u8 {
        match effect {
            Effect::Changes if self.is_refusal() => {
                complain(&format_args!("{self}{}; nothing was changed", self.advice()))
            }
            _ => complain(&format_args!("{self}{}", self.advice())),
        }
        if effect == Effect::Changes && self.is_in_doubt() {
            complain(&"whether the change is in effect is not known; repeating it does no harm");
        }
        if effect == Effect::ChangesCaller && self.is_in_doubt() {
            complain(&THAT_WAS_YOU);
        }
        self.code()
    }

    fn is_refusal(&self) -> bool {
        matches!(self, Self::Client(ClientError::Refused(..)))
    }

    /// What can be done about it.
    fn advice(&self) -> &'static str {
        match self {
            Self::Client(ClientError::Refused(_, UNKNOWN_CA)) => "; is this the admin listener's port?",
            Self::Client(ClientError::Untrusted(_, CertificateError::UnknownIssuer)) => {
                "; --cacert names another authority than the one that vouches for this server"
            }
            Self::Client(ClientError::Untrusted(
                _,
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => "; --server takes a name that the certificate has",
            Self::LogIn { status: StatusCode::UNAUTHORIZED, .. } => {
                "; if it was revoked, or this gate has none: give it another name in the configuration, and restart"
            }
            _ => "",
        }
    }
}
