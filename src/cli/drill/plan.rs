//! What is asked on the command line, as a plan: files read, names looked up, the victim held against its prefix.

use std::path::Path;
use std::sync::Arc;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Uri;
use tokio::net::lookup_host;

use super::DrillArgs;
use super::MeansArgs;
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

impl DrillArgs {
    /// The plan, or what is wrong with what was asked.
    pub(super) async fn plan(&self) -> Result<Plan, String> {
        let files = Files {
            certificate: self.victim_cert.clone(),
            key: self.victim_key.clone(),
            headers: headers(&self.victim_header),
        };
        let victim = Visitor::read(&self.ca, &files).map_err(|e| e.to_string())?;
        if !may_be_revoked(&victim.party, &self.allow_prefix) {
            return Err(format!(
                "{} is called `{}`, which does not begin with `{}`: nobody but a victim made for it is revoked \
                 (--allow-prefix)",
                self.victim_cert.display(),
                victim.party.name,
                self.allow_prefix
            ));
        }
        let bystander = match (&self.bystander_cert, &self.bystander_key) {
            (Some(certificate), Some(key)) => {
                let headers = headers(&self.bystander_header);
                let files = Files { certificate: certificate.clone(), key: key.clone(), headers };
                Some(Visitor::read(&self.ca, &files).map_err(|e| e.to_string())?)
            }
            _ => None,
        };
        if bystander.as_ref().is_some_and(|bystander| bystander.party.serial == victim.party.serial) {
            return Err("victim and bystander show the same certificate".into());
        }
        let kinds = if self.kinds.is_empty() { Kind::ALL.to_vec() } else { self.kinds.clone() };
        Ok(Plan {
            place: place(&self.url).await?,
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
            max_last_served: self.max_last_served,
            max_bystander_errors: self.max_bystander_errors,
        })
    }
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
            place: place(url).await?,
            tls: tls(own).map_err(|e| e.to_string())?,
            stranger: tls(None).map_err(|e| e.to_string())?,
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

/// Where a URL leads: the first address of its name.
async fn place(url: &Uri) -> Result<Place, String> {
    if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(format!("{}: a URL with a user in it", url.host().unwrap_or_default()));
    }
    let host = url.host().unwrap_or_default();
    let server = host.trim_start_matches('[').trim_end_matches(']');
    let port = url.port_u16().unwrap_or(443);
    let found = lookup_host((server, port)).await.map_err(|e| format!("{url}: {host}: {e}"))?;
    let address = found.into_iter().next().ok_or_else(|| format!("{url}: {host} has no address"))?;
    Ok(Place { address, server: server.to_owned(), url: url.clone() })
}
