//! One request: route, check, judge, serve, on every listener alike.

use std::rc::Rc;
use std::sync::Arc;

use http::Request;
use http::Response;
use hyper::body::Incoming;
use tokio_rustls::TlsAcceptor;

use super::Body;
use super::Connection;
use super::Dialect;
use super::Exchange;
use super::Exchanges;
use super::Limits;
use super::Mode;
use super::Modes;
use super::Peer;
use super::Peers;
use super::RequestId;
use super::Terms;
use super::Timeouts;
use super::admission::Barred;
use super::error;
use super::error::Concerned;
use super::error::Passed;
use super::error::Refusal;
use super::error::Told;
use super::exchange::Outgoing;
use super::limits::Limit;
use super::limits::ListenerLimits;
use crate::clock::Clock;
use crate::problem::Disclose;
use crate::revocation::Engine;
use crate::revocation::Feeds;
use crate::telemetry::LineSource;
use crate::telemetry::Metrics;

/// What a listener serves. A request is checked, routed, judged, served; in this order.
pub trait Handler: 'static {
    /// Where a request leads.
    type Route;

    /// True if requests may authenticate themselves here: a connection whose certificate is denied or does not verify
    /// then lives on for them.
    const TAKES_TOKENS: bool = false;

    /// Returns whether a request is judged by a token or secret of its own alone. [`Handler::serve`] must then give its
    /// connection's certificate no say: nothing has checked it.
    fn authenticates_itself(&self, _: &Request<Incoming>) -> bool {
        false
    }

    /// Finds where a request leads.
    fn route(&self, request: &Request<Incoming>) -> Result<Self::Route, Refusal>;

    /// What becomes of refusals about identity there.
    fn terms(&self, _: &Self::Route) -> Terms {
        Terms::default()
    }

    /// What the log calls the place where a request leads; `None` where it has no name.
    fn name<'a>(&self, _: &'a Self::Route) -> Option<&'a Rc<str>> {
        None
    }

    /// Whether its client may go there.
    fn judge(
        &self,
        request: &Request<Incoming>,
        connection: &Connection,
        route: &Self::Route,
    ) -> Result<(), Refusal>;

    /// Takes note of a refusal, before it is answered.
    fn refused(&self, _: &Refusal, _: &Connection, _: RequestId) -> impl Future<Output = ()> {
        std::future::ready(())
    }

    /// Answers it.
    fn serve(
        &self,
        request: Request<Incoming>,
        exchange: &Exchange,
        connection: &Rc<Connection>,
        route: Self::Route,
    ) -> impl Future<Output = Result<Response<Body>, Refusal>>;
}

/// What the connections of one listener have in common.
pub struct Context<H> {
    /// What the listener is called: `gate` or `admin`.
    pub listener: &'static str,
    /// TLS.
    pub acceptor: TlsAcceptor,
    /// Who clients are.
    pub peers: Arc<Peers>,
    /// Whether they are revoked.
    pub engine: Arc<Engine>,
    /// Whether that is known to be fresh; `None` of a listener that serves nonetheless.
    pub feeds: Option<Arc<Feeds>>,
    /// What time it is.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Metrics,
    /// Whether refusals are enforced, on its routes taken together.
    pub modes: Modes,
    /// How much of a refusal its client is told.
    pub disclose: Disclose,
    /// How long it waits for what.
    pub timeouts: Timeouts,
    /// How much it takes in.
    pub limits: Limits,
    /// Its limits, as operators see them reached.
    pub reached: Arc<ListenerLimits>,
    /// What is told of its requests.
    pub exchanges: Rc<Exchanges>,
    /// What answers.
    pub handler: H,
}

