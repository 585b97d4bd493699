//! A certificate authority of OpenSSL's: `openssl ca`, its database and its lists.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use portcullis::rig::client::Credentials;
use portcullis::rig::pki::spiffe_id;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use tempfile::TempDir;

const NEEDED: &str = "the openssl command is needed (on Debian: apt-get install openssl)";

/// Its configuration. `DATABASE` is a database of certificates: a list has what one of them says.
const CONFIG: &str = r"
[req]
distinguished_name = any
[any]
commonName = supplied
[ca]
default_ca = own
[own]
database = DATABASE.txt
unique_subject = no
rand_serial = yes
crlnumber = crlnumber
new_certs_dir = .
certificate = ca.pem
private_key = ca.key
default_md = sha256
default_days = 1
default_crl_days = 1
policy = any
[agent]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = ${ENV::SAN}
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[list]
authorityKeyIdentifier = keyid
[delta]
authorityKeyIdentifier = keyid
# deltaCRLIndicator: the number of the list that it can be applied to.
2.5.29.27 = critical, ASN1:INTEGER:${ENV::BASE}
[part]
authorityKeyIdentifier = keyid
issuingDistributionPoint = critical, @point
[point]
fullname = URI:${ENV::POINT}
";

/// What a list is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind<'a> {
    /// Everything.
    Full,
    /// What has changed since the list of this number.
    Delta(&'a str),
    /// That of this distribution point.
    Part(&'a str),
}

/// An authority in a directory of its own.
pub(crate) struct Authority {
    directory: TempDir,
    /// Those between it and a root, its own first.
    above: Vec<PathBuf>,
}

/// A certificate of an agent, with its key.
pub(crate) struct Agent {
    pub(crate) name: String,
    certificate: PathBuf,
    key: PathBuf,
    above: Vec<PathBuf>,
}

impl Authority {
    /// A root.
    pub(crate) fn root(name: &str) -> Self {
        let authority = Self { directory: directory(), above: Vec::new() };
        let subject = format!("/CN={name}");
        let new = ["req", "-x509", "-extensions", "authority", "-subj", &subject];
        authority.run(ALL, &[&new[..], &NEW_KEY, &["-keyout", "ca.key", "-out", "ca.pem"]].concat(), &[]);
        authority
    }

    /// An authority that this one signs.
    pub(crate) fn below(&self, name: &str) -> Self {
        let directory = directory();
        let (certificate, key) = (directory.path().join("ca.pem"), directory.path().join("ca.key"));
        self.sign(name, [&certificate, &key], "authority", "DNS:unused");
        let above = [std::slice::from_ref(&certificate), &self.above].concat();
        Self { directory, above }
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A certificate for an agent.
    pub(crate) fn issue(&self, name: &str) -> Agent {
        let file = |end: &str| self.directory.path().join(format!("{name}.{end}"));
        let (certificate, key) = (file("pem"), file("key"));
        let san = format!("URI:{}", spiffe_id(&format!("agent/{name}")));
        self.sign(name, [&certificate, &key], "agent", &san);
        Agent { name: name.to_owned(), certificate, key, above: self.above.clone() }
    }

    /// Makes a certificate, and the key for it.
    fn sign(&self, name: &str, files: [&Path; 2], extensions: &str, san: &str) {
        let subject = format!("/CN={name}");
        let [certificate, key] = files.map(|file| file.to_str().unwrap());
        let request = ["req", "-new", "-subj", &subject, "-keyout", key, "-out", "new.csr"];
        self.run(ALL, &[&request[..], &NEW_KEY].concat(), &[]);
        let sign = ["ca", "-batch", "-notext", "-extensions", extensions];
        self.run(ALL, &[&sign[..], &["-in", "new.csr", "-out", certificate]].concat(), &[("SAN", san)]);
    }

    /// Revokes a certificate in one database.
    pub(crate) fn revoke(&self, database: &str, certificate: &Path) {
        let certificate = certificate.to_str().unwrap();
        self.run(database, &["ca", "-crl_reason", "keyCompromise", "-revoke", certificate], &[]);
    }

    /// The list of what one database says is revoked, PEM as OpenSSL writes it; each has the next number, from 1.
    pub(crate) fn list(&self, database: &str, kind: Kind<'_>) -> Vec<u8> {
        let (extensions, environment) = match kind {
            Kind::Full => ("list", vec![]),
            Kind::Delta(base) => ("delta", vec![("BASE", base)]),
            Kind::Part(point) => ("part", vec![("POINT", point)]),
        };
        self.run(database, &["ca", "-gencrl", "-crlexts", extensions, "-out", "list.pem"], &environment);
        fs::read(self.directory.path().join("list.pem")).unwrap()
    }

    fn run(&self, database: &str, arguments: &[&str], environment: &[(&str, &str)]) {
        let directory = self.directory.path();
        fs::write(directory.join("openssl.cnf"), CONFIG.replace("DATABASE", database)).unwrap();
        let file = directory.join(format!("{database}.txt"));
        fs::OpenOptions::new().append(true).create(true).open(file).unwrap();
        let mut command = Command::new("openssl");
        let (first, rest) = arguments.split_first().unwrap();
        command.current_dir(directory).args([first, "-config", "openssl.cnf"]).args(rest);
        // Each must be there when the file is read.
        command.envs([("SAN", "DNS:unused"), ("BASE", "1"), ("POINT", "http://unused")]);
        let output = command.envs(environment.iter().copied()).output().expect(NEEDED);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Agent {
    pub(crate) fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// What it identifies itself with: its certificate and those above.
    pub(crate) fn credentials(&self) -> Credentials {
        let files = std::iter::once(&self.certificate).chain(&self.above);
        let chain = files.map(|file| CertificateDer::from_pem_file(file).unwrap()).collect();
        (chain, PrivateKeyDer::from_pem_file(&self.key).unwrap())
    }
}

/// The database of all that was issued.
pub(crate) const ALL: &str = "all";
const NEW_KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("crlnumber"), "01\n").unwrap();
    directory
}
