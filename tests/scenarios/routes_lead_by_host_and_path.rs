//! A route is found by host and path; it has its own claim, and what is a claim elsewhere passes nowhere.

use http::Request;

use crate::endpoint::Endpoint;
use crate::endpoint::Kind;
use crate::lab::Lab;
use crate::upstream::full;

#[tokio::test]
async fn the_most_specific_one_serves() {
    let (any, below, app, api) = (
        Endpoint::start("any", Kind::http()).await,
        Endpoint::start("below", Kind::http()).await,
        Endpoint::start("app", Kind::http()).await,
        Endpoint::start("api", Kind::http()).await,
    );
    let routes = [
        ("", "/", &any),
        ("*.lab.test", "/", &below),
        ("App.lab.test", "/", &app),
        ("app.lab.test", "/api", &api),
    ];
    let routes = routes.map(|(host, path, to)| {
        let host = if host.is_empty() { String::new() } else { format!("host = \"{host}\"\n") };
        format!("[[route]]\n{host}path = \"{path}\"\nupstream = [\"http://{}\"]\n", to.address)
    });
    let lab = Lab::plan().routes(&routes.concat()).start().await;
    let client = lab.client(&lab.root.agent("a"));
    let (mut h1, mut h2) = (client.h1().await, client.h2().await);
    for (host, path, name) in [
        ("localhost", "/api", "any"),
        ("app.lab.test", "/", "app"),
        ("APP.Lab.Test", "/", "app"),
        ("app.lab.test.", "/", "app"),
        ("app.lab.test:8443", "/", "app"),
        ("app.lab.test.:1", "/api/x", "api"),
        ("b.lab.test", "/api", "below"),
        ("c.b.lab.test", "/", "below"),
        ("lab.test", "/", "any"),
        ("evilapp.lab.test.evil", "/", "any"),
    ] {
        let request = Request::get(path).header("host", host).header("x-agent-id", "a");
        let answer = h1.exchange(request.body(full("")).unwrap()).await.unwrap();
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, name.as_bytes()), "{host}{path}");
        let request = Request::get(format!("https://{host}{path}")).header("x-agent-id", "a");
        let answer = h2.exchange(request.body(()).unwrap()).await.unwrap();
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, name.as_bytes()), "{host}{path}");
    }
    // The request line outranks the header (RFC 9112, section 3.2.2).
    let request = Request::get("http://app.lab.test/").header("host", "b.lab.test").header("x-agent-id", "a");
    assert_eq!(&*h1.exchange(request.body(full("")).unwrap()).await.unwrap().body, b"app");
    assert_eq!(app.state.seen.lock().unwrap().last().unwrap().1["host"], "app.lab.test");
}

#[tokio::test]
async fn nowhere_if_none_fits() {
    let lab =
        Lab::plan().routes("[[route]]\nhost = \"app.lab.test\"\nupstream = [\"UPSTREAM\"]").start().await;
    let client = lab.client(&lab.root.agent("a"));
    client.get("/").await.assert_refused(404, "no_route");
    client.h2().await.get("/").await.assert_refused(404, "no_route");
}

