//! `portcullis run` and `portcullis check`.

use std::io;
use std::path::Path;

use super::DONE;
use super::REFUSED;
use super::USAGE;
use super::complain;
use super::signals::Signals;
use crate::app;
use crate::clock::Clock;
use crate::config::Config;
use crate::telemetry;

/// Starts, waits for the signal to end, drains.
pub(super) fn run(file: &Path) -> u8 {
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(error) => {
            complain(&error);
            return USAGE;
        }
    };
    let _log = telemetry::init_log(config.log.format);
    let running = match app::start(config, Clock::system()) {
        Ok(running) => running,
        Err(error) => {
            complain(&error);
            return if matches!(error, app::Error::Config(_)) {
                USAGE
            } else {
                REFUSED
            };
        }
    };
    let waited = wait_for_signal();
    running.stop();
    match waited {
        Ok(()) => DONE,
        Err(error) => {
            complain(&error);
            REFUSED
        }
    }
}

/// Says whether a configuration would start.
pub(super) fn check(file: &Path) -> u8 {
    let checked = Config::load(file)
        .map_err(app::Error::from)
        .and_then(|config| app::check(&config));
    match checked {
        Ok(()) => {
            println!("{}: ok", file.display());
            DONE
        }
        Err(error) => {
            complain(&error);
            USAGE
        }
    }
}

fn wait_for_signal() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        Signals::listen()?.received().await;
        Ok(())
    })
}
