//! A certificate that was seen in a handshake is known from then on, after a restart too; one that nobody ever showed
//! is not.

use portcullis::revocation::Level;
use portcullis::revocation::Seen;
use portcullis::revocation::Target;
use rustls::HandshakeKind;

use crate::lab::Lab;
use crate::pki::Ca;
use crate::pki::Cert;

/// What the gate knows of a serial number: the principal, and whether it is an authority's.
fn known(lab: &Lab, serial: &str) -> Vec<(Option<String>, bool)> {
    let found = lab.running().registry().by_serial(serial, None);
    found.into_iter().map(|seen| (seen.principal, seen.authority)).collect()
}

/// What a revocation of an issuer would hit.
fn under(lab: &Lab, issuer: &str) -> Vec<Seen> {
    let target = Target::parse(Level::Issuer, issuer, None).unwrap();
    lab.running().registry().by_target(&target, 100)
}

fn agent(name: &str) -> Vec<(Option<String>, bool)> {
    vec![(Some(format!("spiffe://lab.test/agent/{name}")), false)]
}

/// Seen failing with peers that note nothing, and with a stop that does not write what waits.
#[tokio::test]
async fn from_its_first_handshake_on() {
    let mut lab = Lab::start().await;
    let intermediate = lab.root.intermediate("first");
    let [seen, unseen] = ["a", "b"].map(|name| intermediate.agent(name));
    let stranger = Ca::root("stranger").agent("c");
    let authority = |lab: &Lab, cert: &Cert| {
        let issuers = lab.running().registry().by_serial(&cert.serial, None).first().unwrap().issuers.clone();
        let above = |id: &String| under(lab, id).iter().filter(|seen| seen.authority).count();
        issuers.iter().map(above).collect::<Vec<_>>()
    };
    lab.client(&seen).get("/").await.assert_ok();
    let refused = lab.client(&stranger).dial(b"http/1.1").await;
    drop(refused);
    for round in ["at once", "after a restart", "after another"] {
        assert_eq!(known(&lab, &seen.serial), agent("a"), "{round}");
        // The intermediate is hit by its own id and by that of the root, which also hits the root.
        assert_eq!(authority(&lab, &seen), [1, 2], "{round}");
        for cert in [&unseen, &stranger] {
            assert_eq!(known(&lab, &cert.serial), [], "{round}");
        }
        lab.restart().await;
    }
    // A resumed session, after the restart, is of a certificate that is known as well.
    let client = lab.client(&unseen);
    client.get("/").await.assert_ok();
    let mut resumed = client.h1().await;
    assert_eq!(resumed.kind, Some(HandshakeKind::Resumed));
    resumed.get("/").await.assert_ok();
    assert_eq!(known(&lab, &unseen.serial), agent("b"));
}

#[tokio::test]
async fn those_that_are_trusted_are_known_before_anybody_connects() {
    let lab = Lab::start().await;
    let roots = under(&lab, &lab.root.key_sha256);
    assert!(matches!(roots.as_slice(), [root] if root.authority && root.key == lab.root.key_sha256));
    assert_eq!(known(&lab, &roots.first().unwrap().serial), [(None, true)]);
}
