//! Lists that the certificates of configured authorities point to.

use std::fs;

use rcgen::CrlDistributionPoint;

use crate::authorities::pem;
use crate::forge::Ca;
use crate::forge::Forge;
use crate::forge::Scheme;
use crate::forge::params;
use crate::server::Reply;
use crate::server::Server;
use crate::site::Site;
use crate::site::crl;

fn pointing(name: &str, points: &[&[String]]) -> rcgen::CertificateParams {
    let mut params = params(name);
    params.crl_distribution_points =
        points.iter().map(|uris| CrlDistributionPoint { uris: uris.to_vec() }).collect();
    params
}

#[test]
fn an_authority_points_to_the_list_of_who_issued_it() {
    let (server, state) = (Server::start(), tempfile::tempdir().unwrap());
    let ldap = "ldap://pki.test/cn=R?certificateRevocationList".to_owned();
    let root_list = server.url("/root.crl");
    // The root points to its own list, twice; the one below to that of the root, and to another part of it.
    let root = Ca::of(pointing("The Root", &[&[ldap.clone(), root_list.clone()]]), Scheme::P256Sha256);
    let points: [&[String]; 5] = [
        &[root_list],
        &[server.url("/part.crl")],
        &[ldap],
        &["file:///etc/passwd".to_owned()],
        &["http://169.254.7.7/latest".to_owned()],
    ];
    let below = root.below(pointing("Below", &points));
    let file = state.path().join("below.pem");
    fs::write(&file, pem(&[&below])).unwrap();
    let own = crl(&server.url("/below.crl"), &format!("issuer = \"{}\"", file.display()));
    let config = format!("crl_discover = true\n{own}");
    let site = Site::start(&config, &[&root], state.path());
    let names: Vec<String> = site.feeds.status(site.clock.now()).into_iter().map(|feed| feed.name).collect();
    assert_eq!(names, ["crl", "ca-the-root", "ca-the-root-2"]);
    server.says("/below.crl", Reply::ok(&Forge::number(1).revokes(1).sign(&below)));
    server.says("/root.crl", Reply::ok(&Forge::number(1).revokes(2).sign(&root)));
    assert!(site.look("crl").is_ok() && site.look("ca-the-root").is_ok());
    assert!(site.denies(&below, 1) && site.denies(&root, 2));
    // Of nobody else's.
    server.says("/part.crl", Reply::ok(&Forge::number(2).revokes(3).sign(&below)));
    assert!(site.look("ca-the-root-2").unwrap_err().contains("another authority is expected"));
    drop(site);
    let site = Site::start(&own, &[&root], &state.path().join("2"));
    assert_eq!(site.feeds.status(site.clock.now()).len(), 1);
    drop(site);
    // What is configured is not fetched twice.
    let config = format!("crl_discover = true\n{}", crl(&server.url("/root.crl"), "name = \"root\""));
    let site = Site::start(&config, &[&root], &state.path().join("3"));
    assert_eq!(site.feeds.status(site.clock.now()).len(), 1);
}
