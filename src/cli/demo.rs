//! `portcullis demo`: the point of it all, shown live.

use std::fmt::Display;
use std::io;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::DONE;
use super::REFUSED;
use super::complain;
use super::output::is_coloured;
use super::signals::Signals;
use crate::clock::Clock;
use crate::rig::demo::Act;
use crate::rig::demo::BYSTANDER;
use crate::rig::demo::DemoError;
use crate::rig::demo::VICTIM;
use crate::rig::sighting::Resumption;
use crate::rig::sighting::Sighting;
use crate::rig::sighting::words;
use crate::rig::stage::Stage;
use crate::rig::stage::principal;
use crate::telemetry;
use crate::telemetry::LogFormat;

/// The agent that is left for the user to revoke.
const SPARE: &str = "carol";

/// How the demonstration goes.
#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// End after the show; exit code 0 only if everything was seen.
    #[arg(long)]
    once: bool,
    /// Print one JSON object and nothing else; implies --once.
    #[arg(long)]
    json: bool,
}

impl DemoArgs {
    /// Sets the stage, shows, waits for the end, cleans up, and returns the exit code.
    pub(super) fn run(self) -> u8 {
        // The demonstration tells its own story; the gate's log is for those who ask for it.
        let wanted = std::env::var_os("PORTCULLIS_LOG").is_some();
        let log = wanted.then(|| telemetry::init_log(LogFormat::Auto)).transpose();
        match log.map_err(anyhow::Error::from).and_then(|_log| self.perform()) {
            Ok(missing) if missing.is_empty() => DONE,
            Ok(missing) => {
                for what in missing {
                    complain(&format_args!("demo: not seen as it should be: {what}"));
                }
                REFUSED
            }
            Err(error) => {
                complain(&format_args!("demo: {error}"));
                REFUSED
            }
        }
    }

    /// What should have been seen and was not.
    fn perform(&self) -> anyhow::Result<Vec<String>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // From here on a signal ends the show, and what it leaves in the file system is cleaned up.
        let mut signals = {
            let _context = runtime.enter();
            Signals::listen()?
        };
        let stage = Stage::set(&Clock::system(), &[VICTIM, BYSTANDER, SPARE])?;
        let story = Story::new(self.json);
        let shown = runtime.block_on(async {
            tokio::select! {
                biased;
                () = signals.received() => None,
                shown = self.show(&stage, &story) => Some(shown),
            }
        });
        if matches!(shown, Some(Ok(_))) && !self.once && !self.json {
            story.invite(&stage);
            runtime.block_on(signals.received());
        }
        stage.strike()?;
        Ok(shown.unwrap_or_else(|| Ok(vec!["all of it, for it was interrupted".into()]))?)
    }

    async fn show(&self, stage: &Stage, story: &Story) -> Result<Vec<String>, DemoError> {
        story.open(stage);
        let act = Act::begin(stage).await?;
        story.at_work(act.served());
        let sighting = act.revoke().await?;
        match self.json {
            true => story.json(&sighting.to_json()),
            false => story.seen(&sighting),
        }
        Ok(sighting.missing())
    }
}

/// What is told on standard output. Where nobody reads it any more, nothing is told, and the show goes on.
struct Story {
    mute: bool,
    colour: bool,
}

impl Story {
    fn new(mute: bool) -> Self {
        Self { mute, colour: is_coloured(&io::stdout()) }
    }

    fn open(&self, stage: &Stage) {
        let directory = stage.directory().display();
        self.tell(&format_args!(
            "{} a throwaway PKI, a gate and a sample upstream",
            self.strong("portcullis demo:")
        ));
        self.row("gate", &format_args!("https://{}", stage.gate()));
        self.row("admin", &format_args!("https://{}", stage.admin()));
        if let Some(metrics) = stage.metrics() {
            self.row("metrics", &format_args!("http://{metrics}/metrics"));
        }
        self.row("upstream", &format_args!("http://{}", stage.upstream().address()));
        self.row("files", &format_args!("{directory} (removed at the end)"));
        self.tell(&format_args!(
            "\nTwo agents work, each over HTTP/1.1, HTTP/2 and a WebSocket, a request every 2 ms or so. One of them\n\
             is in the middle of an upload."
        ));
    }

    fn at_work(&self, (victim, bystander): (u64, u64)) {
        self.row(VICTIM, &format_args!("{victim} requests served"));
        self.row(BYSTANDER, &format_args!("{bystander} requests served"));
        self.tell(&format_args!(
            "\n{} is revoked. Times are since the call was sent.",
            self.strong(&principal(VICTIM))
        ));
    }

