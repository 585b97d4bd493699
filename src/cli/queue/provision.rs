//! `portcullis queue provision`.

use std::fmt::Write as _;

use clap::Args;
use serde_json::json;

use super::CloudArgs;
use super::Steps;
use super::Topic;
use super::cloud::Cloud;
use super::cloud::Failure;
use super::cloud::Queue;
use super::cloud::SIGNATURE_VERSION;
use super::wanted;
use super::wanted::Attributes;
use crate::cli::complain;
use crate::cli::output::print_document;
use crate::cli::output::write_out;
use crate::cli::server::talk;

/// Which queue, and how.
#[derive(Debug, Args)]
pub(in crate::cli) struct ProvisionArgs {
    #[command(flatten)]
    cloud: CloudArgs,
    /// Deliver without SNS's envelope. Its signature is in the envelope, and cannot be verified then.
    #[arg(long, requires = "topic_arn")]
    raw: bool,
}

/// What there is in the end; in a dry run, as far as it is there already.
struct Provisioned {
    steps: Steps,
    region: String,
    dead_letter: Option<Queue>,
    queue: Option<Queue>,
    subscription: Option<String>,
}

impl ProvisionArgs {
    pub(super) fn run(&self) -> u8 {
        talk(async {
            match self.provision().await {
                Ok(provisioned) => self.print(&provisioned),
                Err(failure) => {
                    complain(&format_args!("queue provision: {failure}"));
                    failure.code
                }
            }
        })
    }

    async fn provision(&self) -> Result<Provisioned, Failure> {
        let args = &self.cloud;
        let (cloud, mut steps) = (Cloud::open(args).await?, Steps::new(args));
        let dead_letter = ensure(&cloud, &mut steps, &args.dead_letter_name(), wanted::dead_letter()).await?;
        let dead_letter_arn = dead_letter.as_ref().map(|queue| queue.arn.as_str()).unwrap_or_default();
        let wanted = wanted::queue(dead_letter_arn);
        let queue = ensure(&cloud, &mut steps, &args.name, wanted).await?;
        let mut subscription = None;
        if let Some(topic) = &args.topic_arn {
            if let Some(queue) = &queue {
                correct(&cloud, &mut steps, (&args.name, queue), wanted::policy(&queue.arn, &topic.arn))
                    .await?;
            }
            subscription = self.subscribe(&cloud, &mut steps, topic, queue.as_ref()).await?;
            if !self.raw {
                sign(&cloud, &mut steps, topic).await?;
            }
        }
        Ok(Provisioned { steps, region: cloud.region, dead_letter, queue, subscription })
    }

    /// Subscribes the queue, with the envelope or without.
    async fn subscribe(
        &self,
        cloud: &Cloud,
        steps: &mut Steps,
        topic: &Topic,
        queue: Option<&Queue>,
    ) -> Result<Option<String>, Failure> {
        let (raw, how) = if self.raw { ("true", "without") } else { ("false", "with") };
        let what = format!("queue {} to {}, {how} its envelope", self.cloud.name, topic.arn);
        let found = match queue {
            Some(queue) => cloud.subscription(&topic.arn, &queue.arn).await?,
            None => None,
        };
        match (found, queue) {
            (Some(found), _) if !found.starts_with("arn:") => {
                complain(&format_args!("the subscription to {} waits to be confirmed there", topic.arn));
                Ok(None)
            }
            (Some(found), _) => {
                if cloud.is_raw(&found).await? != raw {
                    if !steps.dry_run {
                        cloud.set_raw(&found, raw).await?;
                    }
                    let what = format!("the subscription to {}: it delivers {how} its envelope", topic.arn);
                    steps.tell(("corrected", "correct"), &what);
                }
                Ok(Some(found))
            }
            (None, Some(queue)) if !steps.dry_run => {
                let made = cloud.subscribe(&topic.arn, &queue.arn, raw).await?;
                steps.tell(("subscribed", "subscribe"), &what);
                Ok(Some(made))
            }
            (None, _) => {
                steps.tell(("subscribed", "subscribe"), &what);
                Ok(None)
            }
        }
    }

