//! Binding: the names in the certificate × the claim in the request → a verdict.

use std::fmt;

use http::HeaderName;
use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error as _;
use serde::de::MapAccess;
use serde::de::Visitor;
use serde::de::value::MapAccessDeserializer;

use super::ClaimScope;
use super::Config;
use super::DnsName;
use super::Error;
use super::PathClaim;
use super::SpiffeId;
use super::Subject;
use super::Template;
use super::TrustDomain;

/// Where a request says which agent it speaks for.
#[derive(Clone, Debug)]
pub enum ClaimSource {
    /// In a header.
    Header {
        /// Its name.
        name: HeaderName,
        /// Whether a request may do without.
        optional: bool,
    },
    /// In the path.
    Path {
        /// Where in the path.
        path: PathClaim,
        /// Whether a request may do without.
        optional: bool,
    },
    /// Nowhere: `claim = "none"`. The certificate alone decides.
    None,
}

impl<'de> Deserialize<'de> for ClaimSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ClaimVisitor)
    }
}

struct ClaimVisitor;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClaimTable {
    header: Option<String>,
    path: Option<String>,
    #[serde(default)]
    optional: bool,
}

impl<'de> Visitor<'de> for ClaimVisitor {
    type Value = ClaimSource;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`{ header = \"...\" }`, `{ path = \"/.../{agent}/\" }` or \"none\"")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ClaimSource, E> {
        match text {
            "none" => Ok(ClaimSource::None),
            _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ClaimSource, A::Error> {
        let table = ClaimTable::deserialize(MapAccessDeserializer::new(map))?;
        let optional = table.optional;
        match (table.header, table.path) {
            (Some(name), None) => {
                let header = HeaderName::from_bytes(name.as_bytes());
                let name = header.map_err(|_| A::Error::custom(format!("`{name}` is not a header name")))?;
                Ok(ClaimSource::Header { name, optional })
            }
            (None, Some(path)) => {
                let claim = PathClaim::parse(&path);
                let path = claim.map_err(|e| A::Error::custom(format!("path `{path}`: {e}")))?;
                Ok(ClaimSource::Path { path, optional })
            }
            _ => Err(A::Error::custom("a claim has either `header` or `path`")),
        }
    }
}

/// What a request claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim<'a> {
    /// Nothing.
    Absent,
    /// One agent id, SPIFFE ID or DNS name.
    Value(&'a str),
    /// Something that can be read in more than one way, and why.
    Ambiguous(&'static str),
}

/// Who a certificate's holder is, as far as this gate is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The SPIFFE ID, or the DNS name where there is none: the canonical name of the principal.
    pub principal: String,
    /// The agent id, where a template reads one.
    pub agent: Option<String>,
    /// The task id, where a template reads one.
    pub task: Option<String>,
    /// The trust domain, of a SPIFFE ID.
    pub trust_domain: Option<String>,
    /// The DNS names of the certificate.
    pub dns: Vec<DnsName>,
    /// Whether the agent id alone names this principal: not where several trust domains have agents, nor where its template
    /// has further variables and the configuration does not vouch for the ids.
    pub is_unique: bool,
    /// The kind of principal, of bounded variety: the template's first literal segment, `dns`, or `unknown`.
    pub kind: String,
}

impl Identity {
    /// Whether `claimed` is this identity: its agent id, its SPIFFE ID or its DNS name.
    fn answers_to(&self, claimed: &str) -> bool {
        if self.principal == claimed || (self.is_unique && self.agent.as_deref() == Some(claimed)) {
            return true;
        }
        // Only a principal that is itself a DNS name answers to one, in any case.
        self.trust_domain.is_none()
            && self.dns.iter().any(|name| name.as_str() == self.principal && name.is(claimed))
    }
}

/// The rules by which names become identities, and claims are held against them.
#[derive(Clone, Debug)]
pub struct Binding {
    trust_domains: Vec<TrustDomain>,
    templates: Vec<Template>,
    source: ClaimSource,
    scope: ClaimScope,
    /// DNS names that are accepted although no template fits them; they have no agent id.
    names: Vec<DnsName>,
}

impl Binding {
    /// The rules of a configuration.
    pub fn new(config: &Config) -> Self {
        Self {
            trust_domains: config.trust_domains.clone(),
            templates: config.templates.clone(),
            source: config.claim.clone(),
            scope: config.claim_scope,
            names: Vec::new(),
        }
    }

    /// Accepts these DNS names too, such as those of administrators.
    pub fn admitting(mut self, names: &[DnsName]) -> Self {
        self.names.extend_from_slice(names);
        self
    }

    /// Looks for claims elsewhere, if `source` says so.
    pub fn claiming(mut self, source: Option<ClaimSource>) -> Self {
        self.source = source.unwrap_or(self.source);
        self
    }

    /// Where a request states its claim.
    pub fn source(&self) -> &ClaimSource {
        &self.source
    }

    /// The trust domains whose SPIFFE IDs are accepted.
    pub fn trust_domains(&self) -> &[TrustDomain] {
        &self.trust_domains
    }

    /// Whether task ids are read from DNS names alone, which fold case.
    pub fn reads_tasks_of_dns_only(&self) -> bool {
        let reads = |dns: bool| self.templates.iter().any(|one| one.reads_tasks() && one.is_dns() == dns);
        reads(true) && !reads(false)
    }

    /// Whether agent ids are read from DNS names alone.
    pub fn reads_agents_of_dns_only(&self) -> bool {
        !self.templates.is_empty() && self.templates.iter().all(Template::is_dns)
    }

    /// Whether a principal that is a DNS name in `domain` could be accepted. No trust domain has it.
    pub fn accepts_dns_names_in(&self, domain: &str) -> bool {
        self.templates.iter().any(|template| template.reaches(domain))
            || self.names.iter().any(|name| name.is_below(domain))
    }

    /// Makes an identity of a certificate's names; `vouched` narrows the trust domains to those of its authority, and
    /// DNS names to what lies in them.
    ///
    /// # Errors
    /// [`Error::Foreign`] for a name outside the configured trust domains and templates, [`Error::Ambiguous`] for
    /// names that can be read in more than one way.
    pub fn identify(&self, subject: &Subject, vouched: Option<&[TrustDomain]>) -> Result<Identity, Error> {
        // Upstreams are told all of the names, so all of them must be the authority's to give.
        let below =
            |name: &&DnsName, domains: &[TrustDomain]| domains.iter().any(|d| name.is_below(d.as_str()));
        if let Some(name) = vouched.and_then(|domains| subject.dns.iter().find(|name| !below(name, domains)))
        {
            return Err(Error::Foreign(format!(
                "{name}: its authority may not vouch for names outside its trust domains"
            )));
        }
        match &subject.spiffe {
            Some(id) => self.identify_spiffe(id, subject, vouched),
            None => self.identify_dns(subject),
        }
    }

    /// Whether an agent id that `template` reads names one principal alone.
    fn names_one(&self, template: &Template) -> bool {
        let is_scoped = template.scope().is_some() && self.scope == ClaimScope::Principal;
        self.trust_domains.len() <= 1 && !is_scoped
    }

    fn identify_spiffe(
        &self,
        id: &SpiffeId,
        subject: &Subject,
        vouched: Option<&[TrustDomain]>,
    ) -> Result<Identity, Error> {
        let within =
            |domains: &[TrustDomain]| domains.iter().any(|domain| domain.as_str() == id.trust_domain());
        if !within(&self.trust_domains) {
            return Err(Error::Foreign(format!("{id} is of another trust domain")));
        }
        if vouched.is_some_and(|domains| !within(domains)) {
            return Err(Error::Foreign(format!("{id}: its authority may not vouch for that trust domain")));
        }
        let mut identity = Identity {
            principal: id.to_string(),
            agent: None,
            task: None,
            trust_domain: Some(id.trust_domain().to_owned()),
            dns: subject.dns.clone(),
            is_unique: true,
            kind: "unknown".into(),
        };
        for template in &self.templates {
            let Some(captures) = template.match_spiffe(id) else {
                continue;
            };
            identity.is_unique &= self.names_one(template);
            let differs =
                |known: &Option<String>, read: &str| known.as_deref().is_some_and(|known| known != read);
            if differs(&identity.agent, &captures.agent)
                || captures.task.as_ref().is_some_and(|task| differs(&identity.task, task))
            {
                return Err(Error::Ambiguous(format!("{id} has two agent or task ids by the templates")));
            }
            if identity.agent.is_none() {
                template.kind().clone_into(&mut identity.kind);
            }
            identity.agent = Some(captures.agent);
            identity.task = captures.task.or(identity.task);
        }
        Ok(identity)
    }

    fn identify_dns(&self, subject: &Subject) -> Result<Identity, Error> {
        let mut found: Option<Identity> = None;
        for name in &subject.dns {
            let fits =
                self.templates.iter().filter_map(|template| Some((template, template.match_dns(name)?)));
            let mut fits: Vec<Identity> = fits
                .map(|(template, captures)| Identity {
                    agent: Some(captures.agent),
                    task: captures.task,
                    is_unique: self.names_one(template),
                    ..dns_identity(name, subject)
                })
                .collect();
            if fits.is_empty() && self.names.contains(name) {
                fits.push(dns_identity(name, subject));
            }
            // Templates that differ in this alone read the same names.
            let is_unique = fits.iter().all(|identity| identity.is_unique);
            for identity in fits {
                let identity = Identity { is_unique, ..identity };
                if found.as_ref().is_some_and(|other| *other != identity) {
                    return Err(Error::Ambiguous("more than one DNS name fits the templates".into()));
                }
                found = Some(identity);
            }
        }
        let names = || subject.dns.iter().map(DnsName::as_str).collect::<Vec<_>>().join(", ");
        found.ok_or_else(|| Error::Foreign(format!("no template fits {}", names())))
    }

    /// Explains why the agent id of an identity is no claim here; empty for another claim.
    fn hint(&self, identity: &Identity, claimed: &str) -> &'static str {
        let is_own_id = identity.agent.as_deref() == Some(claimed);
        match (self.trust_domains.len() > 1, identity.trust_domain.is_some()) {
            _ if !is_own_id => "",
            (true, true) => "; with several trust domains the claim is the whole SPIFFE ID",
            (true, false) => "; with several trust domains the claim is the whole DNS name",
            (false, true) => "; under this template the claim is the whole SPIFFE ID (identity.claim_scope)",
            (false, false) => "; under this template the claim is the whole DNS name (identity.claim_scope)",
        }
    }

    /// Holds a claim against the identity of a certificate where nobody has to claim anything.
    pub fn judge_voluntary(&self, identity: &Identity, claim: Claim<'_>) -> Result<(), Error> {
        match claim {
            Claim::Absent => Ok(()),
            claim => self.judge(identity, claim),
        }
    }

    /// Holds a request's claim against the identity of its certificate.
    pub fn judge(&self, identity: &Identity, claim: Claim<'_>) -> Result<(), Error> {
        let optional = match &self.source {
            ClaimSource::None => return Ok(()),
            ClaimSource::Header { optional, .. } | ClaimSource::Path { optional, .. } => *optional,
        };
        match claim {
            Claim::Value(claimed) if identity.answers_to(claimed) => Ok(()),
            Claim::Value(claimed) => Err(Error::Mismatch {
                claimed: claimed.chars().take(256).collect(),
                principal: identity.principal.clone(),
                hint: self.hint(identity, claimed),
            }),
            Claim::Absent if optional => Ok(()),
            Claim::Absent => Err(Error::Unclaimed),
            Claim::Ambiguous(why) => Err(Error::Ambiguous(format!("claim: {why}"))),
        }
    }
}

