//! `portcullis bench`: what can be measured again and again.

mod proxy;
mod revocation;

use clap::Subcommand;

use proxy::ProxyArgs;
use revocation::RevocationArgs;

const REVOCATION: &str = "Examples:
  portcullis bench revocation
  portcullis bench revocation --gates 1,4,16 --feed sqs --entries 1000000 --connections 1000
  portcullis bench revocation --feed crl --interval 5s --seconds 30
  portcullis bench revocation --json > revocations.json && portcullis report revocations.json > report.html
Exit codes: 0 measured, 1 failed, or something was served after the answer or never refused, 2 usage.";

const PROXY: &str = "Examples:
  portcullis bench proxy --ca ca.pem --cert a.pem --key a.key \\
    nginx=https://localhost:8443,1234 portcullis=https://localhost:9443,5678
  portcullis bench proxy --ca ca.pem --cert a.pem --key a.key --header 'x-agent-id: a' --work http1,handshake \\
    --rounds 5 --report proxies.html gate=https://localhost:8443/health,\"$(pidof portcullis)\"
Exit codes: 0 done, 1 a proxy does not serve, 2 usage, 3 nobody listens there.";

/// What is measured.
#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// Start gates, revoke agents at work, and see from outside when the last request was served.
    #[command(after_help = REVOCATION)]
    Revocation(Box<RevocationArgs>),
    /// Measure the processor time of a request and of a handshake, proxy by proxy, in turn.
    #[command(after_help = PROXY)]
    Proxy(Box<ProxyArgs>),
}

impl BenchCommand {
    pub(super) fn run(self) -> u8 {
        match self {
            Self::Revocation(revocation) => revocation.run(),
            Self::Proxy(proxy) => proxy.run(),
        }
    }
}
