//! What is said about a mistake, and the exit code.

use std::io::Read as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::path::PathBuf;

use portcullis::clock::Clock;
use portcullis::rig::stage::Stage;
use rcgen::CertificateParams;
use rcgen::KeyPair;
use socket2::Domain;
use socket2::Socket;
use socket2::Type;
use tempfile::TempDir;

use crate::stub::Ended;
use crate::stub::ended;
use crate::stub::program;

/// A directory with two certificates, each with its key.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        for name in ["one", "other"] {
            let key = KeyPair::generate().unwrap();
            let cert = CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
            std::fs::write(files.path(&format!("{name}.pem")), cert.pem()).unwrap();
            std::fs::write(files.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `portcullis revoke`, with a key that fits its certificate.
    fn revoke(&self, arguments: &[&str]) -> Ended {
        let mut program = program();
        program.arg("revoke").args(arguments);
        let own = [("--cacert", "one.pem"), ("--client-cert", "one.pem"), ("--client-key", "one.key")];
        for (option, name) in own.iter().filter(|(option, _)| !arguments.contains(option)) {
            program.arg(option).arg(self.path(name));
        }
        ended(program)
    }
}

/// The address of an API that is not there, and a socket that keeps others from listening at it.
fn nobody() -> (String, Socket) {
    let held = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    held.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = held.local_addr().unwrap().as_socket().unwrap();
    (format!("https://{address}"), held)
}

#[test]
fn a_wrong_argument_is_refused_before_anything_is_sent() {
    let files = Files::new();
    let cases: [(&[&str], &[&str]); 7] = [
        (&["--level", "leaf"], &["--level", "invalid value 'leaf'", "trust_domain"]),
        (&["--level", "task", "--issued-before", "yesterday"], &["--issued-before", "RFC 3339"]),
        (&["--level", "task", "--expires-at", "2026-13-01"], &["--expires-at", "Unix seconds"]),
        (&["--level", "task", "--server", "http://localhost:9443"], &["--server", "https://HOST:PORT"]),
        (&["--level", "task", "--server", "localhost:9443"], &["--server", "https://HOST:PORT"]),
        (&["--level", "task", "--server", "localhost"], &["--server", "https://HOST:PORT"]),
        (&["--level", "task", "--server", "https://localhost/x"], &["--server", "https://HOST:PORT"]),
    ];
    for (arguments, said) in cases {
        files.revoke(&[&["--target", "t"], arguments].concat()).said(2, said);
    }
}

#[test]
fn every_spelling_of_a_level_and_a_time_is_taken() {
    let (files, (server, _held)) = (Files::new(), nobody());
    for level in ["agent", "principal", "trust_domain"] {
        for time in ["1792000000", "2026-10-14T17:46:40Z"] {
            let arguments = ["--level", level, "--target", "t", "--issued-before", time, "--server", &server];
            files.revoke(&arguments).said(3, &["cannot reach"]);
        }
    }
}

#[test]
fn a_file_that_cannot_be_used_is_named() {
    let (files, (server, _held)) = (Files::new(), nobody());
    let revoke = |option: &str, name: &str| {
        let path = files.path(name);
        files.revoke(&[
            "--level",
            "task",
            "--target",
            "t",
            "--server",
            &server,
            option,
            path.to_str().unwrap(),
        ])
    };
    let other = revoke("--client-key", "other.key");
    other.said(
        2,
        &["--client-key /", "other.key: not the key of the certificate in --client-cert /", "one.pem"],
    );
    revoke("--client-key", "one.pem").said(2, &["--client-key /", "one.pem: holds no private key"]);
    revoke("--client-cert", "absent.pem").said(2, &["--client-cert /", "absent.pem: No such file"]);
    revoke("--cacert", "one.key").said(2, &["--cacert, --client-key /", "one.key: holds no certificate"]);
}

/// What hyper, nginx and the metrics port say to a TLS ClientHello.
#[test]
fn a_plain_port_is_recognized() {
    let files = Files::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("https://{}", listener.local_addr().unwrap());
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut header = [0; 5];
        stream.read_exact(&mut header).unwrap();
        let mut rest = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
        stream.read_exact(&mut rest).unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").unwrap();
    });
    let ended = files.revoke(&["--level", "task", "--target", "t", "--server", &server]);
    ended.said(3, &["does not speak TLS: is this the metrics port?"]);
    serving.join().unwrap();
}

/// In TLS 1.3 the refusal comes after the client's part of the handshake: it was once told as `operation was canceled`.
#[test]
fn a_refused_certificate_and_a_wrong_port_are_told_apart() {
    let stage = Stage::set(&Clock::system(), &["a"]).unwrap();
    let (files, ca, admin) = (Files::new(), stage.ca(), stage.admin_files());
    let (admin_api, gate) = (format!("https://{}", stage.admin()), format!("https://{}", stage.gate()));
    let metrics = format!("https://{}", stage.metrics().unwrap());
    let revoke = |server: &str, own: &[&str]| {
        let arguments = ["--level", "task", "--target", "t", "--server", server, "--cacert"];
        files.revoke(&[&arguments, [ca.to_str().unwrap()].as_slice(), own].concat())
    };
    let (cert, key) = (admin.certificate.to_str().unwrap(), admin.key.to_str().unwrap());
    let own = ["--client-cert", cert, "--client-key", key];
    let refused = "does not accept this certificate: unknown CA; is this the admin listener's port?";
    revoke(&gate, &[]).said(1, &[refused]);
    let reason = "403 no valid path: no configured authority issued the certificate (UnknownIssuer)";
    revoke(&admin_api, &[]).said(1, &[reason, "certificate_untrusted: you are locked out"]);
    let foreign = files.path("one.pem");
    let untrusted = [own.as_slice(), &["--cacert", foreign.to_str().unwrap()]].concat();
    let arguments = ["--level", "task", "--target", "t", "--server", admin_api.as_str()];
    let said =
        ["is not trusted", "--cacert names another authority than the one that vouches for this server"];
    files.revoke(&[&arguments, untrusted.as_slice()].concat()).said(3, &said);
    revoke(&gate, &own).said(1, &["403", "is this the gate's port? the admin API listens elsewhere"]);
    revoke(&metrics, &own).said(3, &["does not speak TLS: is this the metrics port?"]);
    let revoked = revoke(&admin_api, &own);
    assert_eq!((revoked.code, revoked.err.contains("note: ")), (Some(0), true), "{revoked:?}");
    stage.strike().unwrap();
}

#[test]
fn a_configuration_must_be_named() {
    for command in ["validate", "run"] {
        let mut program = program();
        program.arg(command);
        ended(program).said(2, &["portcullis: --config is missing"]);
    }
}

#[test]
fn a_configuration_that_cannot_be_read_is_called_one() {
    for command in ["validate", "run"] {
        let mut program = program();
        program.args([command, "--config", "/nowhere/nope.toml"]);
        ended(program).said(2, &["portcullis: configuration /nowhere/nope.toml: No such file"]);
    }
}
