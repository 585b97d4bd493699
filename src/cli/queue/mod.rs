//! `portcullis queue`: the queue of a gate in Amazon SQS, made and taken away.

mod cloud;
mod deprovision;
mod provision;
mod wanted;

use std::io;
use std::io::BufRead as _;
use std::io::IsTerminal as _;
use std::io::Write as _;

use clap::Args;
use clap::Subcommand;

use super::REFUSED;
use super::USAGE;
use super::complain;
use super::output::Page;
use super::output::clean;
use deprovision::DeprovisionArgs;
use provision::ProvisionArgs;

/// What to do with the queue.
#[derive(Debug, Subcommand)]
pub(super) enum QueueCommand {
    /// Make what one gate needs: a queue, its dead-letter queue, and its subscription to a topic. What is there already
    /// is corrected where it differs.
    #[command(after_help = PROVISION)]
    Provision(ProvisionArgs),
    /// Take all of that away again.
    #[command(after_help = DEPROVISION)]
    Deprovision(DeprovisionArgs),
}

const PROVISION: &str = "Examples:
  portcullis queue provision --name gate-1 --region eu-west-1
  portcullis queue provision --name gate-1 --topic-arn arn:aws:sns:eu-west-1:123456789012:revocations
  portcullis queue provision --name gate-1 --endpoint http://localhost:5000 --region eu-west-1 --dry-run
What it prints is the section of the gate's configuration. Each gate has a queue of its own.
Credentials come from where the AWS command line has them: environment, profile, instance, container.
They need sqs:CreateQueue, GetQueueUrl, GetQueueAttributes and SetQueueAttributes; with a topic sns:Subscribe,
ListSubscriptionsByTopic, Get- and SetSubscriptionAttributes, Get- and SetTopicAttributes.
Exit codes: 0 done, 1 refused, 2 usage, 3 unreachable.";

const DEPROVISION: &str = "Examples:
  portcullis queue deprovision --name gate-1 --region eu-west-1
  portcullis queue deprovision --name gate-1 --region eu-west-1 --yes --force
Revocations that are still in the queue are lost to this gate; those in its dead-letter queue were never understood.
Credentials need sqs:GetQueueUrl, GetQueueAttributes and DeleteQueue; sns:ListSubscriptionsByTopic and Unsubscribe.
Exit codes: 0 done, 1 refused, 2 usage, 3 unreachable.";

/// Which queue, and where.
#[derive(Debug, Args)]
struct CloudArgs {
    /// The gate, which is the name of its queue: up to 68 letters, digits, `-` and `_`.
    #[arg(long, value_parser = name)]
    name: String,
    /// The topic that revocations are published to.
    #[arg(long, value_name = "ARN", value_parser = topic)]
    topic_arn: Option<Topic>,
    /// The AWS region; by default what the environment says.
    #[arg(long)]
    region: Option<String>,
    /// Where the API is, if not where the region's is.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl CloudArgs {
    fn dead_letter_name(&self) -> String {
        format!("{}{DEAD_LETTER}", self.name)
    }
}

/// What a queue's name ends with where its poison goes.
const DEAD_LETTER: &str = "-dead-letter";

/// A topic's name, `arn:PARTITION:sns:REGION:ACCOUNT:NAME`.
#[derive(Clone, Debug)]
struct Topic {
    arn: String,
    partition: String,
    region: String,
    account: String,
}

impl QueueCommand {
    /// Does it, and returns the exit code.
    pub(super) fn run(self) -> u8 {
        match self {
            Self::Provision(provision) => provision.run(),
            Self::Deprovision(deprovision) => deprovision.run(),
        }
    }
}

/// What is done, told line by line on standard error, and gathered.
struct Steps {
    dry_run: bool,
    told: Vec<String>,
}

impl Steps {
    fn new(args: &CloudArgs) -> Self {
        Self { dry_run: args.dry_run, told: Vec::new() }
    }

    /// Tells a step once it is done, or is left to be done: `("created", "create")`.
    fn tell(&mut self, (past, present): (&str, &str), what: &str) {
        let line = match self.dry_run {
            true => format!("would {present} {what}"),
            false => format!("{past} {what}"),
        };
        say(&line);
        self.told.push(line);
    }
}

fn say(line: &str) {
    let mut page = Page::aside();
    page.line(&line);
    page.print_aside();
}

/// Asks whether to go on; the exit code if not. Where nobody can answer, the answer is no.
fn ask(question: &str) -> Result<(), u8> {
    if !io::stdin().is_terminal() {
        complain(&"queue deprovision: nothing was changed; add --yes to go on where nobody can be asked");
        return Err(USAGE);
    }
    let _ = io::stderr().write_all(clean(&format_args!("{question} [y/N] ")).as_bytes());
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    complain(&"queue deprovision: not confirmed; nothing was changed");
    Err(REFUSED)
}

fn name(text: &str) -> Result<String, &'static str> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    // With what is appended, a queue's name is 80 characters at most.
    if (1..=68).contains(&text.len()) && text.bytes().all(fits) {
        return Ok(text.to_owned());
    }
    Err("up to 68 letters, digits, `-` and `_`")
}

fn topic(text: &str) -> Result<Topic, &'static str> {
    let parts: Vec<&str> = text.split(':').collect();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    match parts.as_slice() {
        ["arn", partition, "sns", region, account, name] => {
            let all = [partition, region, account, name];
            if all.iter().any(|part| part.is_empty() || !part.bytes().all(plain)) {
                return Err("arn:aws:sns:REGION:ACCOUNT:NAME, of a standard topic");
            }
            Ok(Topic {
                arn: text.to_owned(),
                partition: (*partition).to_owned(),
                region: (*region).to_owned(),
                account: (*account).to_owned(),
            })
        }
        _ => Err("arn:aws:sns:REGION:ACCOUNT:NAME"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_topics_are_checked_before_anything_is_called() {
        assert!(name("gate-1").is_ok() && name(&"x".repeat(68)).is_ok());
        for bad in ["", "gate 1", "gate.fifo", &"x".repeat(69)] {
            assert!(name(bad).is_err(), "{bad}");
        }
        let good = topic("arn:aws-cn:sns:cn-north-1:123456789012:revocations").unwrap();
        assert_eq!((good.region.as_str(), good.account.as_str()), ("cn-north-1", "123456789012"));
        for bad in [
            "",
            "revocations",
            "arn:aws:sqs:a:1:q",
            "arn:aws:sns:a:1:t.fifo",
            "arn:aws:sns:a:1:t:sub",
            "arn:aws:sns::1:t",
        ] {
            assert!(topic(bad).is_err(), "{bad}");
        }
    }
}
