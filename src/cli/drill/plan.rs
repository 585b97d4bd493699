//! What is asked on the command line, as a plan: files read, names looked up, the victim held against its prefix.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Uri;
use tokio::net::TcpStream;
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::DrillArgs;
use super::MeansArgs;
use crate::cli::complain;
use crate::clock::Clock;
use crate::rig::client;
use crate::rig::client::ClientError;
use crate::rig::drill::Api;
use crate::rig::drill::Files;
use crate::rig::drill::Means;
use crate::rig::drill::Place;
use crate::rig::drill::Plan;
use crate::rig::drill::Visitor;
use crate::rig::drill::may_be_revoked;
use crate::rig::findings::Kind;
use crate::rig::findings::Party;
use crate::rig::upstream::Upstream;

/// The fewest tries of a probe after the call.
const LEAST: f64 = 5.0;
/// The most tries of all of them.
const MOST: f64 = 2_000_000.0;
/// Until everybody is served, at most.
const BEGINNING: Duration = Duration::from_secs(30);
/// For an address that may not answer.
const CONNECT: Duration = Duration::from_secs(3);

impl DrillArgs {
    /// The plan, or what is wrong with what was asked.
    pub(super) async fn plan(&self) -> Result<Plan, String> {
        let (victim, bystander) = self.visitors()?;
        let kinds = if self.kinds.is_empty() { Kind::ALL.to_vec() } else { self.kinds.clone() };
        self.check_time([Some(&victim), bystander.as_ref()])?;
        self.check_rhythm(kinds.len() * if bystander.is_some() { 2 } else { 1 })?;
        if bystander.is_none() {
            complain(
                &"drill: without --bystander-cert nobody tells a revocation from an outage that answers with 4xx",
            );
        }
        let upstream = match self.upstream {
            Some(address) => {
                Some(Upstream::listen(address).map_err(|e| format!("--upstream {address}: {e}"))?)
            }
            None => None,
        };
        Ok(Plan {
            place: place(&self.url, self.connect_to).await?,
            ca: self.ca.clone(),
            victim,
            bystander,
            means: self.means.means(&self.ca).await?,
            kinds,
            demanded: self.kinds.clone(),
            connections: usize::from(self.connections),
            rate: self.rate,
            before: self.before,
            window: self.window,
            recover_with: self.recover_with.clone(),
            audit_log: self.audit_log.clone(),
            checks: !self.skip_checks,
            unknown_serial: self.unknown_serial,
            max_last_served: self.max_last_served,
            max_bystander_errors: self.max_bystander_errors,
            upstream,
        })
    }

    /// Who is revoked, and who is not.
    fn visitors(&self) -> Result<(Visitor, Option<Visitor>), String> {
        let read = |certificate: &Path, key: &Path, given| {
            let files = Files { certificate: certificate.into(), key: key.into(), headers: headers(given) };
            Visitor::read(&self.ca, &files).map_err(|e| e.to_string())
        };
        let victim = read(&self.victim_cert, &self.victim_key, &self.victim_header)?;
        let Party { name, serial } = &victim.party;
        if !may_be_revoked(&victim.party, &self.allow_prefix) {
            return Err(format!(
                "{} is called `{name}`, which does not begin with `{}`: nobody but a victim made for it is revoked \
                 (--allow-prefix)",
                self.victim_cert.display(),
                self.allow_prefix
            ));
        }
        if self.means.revoke_body.contains("{principal}") && !is_plain(name) {
            return Err(format!(
                "`{name}`: a name with characters that may mean something in a --revoke-body"
            ));
        }
        let bystander = match (&self.bystander_cert, &self.bystander_key) {
            (Some(certificate), Some(key)) => Some(read(certificate, key, &self.bystander_header)?),
            _ => None,
        };
        if bystander.as_ref().is_some_and(|bystander| bystander.party.serial == *serial) {
            return Err("victim and bystander show the same certificate".into());
        }
        Ok((victim, bystander))
    }

