//! The certificates that SNS signs with, fetched where notifications say.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use super::Error;
use super::SnsConfig;
use super::letter::Letter;
use crate::clock::Timestamp;
use crate::feed::fetch::Bounds;
use crate::feed::fetch::Fault;
use crate::feed::fetch::Fetched;
use crate::feed::fetch::Fetcher;
use crate::feed::fetch::Roots;
use crate::feed::fetch::Url;
use crate::feed::message::Reader;

/// No certificate is larger, nor takes longer; and what it is called is where it is.
const BOUNDS: Bounds = Bounds { max_bytes: 64 * 1024, timeout: Duration::from_secs(10), redirects: 0 };
/// So many addresses are remembered at which there is none.
const MAX_NONE: usize = 64;

/// Fetches what a [`Reader`] wants.
#[derive(Debug)]
pub(super) struct Certificates {
    /// `None` where signatures are not verified, or every certificate is pinned.
    fetcher: Option<Fetcher>,
    /// Where there is no certificate: what names one of these is poison.
    none: Mutex<VecDeque<String>>,
    /// In the place of Amazon's servers, for tests.
    elsewhere: Option<String>,
}

/// Why there is nothing to learn.
enum Failed {
    /// There is no certificate, and none will be.
    None(String),
    /// Nobody knows.
    Unknown(String),
}

impl Certificates {
    pub(super) fn new(config: &SnsConfig) -> Result<Self, Error> {
        let fetcher = match config.verify && config.certificates.is_empty() {
            true => Some(Fetcher::new(Roots::System, BOUNDS)),
            false => None,
        };
        let fetcher = fetcher.transpose().map_err(|reason| Error { key: "sns.verify", reason })?;
        Ok(Self { fetcher, none: Mutex::default(), elsewhere: config.elsewhere.clone() })
    }

    /// The certificate that has to be fetched before this message can be read.
    pub(super) fn wants(&self, reader: &Reader, letter: &Letter) -> Option<String> {
        self.fetcher.as_ref()?;
        reader.wants(&letter.body).filter(|url| !self.none().contains(url))
    }

    /// Has the reader learn all that these messages want.
    ///
    /// # Errors
    /// The first that cannot be had now. Where there is none at all, nobody wants it any more.
    pub(super) async fn learn(
        &self,
        reader: &Reader,
        letters: &[Letter],
        now: Timestamp,
    ) -> Result<(), String> {
        let Some(fetcher) = &self.fetcher else { return Ok(()) };
        for letter in letters {
            // There may be several envelopes; each round ends with one more that is learned, or is none.
            while let Some(at) = self.wants(reader, letter) {
                match self.fetch(fetcher, reader, &at, now).await {
                    Ok(()) => {}
                    Err(Failed::Unknown(why)) => return Err(why),
                    Err(Failed::None(why)) => {
                        tracing::warn!(url = at, why, "a notification names a certificate that there is not");
                        let mut none = self.none();
                        none.truncate(MAX_NONE - 1);
                        none.push_front(at);
                    }
                }
            }
        }
        Ok(())
    }

    async fn fetch(
        &self,
        fetcher: &Fetcher,
        reader: &Reader,
        at: &str,
        now: Timestamp,
    ) -> Result<(), Failed> {
        let place = self.elsewhere.as_deref().unwrap_or(at);
        let url = Url::parse(place).map_err(|error| Failed::None(error.to_string()))?;
        match fetcher.get(&url, None).await {
            Ok(Fetched::Body { bytes, .. }) => {
                reader.learn(at, &bytes, now).map_err(|poison| Failed::None(format!("{at}: {poison}")))
            }
            Ok(Fetched::Unchanged) => Err(Failed::Unknown(format!("{at}: unchanged, to no question"))),
            Err(error) => match &error.fault {
                Fault::Status { status, .. } if status.is_client_error() => {
                    Err(Failed::None(error.to_string()))
                }
                _ => Err(Failed::Unknown(error.to_string())),
            },
        }
    }

    fn none(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.none.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