#[tokio::test]
async fn each_with_a_claim_of_its_own() {
    let lab = Lab::plan()
        .routes(
            r#"[[route]]
upstream = ["UPSTREAM"]
[[route]]
path = "/workers"
upstream = ["UPSTREAM"]
claim = { header = "x-worker" }
[[route]]
path = "/agents"
upstream = ["UPSTREAM"]
claim = { path = "/agents/{agent}/" }
[[route]]
path = "/open"
upstream = ["UPSTREAM"]
claim = "none"
"#,
        )
        .start()
        .await;
    let mut connection = lab.client(&lab.root.agent("a").claiming(None)).h1().await;
    for (path, header, expected) in [
        ("/", ("x-agent-id", "a"), "200 "),
        ("/", ("x-worker", "a"), "403 identity_unclaimed"),
        ("/workers", ("x-worker", "a"), "200 "),
        ("/workers", ("x-worker", "b"), "403 identity_mismatch"),
        ("/workers", ("x-agent-id", "a"), "403 identity_unclaimed"),
        ("/agents/a/x", ("x-agent-id", "b"), "200 "),
        ("/agents/b/x", ("x-agent-id", "a"), "403 identity_mismatch"),
        ("/open", ("x-agent-id", "b"), "200 "),
    ] {
        let request = Request::get(path).header("host", "localhost").header(header.0, header.1);
        let answer = connection.exchange(request.body(full("")).unwrap()).await.unwrap();
        assert_eq!(format!("{} {}", answer.status.as_u16(), answer.code()), expected, "{path} {header:?}");
    }
    // A header that is a claim on one route, and was not bound here, says nothing here: it does not pass. Seen failing
    // with the route's own claim alone taken out.
    let claims = |path: &str| {
        let seen = lab.upstream.only(path);
        ["x-agent-id", "x-worker"].map(|name| seen.header(name).map(str::to_owned))
    };
    assert_eq!(claims("/"), [Some("a".into()), None]);
    assert_eq!(claims("/workers"), [None, Some("a".into())]);
    assert_eq!(claims("/agents/a/x"), [None, None]);
    assert_eq!(claims("/open"), [None, None]);
}

/// What is no host is refused, whatever the upstream speaks (RFC 9112, section 3.2).
#[tokio::test]
async fn and_not_by_what_is_no_host() {
    for kind in [Kind::http(), Kind::h2c()] {
        let scheme = kind.scheme();
        let endpoint = Endpoint::start("any", kind).await;
        let routes = format!("[[route]]\nupstream = [\"{scheme}://{}\"]", endpoint.address);
        let lab = Lab::plan().routes(&routes).start().await;
        let mut connection = lab.client(&lab.root.agent("a")).h1().await;
        for (host, status) in [
            ("localhost", 200),
            ("[::1]:8443", 200),
            ("", 200),
            ("a b", 400),
            ("a/b", 400),
            ("user@a", 400),
            ("a\u{e9}", 400),
            ("a\"b", 400),
            ("a:80:90", 400),
            ("a:1:", 400),
            ("a:x]", 400),
            ("a:x", 400),
            ("a,b", 400),
        ] {
            let request = http::Request::get("/").header("host", host).header("x-agent-id", "a");
            let answer = connection.exchange(request.body(full("")).unwrap()).await.unwrap();
            // HTTP/2 has no way to say that there is no host.
            let status = if host.is_empty() && scheme == "h2c" { 400 } else { status };
            assert_eq!(answer.status, status, "{scheme} {host:?}");
        }
    }
}

/// A host that others would read as another leads nowhere. Seen failing where all before the last colon was the host.
#[tokio::test]
async fn and_not_around_a_route_that_demands_more() {
    let routes = "[[route]]\nupstream = [\"UPSTREAM\"]\ndemand = \"none\"\n\
        [[route]]\nhost = \"admin.test\"\nupstream = [\"UPSTREAM\"]\n";
    let lab = Lab::plan().routes(routes).start().await;
    let nobody = lab.client_of(None, &[&rustls::version::TLS13]);
    for (host, status) in [
        ("localhost", 200),
        ("admin.test", 401),
        ("ADMIN.test.:443", 401),
        ("admin.test:80:90", 400),
        ("admin.test:1:", 400),
        ("admin.test:x]", 400),
        ("[admin.test]", 400),
        ("admin.test@localhost", 400),
    ] {
        let request = http::Request::get("/").header("host", host).body(full("")).unwrap();
        let answer = nobody.h1().await.exchange(request).await.unwrap();
        assert_eq!(answer.status, status, "{host}");
    }
    assert_eq!(lab.upstream.seen().len(), 1);
}
