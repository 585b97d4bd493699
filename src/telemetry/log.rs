//! The log: JSON lines for machines, plain lines for a terminal; on standard error.

use std::backtrace::Backtrace;
use std::backtrace::BacktraceStatus;
use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::panic::PanicHookInfo;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::sync_channel;
use std::time::Duration;
use std::time::Instant;

use serde::Deserialize;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::limiter::LineKind;
use super::limiter::LineLimiter;
use super::limiter::LineSource;
use super::log_queue::LogQueue;
use super::log_queue::LostLines;

/// The variable that holds filter directives.
const FILTER: &str = "PORTCULLIS_LOG";
/// The filter without it.
const USUAL: &str = "info";
/// The targets of this program.
const OWN: &str = "portcullis";
/// The level of libraries that no directive names: their other lines are mostly about the frames of clients.
const LIBRARIES: &str = "error";
/// Likewise, where the level is `off`.
const OFF: &str = "off";
/// How long the end of the process waits for the reader of the log.
const LAST: Duration = Duration::from_secs(2);
const PANIC: LineKind = LineKind::error("a thread panicked", "panic");

/// The longest name that a line has, characters; paths too.
pub const LONGEST_NAME: usize = 256;
/// The longest reason in words, characters.
pub const LONGEST_REASON: usize = 512;

/// As much of a text as a line has of it: so many characters, and an ellipsis where there are more.
pub fn cut(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most).filter(|_| text.len() > most) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()).into(),
        None => text.into(),
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Plain on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Plain,
}

/// The running log. Writes the lines that wait when it is dropped, if their reader takes them within two seconds.
#[must_use = "dropped, it takes the log with it"]
pub struct Log {
    queue: LogQueue,
    lost: LostLines,
    panics: Arc<PanicLines>,
    /// Says nothing, and hangs up when all is written.
    done: Receiver<()>,
}

impl Log {
    /// The lines that were lost so far, and will be.
    pub fn lost(&self) -> LostLines {
        self.lost.clone()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // A later panic is told on standard error again. The hook cannot be taken during one.
        if !std::thread::panicking() {
            drop(std::panic::take_hook());
        }
        let rest = self.panics.limiter.rest(self.panics.began.elapsed());
        rest.iter().for_each(|left_out| left_out.log());
        self.queue.end();
        // A reader that hangs does not keep the process.
        let _ = self.done.recv_timeout(LAST);
    }
}

/// Starts logging to standard error, panics included. `PORTCULLIS_LOG` holds filter directives (default `info`). A
/// directive without a target is about this program; libraries log errors only, unless a directive names them.
///
/// Lines are written by a thread of their own: a reader of the log that hangs must not hang the gate.
///
/// # Errors
/// Its thread cannot be started.
pub fn init(format: Format) -> io::Result<Log> {
    let lost = LostLines::new().map_err(io::Error::other)?;
    let queue = LogQueue::new(lost.clone());
    // A handle of its own: with that of the standard library, a reader that hangs would stop each other writer.
    let file = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let (ended, done) = sync_channel(0);
    let written = queue.clone();
    std::thread::Builder::new().name("log".into()).spawn(move || {
        written.write_to(file);
        drop(ended);
    })?;
    let wanted = std::env::var_os(FILTER).unwrap_or_default();
    let filter = filter(&wanted.to_string_lossy());
    let fault = filter.as_ref().err().cloned();
    install(
        format,
        filter.unwrap_or_else(|_| EnvFilter::new(format!("{LIBRARIES},{OWN}={USUAL}"))),
        queue.clone(),
    );
    if let Some(error) = fault {
        let value = cut(&wanted.to_string_lossy(), LONGEST_NAME).into_owned();
        tracing::warn!(
            value,
            error,
            "{FILTER} is not a valid filter; using `{USUAL}`. Example: {USUAL},h2=debug"
        );
    }
    let panics = Arc::new(PanicLines { limiter: LineLimiter::default(), began: Instant::now() });
    let hook = Arc::clone(&panics);
    std::panic::set_hook(Box::new(move |panic| hook.log(panic)));
    Ok(Log { queue, lost, panics, done })
}

fn install(format: Format, filter: EnvFilter, queue: LogQueue) {
    let terminal = io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(queue).with_ansi(terminal);
    // Started twice, as by a test, the first one stays.
    let _ = match (format, terminal) {
        (Format::Json, _) | (Format::Auto, false) => {
            builder.json().flatten_event(true).with_current_span(false).finish().try_init()
        }
        _ => builder.with_target(false).finish().try_init(),
    };
}