    fn print(&self, made: &Provisioned) -> u8 {
        if made.steps.told.is_empty() {
            super::say(&format!("queue {}: all is as it should be", self.cloud.name));
        }
        if self.cloud.json {
            let of = |queue: &Option<Queue>| {
                queue.as_ref().map(|queue| json!({ "url": queue.url, "arn": queue.arn }))
            };
            let document = json!({
                "dry_run": self.cloud.dry_run,
                "changes": made.steps.told,
                "region": made.region,
                "queue": of(&made.queue),
                "dead_letter": of(&made.dead_letter),
                "subscription": made.subscription,
            });
            return print_document(document.to_string().as_bytes());
        }
        match &made.queue {
            Some(queue) => write_out(self.section(queue, &made.region).as_bytes()),
            None => crate::cli::DONE,
        }
    }

    /// What the gate's configuration says of it.
    fn section(&self, queue: &Queue, region: &str) -> String {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let mut text =
            format!("[feed.sqs]\nqueue_url = {}\nregion = {}\n", quoted(&queue.url), quoted(region));
        if let Some(endpoint) = &self.cloud.endpoint {
            let _ = writeln!(text, "endpoint = {}", quoted(endpoint));
        }
        if let Some(topic) = self.cloud.topic_arn.as_ref().filter(|_| !self.raw) {
            let _ = write!(text, "\n[feed.sqs.sns]\nverify = true\ntopics = [{}]\n", quoted(&topic.arn));
        }
        text
    }
}

/// A queue of this name with these attributes; `None` if a dry run finds none.
async fn ensure(
    cloud: &Cloud,
    steps: &mut Steps,
    name: &str,
    wanted: Attributes,
) -> Result<Option<Queue>, Failure> {
    match cloud.queue(name).await? {
        Some(queue) => {
            correct(cloud, steps, (name, &queue), wanted).await?;
            Ok(Some(queue))
        }
        None if steps.dry_run => {
            steps.tell(("created", "create"), &format!("queue {name}"));
            Ok(None)
        }
        None => {
            let made = cloud.create(name, wanted).await?;
            steps.tell(("created", "create"), &format!("queue {name}"));
            Ok(Some(made))
        }
    }
}

/// Corrects what differs, each said by name.
async fn correct(
    cloud: &Cloud,
    steps: &mut Steps,
    (name, queue): (&str, &Queue),
    wanted: Attributes,
) -> Result<(), Failure> {
    let differing = wanted::differing(&queue.attributes, wanted);
    if differing.is_empty() {
        return Ok(());
    }
    if !steps.dry_run {
        cloud.set(queue, differing.iter().cloned().collect()).await?;
    }
    for (attribute, value) in &differing {
        let attribute_name = attribute.as_str();
        let before = queue.attributes.get(attribute).map_or("unset", String::as_str);
        steps.tell(("corrected", "correct"), &format!("queue {name}: {attribute_name} {before} to {value}"));
    }
    Ok(())
}

/// Lets the topic sign with SHA-256, if that is allowed; it may belong to somebody else.
async fn sign(cloud: &Cloud, steps: &mut Steps, topic: &Topic) -> Result<(), Failure> {
    let done = async {
        if signs_with_sha256(cloud, topic).await? {
            return Ok(());
        }
        if !steps.dry_run {
            cloud.sign_with_sha256(topic).await?;
            // A stand-in for SNS may take it without a word, and without effect.
            if !signs_with_sha256(cloud, topic).await? {
                complain(&format_args!("{} does not say whether {SIGNATURE_VERSION} is 2 now", topic.arn));
                return Ok(());
            }
        }
        steps.tell(("set", "set"), &format!("{SIGNATURE_VERSION} of {} to 2", topic.arn));
        Ok(())
    };
    match done.await {
        Err(failure @ Failure { is_denied: true, .. }) => {
            complain(&format_args!("{failure}"));
            complain(&format_args!(
                "ask its owner to set {SIGNATURE_VERSION} of {} to 2: what is signed with SHA-1 is refused",
                topic.arn
            ));
            Ok(())
        }
        other => other,
    }
}

async fn signs_with_sha256(cloud: &Cloud, topic: &Topic) -> Result<bool, Failure> {
    let attributes = cloud.topic(topic).await?;
    Ok(attributes.get(SIGNATURE_VERSION).is_some_and(|version| version == "2"))
}
