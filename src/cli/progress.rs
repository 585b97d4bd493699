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

/// No bar.
pub(super) fn none() -> ProgressBar {
    ProgressBar::hidden()
}
