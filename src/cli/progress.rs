//! How far a long command is, where a person waits for it.

use indicatif::ProgressBar;
use indicatif::ProgressDrawTarget;
use indicatif::ProgressStyle;

/// A bar on standard error, if that is a terminal.
pub(super) fn bar(length: u64, name: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:40}] {pos} of {len}, {eta} left");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ");
    ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr())
        .with_style(style)
        .with_message(name)
}

/// A bar for bytes, as many as [`ProgressBar::set_length`] will say.
pub(super) fn bytes(name: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:40}] {bytes} of {total_bytes}, {eta} left");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ");
    bar(0, name).with_style(style)
}

/// No bar.
pub(super) fn none() -> ProgressBar {
    ProgressBar::hidden()
}
