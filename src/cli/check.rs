//! `portcullis check`: whether a credential would be let in, and if not, why.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::ArgGroup;
use clap::Args;
use serde_json::Value;

use super::DONE;
use super::REFUSED;
use super::USAGE;
use super::answer::Answer;
use super::certificate;
use super::complain;
use super::order::time;
use super::output::Page;
use super::output::Paint;
use super::output::cell;
use super::output::counted;
use super::question;
use super::revocations::entry_cell;
use super::server::ServerArgs;
use super::server::query;

/// Which credential.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("whom").required(true)
    .args(["certificate", "serial", "principal", "key", "token", "task"])))]
pub(super) struct CheckArgs {
    /// A certificate (PEM); further certificates in the file are taken for its issuers.
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// A serial number.
    #[arg(long)]
    serial: Option<String>,
    /// The key id of its issuer.
    #[arg(long, conflicts_with_all = ["certificate", "principal", "key", "token", "task"])]
    issuer: Option<String>,
    /// A SPIFFE ID, DNS name or agent id.
    #[arg(long)]
    principal: Option<String>,
    /// The SHA-256 of a SubjectPublicKeyInfo.
    #[arg(long)]
    key: Option<String>,
    /// The jti of a token.
    #[arg(long, value_name = "JTI")]
    token: Option<String>,
    /// The id of a task.
    #[arg(long)]
    task: Option<String>,
    /// When it was issued, for revocations with --issued-before: RFC 3339, or Unix seconds.
    #[arg(long, value_name = "TIME", value_parser = time)]
    issued_at: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

const COLUMNS: [(&str, &str); 9] = [
    ("STATE", "state"),
    ("APPLIES", "applies"),
    ("LEVEL", "level"),
    ("TARGET", "target"),
    ("AT", "at"),
    ("ACTOR", "actor"),
    ("ISSUED BEFORE", "issued_before"),
    ("ID", "id"),
    ("REASON", "reason"),
];

const CERTIFICATES: [(&str, &str); 6] = [
    ("SERIAL", "serial"),
    ("PRINCIPAL", "principal"),
    ("NOT AFTER", "not_after"),
    ("ALLOWED", "allowed"),
    ("CODE", "code"),
    ("SHA256", "sha256"),
];

impl CheckArgs {
    /// Asks, prints, and returns the exit code: 1 if it would be refused.
    pub(super) fn run(self) -> u8 {
        let (certificate, issuers) = match self.certificate.as_deref().map(certificate::read).transpose() {
            Ok(chain) => {
                let chain: Vec<String> =
                    chain.unwrap_or_default().iter().map(|der| URL_SAFE_NO_PAD.encode(der)).collect();
                let issuers = chain.get(1..).filter(|rest| !rest.is_empty()).map(|rest| rest.join(","));
                (chain.into_iter().next(), issuers)
            }
            Err(reason) => {
                complain(&format_args!("check: {reason}"));
                return USAGE;
            }
        };
        let serial =
            self.serial.as_deref().map(|text| text.strip_prefix("serial=").unwrap_or(text).to_owned());
        let pairs = [
            ("certificate", certificate),
            ("issuers", issuers),
            ("serial", serial),
            ("issuer", self.issuer),
            ("principal", self.principal),
            ("key", self.key),
            ("token", self.token),
            ("task", self.task),
            ("issued_at", self.issued_at),
        ];
        question::ask(&self.server, "check", &format!("/v1/check{}", query(&pairs)), "allowed", show)
    }
}

fn show(answer: &Answer, page: &mut Page) -> u8 {
    let is_allowed = answer.document["allowed"] == Value::Bool(true);
    let why = match (answer.text("code"), answer.text("reason")) {
        ("", "") => String::new(),
        (one, "") | ("", one) => format!(": {one}"),
        (code, reason) => format!(": {code}: {reason}"),
    };
    match is_allowed {
        true => page.verdict(Paint::Good, "would be let in", &why),
        false => page.verdict(Paint::Bad, "would be REFUSED", &why),
    }
    page.field_if("principal", &cell(&answer.document, "principal"));
    if answer.document["known"] == Value::Bool(false) {
        page.field("not seen", &"this gate has never seen it");
    }
    let certificates = answer.document["certificates"].as_array().map(Vec::as_slice).unwrap_or_default();
    match certificates {
        [one] => detail(one, page),
        [] => {}
        many => page.field("certificates", &counted(many.len() as u64, "certificate")),
    }
    page.field_if("administrator", &cell(&answer.document, "note"));
    page.field("connected", &counted(answer.number("sessions"), "session"));
    if answer.document["hits"].as_array().is_some_and(|hits| !hits.is_empty()) {
        page.line(&"");
        hits(answer, page);
    }
    if certificates.len() > 1 {
        page.line(&"");
        let rows =
            certificates.iter().map(|one| CERTIFICATES.iter().map(|(_, name)| cell(one, name)).collect());
        page.table(&CERTIFICATES.map(|(head, _)| head), rows.collect());
    }
    if is_allowed { DONE } else { REFUSED }
}

fn detail(certificate: &Value, page: &mut Page) {
    for name in ["serial", "key", "sha256"] {
        page.field_if(name, &cell(certificate, name));
    }
    for name in ["allowed", "code"] {
        page.field_if(name, &cell(certificate, name));
    }
    page.field_if("not before", &cell(certificate, "not_before"));
    page.field_if("not after", &cell(certificate, "not_after"));
    for issuer in certificate["issuers"].as_array().into_iter().flatten() {
        page.field("issuer", &super::output::shown(issuer));
    }
}

fn hits(answer: &Answer, page: &mut Page) {
    let all = answer.document["hits"].as_array().into_iter().flatten();
    let rows = all.map(|hit| COLUMNS.iter().map(|(_, name)| entry_cell(hit, name)).collect()).collect();
    page.table(&COLUMNS.map(|(head, _)| head), rows);
}
