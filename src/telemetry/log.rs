//! The log: JSON lines for machines, plain lines for a terminal; on standard error.

use std::io::IsTerminal as _;

use serde::Deserialize;
use tracing_appender::non_blocking::NonBlockingBuilder;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

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

/// Writes what is still in hand when it is dropped.
#[must_use = "dropped, it takes the log with it"]
pub struct Log {
    _worker: WorkerGuard,
}

/// Starts logging to standard error; `PORTCULLIS_LOG` holds filter directives (default `info`).
///
/// Lines are written by a thread of their own: a reader of the log that hangs must not hang the gate. If it hangs for
/// over a hundred thousand lines, further ones are lost.
pub fn init(format: Format) -> Log {
    let filter = EnvFilter::try_from_env("PORTCULLIS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = std::io::stderr().is_terminal();
    let (writer, worker) = NonBlockingBuilder::default().thread_name("log").finish(std::io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(terminal);
    // Started twice, as by a test, the first one stays.
    let _ = match (format, terminal) {
        (Format::Json, _) | (Format::Auto, false) => {
            builder.json().flatten_event(true).with_current_span(false).finish().try_init()
        }
        _ => builder.with_target(false).finish().try_init(),
    };
    Log { _worker: worker }
}