    /// Whether nobody is refused because a certificate has come to its end meanwhile.
    fn check_time(&self, visitors: [Option<&Visitor>; 2]) -> Result<(), String> {
        let needed = self.before + self.window + BEGINNING;
        let until = Clock::system().now().plus(needed).secs();
        match visitors.into_iter().flatten().find(|visitor| visitor.not_after < until) {
            Some(visitor) => Err(format!(
                "the certificate of {} ends before the drill does, within {}",
                visitor.party.name,
                humantime::format_duration(needed)
            )),
            None => Ok(()),
        }
    }

    /// Whether there are enough tries for a verdict, and few enough to be kept.
    fn check_rhythm(&self, probes: usize) -> Result<(), String> {
        let after = self.rate * self.window.as_secs_f64();
        if after < LEAST {
            return Err(format!(
                "--rate {} in a --window of {} is {after} tries: fewer than {LEAST} tell nothing",
                self.rate,
                humantime::format_duration(self.window)
            ));
        }
        let all =
            (after + self.rate * self.before.as_secs_f64()) * (probes * usize::from(self.connections)) as f64;
        if all > MOST {
            return Err(format!(
                "{all:.0} tries: more than {MOST} are not kept (--rate, --window, --connections)"
            ));
        }
        Ok(())
    }
}

/// Whether a name is the same in every kind of text.
fn is_plain(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || "-._~:/@".contains(c))
}

impl MeansArgs {
    async fn means(&self, ca: &Path) -> Result<Means, String> {
        if let Some(command) = &self.revoke_with {
            return Ok(Means::Command(command.clone()));
        }
        let url = self.admin.as_ref().or(self.revoke_url.as_ref()).ok_or("nothing says how to revoke")?;
        let ca = self.admin_ca.as_deref().unwrap_or(ca);
        let own = self.admin_cert.as_deref().zip(self.admin_key.as_deref());
        if own.is_none() && self.admin.is_some() {
            return Err("--admin needs --admin-cert and --admin-key: as whom it is called".into());
        }
        let tls = |own| -> Result<_, ClientError> {
            let mut tls = client::config_from_files(ca, own)?;
            tls.alpn_protocols = vec![b"http/1.1".to_vec()];
            Ok(Arc::new(tls))
        };
        let api = Api {
            place: place(url, None).await?,
            tls: tls(own).map_err(|e| e.to_string())?,
            stranger: tls(None).map_err(|e| e.to_string())?,
            is_known: own.is_some(),
        };
        Ok(match self.admin {
            Some(_) => Means::Admin(api),
            None => Means::Url { api, body: self.revoke_body.clone(), headers: headers(&self.revoke_header) },
        })
    }
}

fn headers(given: &[(HeaderName, HeaderValue)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        headers.append(name, value.clone());
    }
    headers
}

/// Where a URL leads: to one address of its name, the first that answers if none is given.
async fn place(url: &Uri, given: Option<SocketAddr>) -> Result<Place, String> {
    if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(format!("{}: a URL with a user in it", url.host().unwrap_or_default()));
    }
    let host = url.host().unwrap_or_default();
    let server = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    if let Some(address) = given {
        return Ok(Place { address, server, url: url.clone() });
    }
    let port = url.port_u16().unwrap_or(443);
    let found = lookup_host((server.as_str(), port)).await.map_err(|e| format!("{url}: {host}: {e}"))?;
    let found: Vec<SocketAddr> = found.collect();
    let first = *found.first().ok_or_else(|| format!("{url}: {host} has no address"))?;
    let mut address = first;
    for &candidate in found.iter().filter(|_| found.len() > 1) {
        if matches!(timeout(CONNECT, TcpStream::connect(candidate)).await, Ok(Ok(_))) {
            address = candidate;
            complain(&format_args!(
                "drill: {host} has {} addresses, of which {address} is asked (--connect-to asks another)",
                found.len()
            ));
            break;
        }
    }
    Ok(Place { address, server, url: url.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_same_in_json_in_forms_and_in_urls() {
        assert!(is_plain("spiffe://lab.test/agent/drill05-test-a") && is_plain("a.lab.test"));
        for name in ["a\"b", "a b", "a&b=c", "a%22", "a<", "a\\", "ä", "a\nb"] {
            assert!(!is_plain(name), "{name}");
        }
    }
}
