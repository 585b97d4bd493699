//! `portcullis completions` and `portcullis man`: the command line, written down for shells and for readers.

use std::io;
use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use clap::Command;
use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;

use super::Cli;
use super::DONE;
use super::REFUSED;
use super::complain;
use super::output::write_out;

/// For which shell.
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Where the pages go.
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Write a page for every command into this directory; without it, the first page is printed.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl CompletionsArgs {
    /// Prints the script, and returns the exit code.
    pub(super) fn run(&self) -> u8 {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "portcullis", &mut script);
        write_out(&script)
    }
}

impl ManArgs {
    /// Prints or writes, and returns the exit code.
    pub(super) fn run(&self) -> u8 {
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        let Some(dir) = &self.dir else {
            return match page(&command) {
                Ok(page) => write_out(page.as_bytes()),
                Err(error) => failed(&error),
            };
        };
        let written = std::fs::create_dir_all(dir).and_then(|()| write(&command, dir));
        match written {
            Ok(()) => DONE,
            Err(error) => failed(&format_args!("{}: {error}", dir.display())),
        }
    }
}

fn failed(error: &dyn std::fmt::Display) -> u8 {
    complain(&format_args!("man: {error}"));
    REFUSED
}

/// Writes the page of a command, and those of all commands below it: `portcullis-sessions-end.1`.
fn write(command: &Command, dir: &Path) -> io::Result<()> {
    std::fs::write(dir.join(Man::new(command.clone()).get_filename()), page(command)?)?;
    command.get_subcommands().filter(|below| !below.is_hide_set()).try_for_each(|below| write(below, dir))
}

fn page(command: &Command) -> io::Result<String> {
    let mut page = Vec::new();
    Man::new(command.clone()).source(concat!("portcullis ", env!("CARGO_PKG_VERSION"))).render(&mut page)?;
    Ok(with_examples(&String::from_utf8_lossy(&page)))
}

/// What stands behind the options are examples, and a command line that was filled like prose cannot be copied. What
/// follows them has sections of its own.
fn with_examples(page: &str) -> String {
    let Some((before, extra)) = page.split_once(".SH EXTRA\n") else {
        return page.to_owned();
    };
    let (examples, after) = extra.find(".SH ").map_or((extra, ""), |at| extra.split_at(at));
    let mut sections = String::new();
    let mut is_first = true;
    for line in examples.lines() {
        match (line, line.split_once(':')) {
            ("Examples:", _) if is_first => sections += ".SH EXAMPLES\n.nf\n",
            (_, Some(("Exit codes", codes))) => section(&mut sections, "EXIT STATUS", codes),
            (_, Some(("Environment", variables))) => section(&mut sections, "ENVIRONMENT", variables),
            _ => {
                sections += line;
                sections.push('\n');
            }
        }
        is_first = false;
    }
    format!("{before}{sections}.fi\n{after}")
}

fn section(sections: &mut String, name: &str, text: &str) {
    *sections += &format!(".fi\n.SH \"{name}\"\n{}\n", text.trim());
}
