//! The warnings of a command, on standard error: `portcullis: warning: MESSAGE (NAME: VALUE)`.

use std::fmt;
use std::fmt::Write as _;
use std::io;

use tracing::Event;
use tracing::Subscriber;
use tracing::field::Field;
use tracing::field::Visit;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::FormatEvent;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Prints what is logged from now on as warnings of a command that ends soon: no filter and no format changes them.
pub fn print() {
    let builder = tracing_subscriber::fmt().with_max_level(LevelFilter::WARN).with_writer(io::stderr);
    // Started twice, as by a test, the first one stays.
    let _ = builder.with_ansi(false).event_format(Line).finish().try_init();
}

struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut told = Told::default();
        event.record(&mut told);
        let Told { message, fields } = told;
        let fields = if fields.is_empty() { fields } else { format!(" ({fields})") };
        // What comes from a file must not reach a terminal as control characters.
        let text = format!("{message}{fields}").replace(|c: char| c.is_control(), " ");
        writeln!(line, "portcullis: warning: {text}")
    }
}

/// What an event says.
#[derive(Default)]
struct Told {
    message: String,
    fields: String,
}

impl Told {
    fn note(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let Self { message, fields } = self;
        let separator = if fields.is_empty() { "" } else { ", " };
        // Neither can fail: both are in memory.
        let _ = match field.name() {
            "message" => write!(message, "{value}"),
            name => write!(fields, "{separator}{name}: {value}"),
        };
    }
}

impl Visit for Told {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.note(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.note(field, format_args!("{value:?}"));
    }
}
