//! `portcullis queue deprovision`.

use clap::Args;
use serde_json::json;

use super::CloudArgs;
use super::Steps;
use super::ask;
use super::cloud::Cloud;
use super::cloud::Failure;
use super::cloud::Queue;
use super::wanted;
use crate::cli::DONE;
use crate::cli::complain;
use crate::cli::output::counted;
use crate::cli::output::print_document;
use crate::cli::server::talk;

/// Which queue, and how sure.
#[derive(Debug, Args)]
pub(in crate::cli) struct DeprovisionArgs {
    #[command(flatten)]
    cloud: CloudArgs,
    /// Also queues that still hold messages.
    #[arg(long)]
    force: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

/// What there is to take away.
struct Found {
    queue: Option<Queue>,
    dead_letter: Option<Queue>,
    subscription: Option<String>,
}

impl DeprovisionArgs {
    pub(super) fn run(&self) -> u8 {
        talk(async {
            match self.deprovision().await {
                Ok(code) => code,
                Err(failure) => {
                    complain(&format_args!("queue deprovision: {failure}"));
                    failure.code
                }
            }
        })
    }

    async fn deprovision(&self) -> Result<u8, Failure> {
        let args = &self.cloud;
        let (cloud, mut steps) = (Cloud::open(args).await?, Steps::new(args));
        let found = self.find(&cloud).await?;
        self.check(&found)?;
        if found.queue.is_none() && found.dead_letter.is_none() && found.subscription.is_none() {
            super::say(&format!("queue {}: nothing is left of it", args.name));
            return Ok(self.print(&steps));
        }
        if !self.yes && !args.dry_run {
            let question = format!("delete queue {}, its dead-letter queue and its subscription?", args.name);
            if let Err(code) = ask(&question) {
                return Ok(code);
            }
        }
        // First what feeds it, so that nothing arrives in a queue that is about to go.
        if let Some(subscription) = &found.subscription {
            if !args.dry_run {
                cloud.unsubscribe(subscription).await?;
            }
            steps.tell(("removed", "remove"), &format!("subscription {subscription}"));
        }
        for (name, queue) in
            [(args.name.clone(), &found.queue), (args.dead_letter_name(), &found.dead_letter)]
        {
            let Some(queue) = queue else { continue };
            if !args.dry_run {
                cloud.delete(queue).await?;
            }
            steps.tell(("deleted", "delete"), &format!("queue {name}"));
        }
        Ok(self.print(&steps))
    }

    async fn find(&self, cloud: &Cloud) -> Result<Found, Failure> {
        let args = &self.cloud;
        let queue = cloud.queue(&args.name).await?;
        let dead_letter = cloud.queue(&args.dead_letter_name()).await?;
        let given = args.topic_arn.as_ref();
        let noted = queue.as_ref().and_then(|queue| wanted::topic_of(&queue.attributes));
        let topic = given.map(|topic| topic.arn.clone()).or(noted);
        // A queue that was deleted by hand leaves its subscription behind.
        let arn = match (&queue, given) {
            (Some(queue), _) => Some(queue.arn.clone()),
            (None, Some(topic)) => {
                Some(format!("arn:{}:sqs:{}:{}:{}", topic.partition, cloud.region, topic.account, args.name))
            }
            (None, None) => None,
        };
        let subscription = match (topic, arn) {
            (Some(topic), Some(arn)) => cloud.subscription(&topic, &arn).await?,
            _ => None,
        };
        // One that nobody has confirmed has no name yet, and lapses by itself.
        let subscription = subscription.filter(|subscription| subscription.starts_with("arn:"));
        Ok(Found { queue, dead_letter, subscription })
    }

    /// Messages are not thrown away by accident.
    fn check(&self, found: &Found) -> Result<(), Failure> {
        let args = &self.cloud;
        let both = [(&args.name, &found.queue), (&args.dead_letter_name(), &found.dead_letter)];
        for (name, queue) in both {
            let messages = queue.as_ref().map(Queue::messages).unwrap_or_default();
            if messages > 0 && !self.force {
                let told = format!(
                    "queue {name} still holds {}; nothing was changed; add --force to lose them",
                    counted(messages, "message")
                );
                return Err(Failure::refused(told));
            }
        }
        Ok(())
    }

    fn print(&self, steps: &Steps) -> u8 {
        if !self.cloud.json {
            return DONE;
        }
        let document = json!({ "dry_run": self.cloud.dry_run, "changes": steps.told });
        print_document(document.to_string().as_bytes())
    }
}
