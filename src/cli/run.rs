//! `portcullis run` and `portcullis validate`.

use std::path::Path;

use super::DONE;
use super::REFUSED;
use super::USAGE;
use super::complain;
use super::output::Page;
use super::signals::HangUps;
use super::signals::Signals;
use crate::app;
use crate::app::StateError;
use crate::app::Supervisor;
use crate::clock::Clock;
use crate::config::Config;
use crate::revocation;
use crate::revocation::JournalError;
use crate::telemetry;
use crate::telemetry::Log;

/// Starts, waits for the signal to end, drains; a second signal, a second later or more, ends at once, and so does a thread
/// that fails.
pub(super) fn run(file: &Path) -> u8 {
    // First of all: it takes variables out of the environment, which nobody else may be reading.
    let supervisor = match Supervisor::from_environment() {
        Ok(supervisor) => supervisor,
        Err(error) => return complain_of(&error),
    };
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(error) => return complain_of(&app::Error::from(error)),
    };
    let log = match telemetry::init_log(config.log.format) {
        Ok(log) => log,
        Err(error) => return complain_of(&app::Error::Thread { thread: "log".to_owned(), error }),
    };
    match serve(supervisor, &log, config) {
        Ok(()) => DONE,
        Err(error) => complain_of(&error),
    }
}

/// Says why nothing starts, and returns the exit code.
fn complain_of(error: &app::Error) -> u8 {
    match error {
        app::Error::Config(error) => {
            complain(&format_args!("configuration {error}"));
            USAGE
        }
        // A restart makes none of these any better.
        app::Error::State(error) if !matches!(error, StateError::Read { .. }) => {
            complain(error);
            USAGE
        }
        app::Error::Revocation(revocation::Error::Open { error: journal, .. }) if is_lasting(journal) => {
            complain(error);
            USAGE
        }
        error => {
            complain(error);
            REFUSED
        }
    }
}

/// Returns whether a journal stays as bad as it is until a person does something about it.
fn is_lasting(error: &JournalError) -> bool {
    use JournalError as E;
    matches!(error, E::Missing | E::Unreadable(_) | E::Row { .. } | E::Newer(_) | E::Damaged(_))
}

fn serve(supervisor: Supervisor, log: &Log, config: Config) -> Result<(), app::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Listened for before anything starts: from the first moment on a signal drains.
        let (mut signals, mut hang_ups) = (Signals::listen()?, HangUps::listen()?);
        let running = app::start_under(supervisor, &log.lost(), config, Clock::system())?;
        loop {
            tokio::select! {
                () = signals.received() => break,
                () = hang_ups.next() => running.reopen_logs(),
                // What is left is half a gate: it would not hear of revocations, or not serve. The end of the process
                // ends every session.
                thread = running.failed() => return Err(app::Error::ThreadEnded(thread)),
            }
        }
        let stopped = tokio::task::spawn_blocking(|| running.stop());
        tokio::select! {
            _ = stopped => {}
            () = signals.received_again() => tracing::warn!("a second signal: ending without the rest of the drain"),
        }
        Ok::<_, app::Error>(())
    })?;
    // Does not wait for what is still draining.
    runtime.shutdown_background();
    Ok(())
}

/// Says whether a configuration would start.
pub(super) fn validate(file: &Path) -> u8 {
    let checked = Config::load(file).map_err(app::Error::from).and_then(|config| {
        // What would be warned of at start-up is warned of here.
        telemetry::print_warnings();
        app::check(&config)?;
        Ok(config)
    });
    match checked {
        Ok(config) => {
            note_state(&config, file);
            let mut page = Page::new();
            page.line(&format_args!("{}: ok", file.display()));
            page.print()
        }
        Err(error) => {
            complain_of(&error);
            USAGE
        }
    }
}

/// Says that `run` would not start on the state as it is. The configuration is good all the same: it may be looked at before
/// there is a state, or on another machine.
fn note_state(config: &Config, file: &Path) {
    match app::find_state(config) {
        Ok(()) => {}
        Err(StateError::Missing(_)) if config.state.ephemeral => {}
        Err(StateError::Missing(dir)) => {
            let (dir, file) = (dir.display(), file.display());
            complain(&format_args!("note: {dir}: no state yet: run `portcullis state init --config {file}`"));
        }
        Err(error) => complain(&format_args!("note: {error}")),
    }
}