/// The filter that somebody wants; why it is none.
fn filter(wanted: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(directives(wanted)?).map_err(|error| error.to_string())
}

/// The directives that count: a level alone is about this program, which has its usual one where none says otherwise, and
/// libraries that are not named have their own. The error names a directive that is none.
fn directives(wanted: &str) -> Result<String, String> {
    let wanted = wanted.split(',').map(str::trim).filter(|directive| !directive.is_empty());
    let mut libraries = LIBRARIES;
    let (mut all, mut says_own) = (Vec::new(), false);
    for directive in wanted {
        // What is no level and has none is a level that is misspelt, unless it names a part of this program.
        match directive.parse::<LevelFilter>() {
            Ok(level) => {
                says_own = true;
                libraries = if level == LevelFilter::OFF { OFF } else { libraries };
                all.push(format!("{OWN}={level}"));
            }
            Err(_) if is_own(directive) || directive.contains('=') => {
                says_own |= is_own(directive);
                all.push(directive.to_owned());
            }
            Err(_) => {
                let levels = "off, error, warn, info, debug, trace";
                return Err(format!("`{directive}` is neither a level ({levels}) nor TARGET=LEVEL"));
            }
        }
    }
    let own = (!says_own).then(|| format!("{OWN}={USUAL}"));
    Ok(std::iter::once(libraries.to_owned()).chain(own).chain(all).collect::<Vec<_>>().join(","))
}

/// Whether a directive is about this program, or a part of it.
fn is_own(directive: &str) -> bool {
    let rest = directive.strip_prefix(OWN);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::") || rest.starts_with(['=', '[']))
}

/// Writes panics to the log: on standard error they would wait for its reader, and be as many as a client likes.
struct PanicLines {
    limiter: LineLimiter,
    began: Instant,
}

impl PanicLines {
    fn log(&self, panic: &PanicHookInfo<'_>) {
        let Some(unsaid) = self.limiter.admit(PANIC, LineSource::Unknown, self.began.elapsed()) else {
            return;
        };
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or_default();
        let place = panic.location().map(tracing::field::display);
        let reason = cut(panic.payload_as_str().unwrap_or_default(), LONGEST_REASON);
        let backtrace = Backtrace::capture();
        let backtrace = Some(&backtrace).filter(|it| it.status() == BacktraceStatus::Captured);
        let backtrace = backtrace.map(tracing::field::display);
        tracing::error!(thread, place, reason = &*reason, backtrace, unsaid, "a thread panicked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen failing with levels that are about every target: `h2` logs a line for each frame.
    #[test]
    fn libraries_log_errors_unless_they_are_named() {
        for (wanted, counts) in [
            ("info", "error,portcullis=info"),
            ("", "error,portcullis=info"),
            (" , ", "error,portcullis=info"),
            ("h2=debug", "error,portcullis=info,h2=debug"),
            ("portcullis_x=debug", "error,portcullis=info,portcullis_x=debug"),
            ("portcullis::app", "error,portcullis::app"),
            ("off", "off,portcullis=off"),
            ("DEBUG, h2=trace", "error,portcullis=debug,h2=trace"),
            ("error,portcullis::app=info", "error,portcullis=error,portcullis::app=info"),
        ] {
            assert_eq!(directives(wanted).as_deref(), Ok(counts), "{wanted}");
            assert!(filter(wanted).is_ok(), "{wanted}");
        }
        assert!(filter("info,=,").is_err());
    }

    /// Seen failing with a misspelt level that is taken for a target: the log had errors of libraries alone.
    #[test]
    fn a_level_that_is_misspelt_is_named() {
        for wanted in ["warning", "nonsense", "info,verbose", "h2"] {
            let error = filter(wanted).err().unwrap_or_default();
            let named = wanted.rsplit(',').next().unwrap();
            assert!(error.starts_with(&format!("`{named}` is neither a level")), "{wanted}: {error}");
        }
        assert!(filter("portcullis=loud").is_err());
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(
            [cut("", 2), cut("ab", 2), cut("abc", 2), cut("äöü", 2), cut("äö", 2)],
            ["", "ab", "ab…", "äö…", "äö"]
        );
    }
}