impl<H: Handler> Context<H> {
    /// One request: route, check, judge, serve. A refusal about identity only passes on an advisory route, and while
    /// break-glass lasts. That of the check comes first: who is revoked is told so, wherever the request leads.
    #[expect(clippy::manual_async_fn, reason = "an async fn keeps each of its arguments twice in its future")]
    pub(super) fn answer(
        &self,
        connection: &Rc<Connection>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Outgoing>> {
        async move {
            let exchange = self.exchanges.begin(&request, connection);
            if !connection.asked.replace(true) {
                connection.first.notify_one();
            }
            let mut clean = !self.handler.authenticates_itself(&request);
            let route = self.handler.route(&request);
            let terms = route.as_ref().map_or_else(|_| self.unrouted(), |route| self.handler.terms(route));
            if let Some(name) = route.as_ref().ok().and_then(|route| self.handler.name(route)) {
                exchange.is_for(name);
            }
            if clean && let Err(refusal) = self.check(connection, terms.mode) {
                clean = false;
                if let Some(response) = self.refuse(&refusal, connection, &exchange, terms) {
                    if self.ends_connection(&refusal) {
                        connection.state.close.notify_one();
                    }
                    self.handler.refused(&refusal, connection, exchange.id()).await;
                    return exchange.answer(response);
                }
            }
            let within = connection.account.as_ref().map_or(Ok(()), |account| account.request());
            if let Err(refusal) = within {
                let response = self.respond(&refusal, connection, &exchange, terms);
                return exchange.answer(response);
            }
            let route = match route {
                Ok(route) => route,
                Err(refusal) => {
                    let response = self.respond(&refusal, connection, &exchange, terms);
                    return exchange.answer(response);
                }
            };
            // Nobody is there to be judged, where the connection was let in although nobody was verified.
            if connection.barred.is_none()
                && let Err(refusal) = self.handler.judge(&request, connection, &route)
            {
                clean = false;
                if let Some(response) = self.refuse(&refusal, connection, &exchange, terms) {
                    return exchange.answer(response);
                }
            }
            if let (Some(peer), true) = (&connection.peer, clean) {
                peer.success.inc();
            }
            let flight = connection.begin(terms.mode);
            let response = match self.handler.serve(request, &exchange, connection, route).await {
                Ok(mut response) => {
                    response.body_mut().count(flight);
                    response
                }
                Err(refusal) => self.respond(&refusal, connection, &exchange, terms),
            };
            exchange.answer(response)
        }
    }

    /// What becomes of refusals about identity where no route leads.
    fn unrouted(&self) -> Terms {
        let mode = if self.modes == Modes::Advisory { Mode::Advisory } else { Mode::Strict };
        Terms { mode, ..Terms::default() }
    }

    /// Whether the credential of a connection stands, right now.
    fn check(&self, connection: &Connection, mode: Mode) -> Result<(), Refusal> {
        match &connection.barred {
            Some(Barred::Expired) => return Err(Refusal::Expired),
            Some(Barred::Untrusted(error)) => return Err(Refusal::Untrusted(error.clone())),
            Some(Barred::Denied(denial)) => return Err(Refusal::Denied(denial.clone())),
            Some(Barred::Crowded) => return Err(Refusal::TooManyConnections),
            None => {}
        }
        let Some(peer) = &connection.peer else {
            return Ok(());
        };
        if connection.served.replace(true) {
            self.peers.count_reuse();
        }
        let now = self.clock.now();
        if !peer.is_valid(now) {
            return Err(Refusal::Expired);
        }
        if !connection.armed.get() && mode == Mode::Strict {
            self.arm(connection, peer).map_err(Refusal::Denied)?;
        }
        let verdict = match (&*connection.guard.borrow(), self.modes, connection.armed.get()) {
            (Some(guard), Modes::Strict | Modes::Mixed, true) => self.engine.check(guard.session()),
            _ => self.engine.judge(&peer.credential),
        };
        verdict.map_err(Refusal::Denied)?;
        // After the verdict: what is known to be revoked is told so, however old the rest may be.
        self.feeds.as_ref().map_or(Ok(()), |feeds| feeds.check(&peer.credential, now).map_err(Refusal::Stale))
    }

    /// The answer to a refusal about identity; `None` where the request passes all the same.
    fn refuse(
        &self,
        refusal: &Refusal,
        connection: &Connection,
        exchange: &Exchange,
        terms: Terms,
    ) -> Option<Response<Body>> {
        if !self.passes(refusal, connection, terms.mode) {
            return Some(self.respond(refusal, connection, exchange, terms));
        }
        self.report(refusal, connection, (exchange, terms), Passed::Yes);
        None
    }

    fn passes(&self, refusal: &Refusal, connection: &Connection, mode: Mode) -> bool {
        if mode == Mode::Advisory || !refusal.is_about_identity() {
            return refusal.is_about_identity();
        }
        match (&*connection.guard.borrow(), refusal) {
            (None, _) => false,
            // The end of break-glass finds by itself who is denied.
            (Some(guard), Refusal::Denied(_)) if connection.is_armed() => self.engine.spares(guard.session()),
            (Some(guard), _) => self.engine.tolerate(guard.session()),
        }
    }

    /// Whether nothing more can be said on a connection.
    fn ends_connection(&self, refusal: &Refusal) -> bool {
        let crowded = matches!(refusal, Refusal::TooManyConnections);
        crowded || refusal.ends_connection() && self.modes != Modes::Mixed
    }

    fn respond(
        &self,
        refusal: &Refusal,
        connection: &Connection,
        exchange: &Exchange,
        terms: Terms,
    ) -> Response<Body> {
        self.report(refusal, connection, (exchange, terms), Passed::No);
        let told = Told { id: exchange.id(), disclose: self.disclose, dialect: terms.dialect };
        let closes = self.ends_connection(refusal);
        // Who reads a runbook's refusals expects to hear of a suspension before a revocation.
        match (terms.dialect, refusal, &connection.peer) {
            (Dialect::Runbook, Refusal::Denied(_), Some(peer)) => {
                match self.engine.suspension(&peer.credential) {
                    Some(denial) => error::respond(&Refusal::Denied(denial), told, closes),
                    None => error::respond(refusal, told, closes),
                }
            }
            _ => error::respond(refusal, told, closes),
        }
    }

    fn report(
        &self,
        refusal: &Refusal,
        connection: &Connection,
        (exchange, terms): (&Exchange, Terms),
        passed: Passed,
    ) {
        Limit::of_refusal(refusal).into_iter().for_each(|limit| self.reached.reached(limit));
        exchange.refused(refusal.status().1, passed == Passed::Yes);
        let (peer, presented) = (connection.peer.as_deref(), connection.presented.as_deref());
        let (address, dialect) = (connection.address(), terms.dialect);
        let source = LineSource::of(peer.map_or("", Peer::principal), address.ip());
        let unsaid = self.peers.admits_line(refusal.line(), source);
        let concerned = Concerned { exchange, peer, presented, address, passed, dialect, unsaid };
        error::report(refusal, &concerned, &self.metrics);
    }
}
