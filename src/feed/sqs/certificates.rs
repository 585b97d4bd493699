//! The certificates that SNS signs with, fetched where notifications say.

use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use super::Error;
use super::SnsConfig;
use super::letter::Letter;
use crate::clock::Timestamp;
use crate::feed::fetch::Bounds;
use crate::feed::fetch::Fetched;
use crate::feed::fetch::Fetcher;
use crate::feed::fetch::Roots;
use crate::feed::fetch::Url;
use crate::feed::message::Reader;

/// No certificate is larger, nor takes longer; and what it is called is where it is.
const BOUNDS: Bounds = Bounds { max_bytes: 64 * 1024, timeout: Duration::from_secs(10), redirects: 0 };
/// How long one that could not be had is not asked for again: what cannot be verified without it comes again meanwhile.
const REST: Duration = Duration::from_secs(20);
/// So many of those are remembered.
const MAX_MISSED: usize = 16;
/// More envelopes in each other are not opened.
const MAX_EACH: usize = 3;

/// Fetches what a [`Reader`] wants.
#[derive(Debug)]
pub(super) struct Certificates {
    /// `None` where signatures are not verified, or every certificate is pinned.
    fetcher: Option<Fetcher>,
    missed: Mutex<Vec<(String, Instant)>>,
}

impl Certificates {
    pub(super) fn new(config: &SnsConfig) -> Result<Self, Error> {
        let fetcher = match config.verify && config.certificates.is_empty() {
            true => Some(Fetcher::new(Roots::System, BOUNDS)),
            false => None,
        };
        let fetcher = fetcher.transpose().map_err(|reason| Error { key: "sns.verify", reason })?;
        Ok(Self { fetcher, missed: Mutex::default() })
    }

    /// Has the reader learn what these messages want. What cannot be had is returned, in words, once in a while.
    pub(super) async fn learn(&self, reader: &Reader, letters: &[Letter], now: Timestamp) -> Vec<String> {
        let Some(fetcher) = &self.fetcher else { return Vec::new() };
        let mut faults = Vec::new();
        for letter in letters {
            for _ in 0..MAX_EACH {
                let Some(url) = reader.wants(&letter.body).filter(|url| !self.rests(url)) else { break };
                if let Err(why) = fetch(fetcher, reader, &url, now).await {
                    self.rest(url);
                    faults.push(why);
                    break;
                }
            }
        }
        faults
    }

    fn rests(&self, url: &str) -> bool {
        let mut missed = self.missed();
        missed.retain(|(_, at)| at.elapsed() < REST);
        missed.iter().any(|(other, _)| other == url)
    }

    fn rest(&self, url: String) {
        let mut missed = self.missed();
        missed.truncate(MAX_MISSED - 1);
        missed.insert(0, (url, Instant::now()));
    }

    fn missed(&self) -> MutexGuard<'_, Vec<(String, Instant)>> {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn fetch(fetcher: &Fetcher, reader: &Reader, at: &str, now: Timestamp) -> Result<(), String> {
    let url = Url::parse(at).map_err(|error| error.to_string())?;
    match fetcher.get(&url, None).await.map_err(|error| error.to_string())? {
        Fetched::Body { bytes, .. } => {
            reader.learn(at, &bytes, now).map_err(|poison| format!("{at}: {poison}"))
        }
        Fetched::Unchanged => Err(format!("{at}: unchanged, to no question")),
    }
}