/// The principal of a DNS name, before any template has read it.
fn dns_identity(name: &DnsName, subject: &Subject) -> Identity {
    Identity {
        principal: name.to_string(),
        agent: None,
        task: None,
        trust_domain: None,
        dns: subject.dns.clone(),
        is_unique: true,
        kind: "dns".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(optional: bool) -> Binding {
        Binding::new(&Config {
            trust_domains: vec![TrustDomain::parse("lab.test").unwrap()],
            templates: vec![
                Template::parse("spiffe://{trust_domain}/agent/{agent}").unwrap(),
                Template::parse("dns:{agent}.lab.test").unwrap(),
            ],
            claim: ClaimSource::Header { name: HeaderName::from_static("x-agent-id"), optional },
            claim_scope: ClaimScope::default(),
        })
    }

    fn tenants(claim_scope: ClaimScope) -> Binding {
        Binding::new(&Config {
            trust_domains: vec![TrustDomain::parse("lab.test").unwrap()],
            templates: vec![
                Template::parse("spiffe://{trust_domain}/agent/{agent}").unwrap(),
                Template::parse("spiffe://{trust_domain}/{tenant}/agent/{agent}").unwrap(),
                Template::parse("spiffe://{trust_domain}/acme/agent/{agent}").unwrap(),
                Template::parse("dns:{agent}.{tenant}.lab.test").unwrap(),
                Template::parse("dns:{agent}.lab.test").unwrap(),
            ],
            claim: ClaimSource::Header { name: HeaderName::from_static("x-agent-id"), optional: false },
            claim_scope,
        })
    }

    fn subject(spiffe: Option<&str>, dns: &[&str]) -> Subject {
        Subject {
            spiffe: spiffe.map(|id| SpiffeId::parse(id).unwrap()),
            dns: dns.iter().map(|name| DnsName::parse(name).unwrap()).collect(),
        }
    }

    #[test]
    fn names_become_identities_or_are_refused() {
        let rules = binding(false);
        let agent =
            |spiffe, dns| rules.identify(&subject(spiffe, dns), None).map(|i| (i.principal, i.agent, i.kind));
        let id = "spiffe://lab.test/agent/a";
        assert_eq!(agent(Some(id), &[]), Ok((id.into(), Some("a".into()), "agent".into())));
        assert_eq!(agent(Some(id), &["b.lab.test"]), Ok((id.into(), Some("a".into()), "agent".into())));
        assert_eq!(agent(None, &["a.lab.test"]), Ok(("a.lab.test".into(), Some("a".into()), "dns".into())));
        assert_eq!(agent(None, &["a.lab.test", "x.other"]), agent(None, &["a.lab.test"]));
        assert!(matches!(agent(None, &["a.lab.test", "b.lab.test"]), Err(Error::Ambiguous(_))));
        assert!(matches!(agent(None, &["a.other.test"]), Err(Error::Foreign(_))));
        assert!(matches!(agent(Some("spiffe://evil.test/agent/a"), &[]), Err(Error::Foreign(_))));
        let admin = "spiffe://lab.test/admin/ops";
        assert_eq!(agent(Some(admin), &[]), Ok((admin.into(), None, "unknown".into())));
    }

    #[test]
    fn an_agent_id_that_is_no_claim_is_refused_with_the_reason() {
        let told = |rules: &Binding, spiffe, dns, claimed| {
            let identity = rules.identify(&subject(spiffe, dns), None).unwrap();
            rules.judge(&identity, Claim::Value(claimed)).unwrap_err().to_string()
        };
        let id = "spiffe://lab.test/acme/agent/alice";
        let rules = tenants(ClaimScope::Principal);
        let plain = format!("the request claims `alice`, its certificate is `{id}`");
        assert_eq!(
            told(&rules, Some(id), &[], "alice"),
            format!("{plain}; under this template the claim is the whole SPIFFE ID (identity.claim_scope)")
        );
        assert_eq!(
            told(&rules, Some(id), &[], "bob"),
            format!("the request claims `bob`, its certificate is `{id}`")
        );
        let of_dns = told(&rules, None, &["alice.acme.lab.test"], "alice");
        assert!(of_dns.ends_with("the claim is the whole DNS name (identity.claim_scope)"), "{of_dns}");
        let mut several = tenants(ClaimScope::Agent);
        several.trust_domains.push(TrustDomain::parse("other.test").unwrap());
        let told = told(&several, Some(id), &[], "alice");
        assert!(told.ends_with("; with several trust domains the claim is the whole SPIFFE ID"), "{told}");
    }

    #[test]
    fn two_readings_of_one_name_are_refused() {
        let templates =
            ["spiffe://{trust_domain}/a/{task}/{agent}", "spiffe://{trust_domain}/{task}/t/{agent}"];
        let templates = templates.map(|text| Template::parse(text).unwrap()).to_vec();
        let config = Config {
            trust_domains: vec![TrustDomain::parse("lab.test").unwrap()],
            templates,
            claim: ClaimSource::None,
            claim_scope: ClaimScope::default(),
        };
        let identify = |id| Binding::new(&config).identify(&subject(Some(id), &[]), None);
        assert!(matches!(identify("spiffe://lab.test/a/t/x"), Err(Error::Ambiguous(_))));
        assert_eq!(identify("spiffe://lab.test/a/u/x").unwrap().task.as_deref(), Some("u"));
    }

    #[test]
    fn an_administrators_dns_name_may_fit_a_template_or_none() {
        let names = ["oncall.lab.test", "ops.corp.test"].map(|name| DnsName::parse(name).unwrap());
        let rules = binding(false).admitting(&names);
        let agent = |name| rules.identify(&subject(None, &[name]), None).map(|identity| identity.agent);
        assert_eq!(agent("oncall.lab.test"), Ok(Some("oncall".into())));
        assert_eq!(agent("ops.corp.test"), Ok(None));
        assert!(agent("dev.corp.test").is_err());
    }

    #[test]
    fn an_authority_vouches_only_for_its_own_trust_domains() {
        let other = [TrustDomain::parse("other.test").unwrap()];
        for names in [subject(Some("spiffe://lab.test/agent/a"), &[]), subject(None, &["a.lab.test"])] {
            assert!(matches!(binding(false).identify(&names, Some(&other)), Err(Error::Foreign(_))));
            let own = [TrustDomain::parse("lab.test").unwrap()];
            assert!(binding(false).identify(&names, Some(&own)).is_ok());
        }
    }

    /// Upstreams are told every DNS name of a certificate, whichever names its holder. Seen failing with those beside a SPIFFE
    /// ID left unchecked.
    #[test]
    fn an_authority_vouches_for_every_dns_name_beside_a_spiffe_id() {
        let id = "spiffe://lab.test/agent/a";
        let own = [TrustDomain::parse("lab.test").unwrap()];
        let rules = binding(false);
        for (names, accepted) in [
            (&[][..], true),
            (&["a.lab.test"], true),
            (&["lab.test"], true),
            (&["a.other.test"], false),
            (&["a.lab.test", "a.other.test"], false),
            (&["a.other.test", "a.lab.test"], false),
            (&["evil-lab.test"], false),
        ] {
            let (with, without) = (subject(Some(id), names), subject(Some(id), names));
            assert_eq!(rules.identify(&with, Some(&own)).is_ok(), accepted, "{names:?}");
            assert!(rules.identify(&without, None).is_ok(), "{names:?}");
        }
    }

    /// Seen failing with an agent id that binds wherever there is one trust domain.
    #[test]
    fn an_agent_id_binds_only_where_it_names_one_principal() {
        let scoped = "spiffe://lab.test/globex/agent/alice";
        for (spiffe, dns, bare) in [
            (Some("spiffe://lab.test/agent/alice"), None, true),
            (Some(scoped), None, false),
            // Two templates read it, and one of them reads the tenants of others.
            (Some("spiffe://lab.test/acme/agent/alice"), None, false),
            (None, Some("alice.lab.test"), true),
            (None, Some("alice.globex.lab.test"), false),
        ] {
            let names = subject(spiffe, dns.as_slice());
            for (scope, bare) in [(ClaimScope::Principal, bare), (ClaimScope::Agent, true)] {
                let rules = tenants(scope);
                let identity = rules.identify(&names, None).unwrap();
                let binds = |claimed: &str| rules.judge(&identity, Claim::Value(claimed)).is_ok();
                assert_eq!(binds("alice"), bare, "{} {scope:?}", identity.principal);
                assert!(binds(&identity.principal), "{} {scope:?}", identity.principal);
                assert!(!binds("spiffe://lab.test/initech/agent/alice") && !binds("alice.initech.lab.test"));
                assert_eq!(identity.agent.as_deref(), Some("alice"));
            }
        }
    }

    #[test]
    fn the_binding_matrix() {
        let strict = binding(false);
        let spiffe =
            strict.identify(&subject(Some("spiffe://lab.test/agent/a"), &["a.lab.test"]), None).unwrap();
        let dns = strict.identify(&subject(None, &["a.lab.test"]), None).unwrap();
        for (identity, claimed, accepted) in [
            (&spiffe, "a", true),
            (&spiffe, "spiffe://lab.test/agent/a", true),
            (&spiffe, "A", false),
            (&spiffe, "b", false),
            (&spiffe, "", false),
            (&spiffe, "a.lab.test", false),
            (&spiffe, "spiffe://lab.test/agent/a/", false),
            (&spiffe, "SPIFFE://lab.test/agent/a", false),
            (&spiffe, "spiffe://evil.test/agent/a", false),
            (&dns, "a", true),
            (&dns, "a.lab.test", true),
            (&dns, "A.Lab.Test.", true),
            (&dns, "spiffe://lab.test/agent/a", false),
        ] {
            assert_eq!(strict.judge(identity, Claim::Value(claimed)).is_ok(), accepted, "{claimed}");
        }
        assert_eq!(strict.judge(&spiffe, Claim::Absent), Err(Error::Unclaimed));
        assert_eq!(binding(true).judge(&spiffe, Claim::Absent), Ok(()));
        assert!(matches!(binding(true).judge(&spiffe, Claim::Ambiguous("twice")), Err(Error::Ambiguous(_))));
    }
}