    fn seen(&self, sighting: &Sighting) {
        let Sighting {
            sessions_ended: ended, served_after_answer: served, tried_after_answer: tried, ..
        } = sighting;
        for end in &sighting.ends {
            let told = match &end.seen {
                Some((after, how)) => format!("{}  {}", span(*after), words(how)),
                None => "neither refused nor cut".into(),
            };
            self.judged(end.seen.is_some(), VICTIM, end.via.name(), &told);
        }
        let answered = span(sighting.answered);
        let told = format_args!("{answered}  {ended} sessions ended, written to disk");
        self.judged(true, "admin", "answer", &told);
        let told = format_args!("{served} of {tried} tries served");
        self.judged(*served == 0 && *tried > 0, VICTIM, "from then on", &told);
        let (fine, told) = match &sighting.resumed {
            Resumption::Refused => (true, "resumed with a ticket of before, and refused"),
            Resumption::Other(what) => (false, what.as_str()),
        };
        self.judged(fine, VICTIM, "TLS session", &told);
        if let Some(upload) = &sighting.upload {
            self.judged(upload.fault().is_none(), VICTIM, "upload", &upload.words());
        }
        let (requests, errors) = (sighting.bystander_requests, sighting.bystander_errors.len());
        let fine = errors == 0 && sighting.bystander_idle.is_empty();
        let told = format_args!("{requests} requests served, {errors} lost");
        self.judged(fine, BYSTANDER, "all along", &told);
    }

    fn json(&self, document: &Value) {
        // Whoever closed the pipe does not want it.
        let _ = writeln!(io::stdout(), "{document}");
    }

    fn invite(&self, stage: &Stage) {
        let (ca, admin, own) = (stage.ca(), stage.admin_files(), stage.agent_files(SPARE));
        let (gate, server) = (stage.gate(), stage.admin());
        let (ca, cert, key) = (shell(&ca), shell(&own.certificate), shell(&own.key));
        let curl = format!("curl --cacert {ca} --cert {cert} --key {key} -H 'x-agent-id: {SPARE}'");
        let portcullis = std::env::current_exe().map_or_else(|_| "portcullis".into(), |path| shell(&path));
        let target = principal(SPARE);
        let (cert, key) = (shell(&admin.certificate), shell(&admin.key));
        self.tell(&format_args!("\n{} {SPARE} is not revoked yet.\n", self.strong("Now you:")));
        self.tell(&format_args!("{curl} https://{gate}/hello\n"));
        self.tell(&"# in a second terminal: one connection, two requests a second");
        self.tell(&format_args!("{curl} --no-progress-meter --rate 2/s 'https://{gate}/[1-1000]'\n"));
        self.tell(&format_args!(
            "{portcullis} revoke --level principal --target {target} --reason 'my turn' \\\n    \
             --server https://{server} --cacert {ca} --client-cert {cert} --client-key {key}\n"
        ));
        self.tell(&"Ctrl-C ends it.");
    }

    fn judged(&self, fine: bool, who: &str, what: &str, told: &dyn Display) {
        let mark = match fine {
            true => self.painted("32", "seen    "),
            false => self.painted("31", "NOT SEEN"),
        };
        self.tell(&format_args!("  {mark}  {who:6} {what:13} {told}"));
    }

    fn row(&self, who: &str, told: &dyn Display) {
        self.tell(&format_args!("  {who:9} {told}"));
    }

    fn tell(&self, line: &dyn Display) {
        if !self.mute {
            let _ = writeln!(io::stdout(), "{line}");
        }
    }

    fn strong(&self, text: &str) -> String {
        self.painted("1", text)
    }

    fn painted(&self, code: &str, text: &str) -> String {
        match self.colour {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

/// In milliseconds, as far as they can be told apart.
fn span(duration: Duration) -> String {
    format!("{:6.2} ms", duration.as_secs_f64() * 1000.0)
}

/// A path as a shell reads it.
fn shell(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_survives_a_shell() {
        assert_eq!(shell(Path::new("/tmp/demo-Ab1/ca.pem")), "/tmp/demo-Ab1/ca.pem");
        assert_eq!(shell(Path::new("/tmp/my demo/ca")), "'/tmp/my demo/ca'");
        assert_eq!(shell(Path::new("/tmp/it's")), r"'/tmp/it'\''s'");
    }
}
