//! The calls that are made to a queue, each with an end: the SDK itself would wait for an answer for ever.

use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::Region;
use aws_config::meta::region::RegionProviderChain;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::Credentials;
use aws_sdk_sqs::types::BatchResultErrorEntry;
use aws_sdk_sqs::types::ChangeMessageVisibilityBatchRequestEntry;
use aws_sdk_sqs::types::DeleteMessageBatchRequestEntry;
use aws_sdk_sqs::types::QueueAttributeName;
use http::Uri;

use super::Config;
use super::fault::Call;
use super::fault::Fault;
use super::letter::ATTRIBUTES;
use super::letter::Letter;

/// How many messages one call is about, at most.
pub(super) const AT_ONCE: u8 = 10;
/// For an answer, beyond what a long poll waits for messages.
const ANSWER: Duration = Duration::from_secs(5);
/// How often a call that is not a poll is made before it counts as failed.
const ATTEMPTS: u32 = 3;

/// A queue, and how it is spoken to.
#[derive(Debug)]
pub(super) struct Api {
    client: Client,
    queue: String,
    visibility: i32,
}

/// What a queue says about itself.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    /// Whether it puts aside by itself what is received too often.
    pub(super) redrives: bool,
    /// About how many messages wait.
    pub(super) waiting: u64,
    /// About how many were received and are hidden, by whomever.
    pub(super) hidden: u64,
}

impl Api {
    /// Finds region and credentials as the SDK does, where the configuration says nothing. Makes no call to the queue.
    pub(super) async fn connect(config: &Config) -> Self {
        let host = config.queue_url.parse::<Uri>().ok();
        let host = host.as_ref().and_then(Uri::host).unwrap_or_default();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .timeout_config(TimeoutConfig::builder().operation_attempt_timeout(ANSWER).build());
        let told = config.region.clone().or_else(|| region_of(host)).map(Region::new);
        let region = RegionProviderChain::first_try(told).or_default_provider();
        // At a queue that is not Amazon's it is a part of signatures, and no more.
        loader = loader.region(region.or_else((!is_amazons(host)).then(|| Region::new("us-east-1"))));
        if let Some((key, secret)) = &config.access_key {
            loader = loader.credentials_provider(Credentials::new(key, secret, None, None, "configuration"));
        }
        if let Some(endpoint) = &config.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        let shared = loader.load().await;
        let mut settings = aws_sdk_sqs::config::Builder::from(&shared);
        if shared.endpoint_url().is_none() && !is_amazons(host) {
            // A queue that is not Amazon's is not asked for at Amazon's.
            settings = settings.endpoint_url(origin(&config.queue_url));
        }
        let client = Client::from_conf(settings.build());
        Self { client, queue: config.queue_url.clone(), visibility: seconds(config.visibility) }
    }

    /// The queue's URL.
    pub(super) fn queue(&self) -> &str {
        &self.queue
    }

    /// Waits for messages. Tried once: whoever polls knows better when to try again.
    pub(super) async fn receive(&self, wait: Duration) -> Result<Vec<Letter>, Fault> {
        let limits = TimeoutConfig::builder().operation_attempt_timeout(wait + ANSWER).build();
        let limits =
            aws_sdk_sqs::config::Builder::new().timeout_config(limits).retry_config(RetryConfig::disabled());
        let call = self.client.receive_message().queue_url(&self.queue);
        let call = call
            .max_number_of_messages(AT_ONCE.into())
            .wait_time_seconds(seconds(wait))
            .visibility_timeout(self.visibility)
            .set_message_system_attribute_names(Some(ATTRIBUTES.to_vec()));
        let received = call.customize().config_override(limits).send().await;
        let received = received.map_err(|e| Fault::new(Call::Receive, &self.queue, &e))?;
        Ok(received.messages.unwrap_or_default().into_iter().map(Letter::new).collect())
    }

    /// Deletes messages, ten at most; why each that was not was not, by its place.
    pub(super) async fn delete(&self, letters: &[&Letter]) -> Result<Vec<(usize, String)>, Fault> {
        let entries = letters.iter().enumerate().filter_map(|(place, letter)| {
            let entry = DeleteMessageBatchRequestEntry::builder();
            entry.id(place.to_string()).receipt_handle(&letter.receipt).build().ok()
        });
        let call = self.client.delete_message_batch().queue_url(&self.queue);
        let answer = call.set_entries(Some(entries.collect())).send().await;
        let answer = answer.map_err(|e| Fault::new(Call::Delete, &self.queue, &e))?;
        let deleted = answer.successful().iter().map(|entry| entry.id());
        // What the answer does not name as deleted counts as not deleted.
        Ok(missing(letters.len(), deleted, answer.failed()))
    }

    /// Keeps messages hidden for so long from now on; why each that is not is not, by its place.
    pub(super) async fn extend(
        &self,
        letters: &[(&Letter, Duration)],
    ) -> Result<Vec<(usize, String)>, Fault> {
        let entries = letters.iter().enumerate().filter_map(|(place, (letter, hidden))| {
            let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(place.to_string());
            entry.visibility_timeout(seconds(*hidden)).receipt_handle(&letter.receipt).build().ok()
        });
        let call = self.client.change_message_visibility_batch().queue_url(&self.queue);
        let answer = call.set_entries(Some(entries.collect())).send().await;
        let answer = answer.map_err(|e| Fault::new(Call::Extend, &self.queue, &e))?;
        let extended = answer.successful().iter().map(|entry| entry.id());
        Ok(missing(letters.len(), extended, answer.failed()))
    }

    /// Asks what the queue says about itself.
    pub(super) async fn attributes(&self) -> Result<Attributes, Fault> {
        let (waiting, hidden, redrive) = (
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
            QueueAttributeName::RedrivePolicy,
        );
        let call = self.client.get_queue_attributes().queue_url(&self.queue);
        let call = call.set_attribute_names(Some(vec![waiting.clone(), hidden.clone(), redrive.clone()]));
        let answer = call.send().await.map_err(|e| Fault::new(Call::Attributes, &self.queue, &e))?;
        let told = answer.attributes.unwrap_or_default();
        let count = |name| told.get(&name).and_then(|count| count.parse().ok()).unwrap_or_default();
        let redrives = told.get(&redrive).is_some_and(|policy| !policy.trim().is_empty());
        Ok(Attributes { redrives, waiting: count(waiting), hidden: count(hidden) })
    }
}

/// The places, of so many, that are not among those that are done, and why.
fn missing<'a>(
    count: usize,
    done: impl Iterator<Item = &'a str>,
    failed: &[BatchResultErrorEntry],
) -> Vec<(usize, String)> {
    let mut left = vec![true; count];
    for place in done.filter_map(|id| id.parse::<usize>().ok()) {
        left.get_mut(place).into_iter().for_each(|left| *left = false);
    }
    let why = |place: &usize| {
        let entry = failed.iter().find(|entry| entry.id().parse() == Ok(*place));
        entry.map_or("not among those that are done", |entry| entry.code()).to_owned()
    };
    let left = left.into_iter().enumerate().filter_map(|(place, left)| left.then_some(place));
    left.map(|place| (place, why(&place))).collect()
}

/// The region in the host of a queue's URL.
fn region_of(host: &str) -> Option<String> {
    if !is_amazons(host) {
        return None;
    }
    let labels: Vec<&str> = host.split('.').collect();
    match labels.as_slice() {
        // Also `sqs-fips`, `vpce-... .sqs.REGION.vpce`.
        [service, region, "amazonaws", ..] if service.starts_with("sqs") => Some((*region).to_owned()),
        [_, "sqs", region, "vpce", ..] => Some((*region).to_owned()),
        // How queues were called at first: `REGION.queue`, and `queue` in the first region of all.
        [region, "queue", ..] => Some((*region).to_owned()),
        ["queue", ..] => Some("us-east-1".to_owned()),
        _ => None,
    }
}

fn is_amazons(host: &str) -> bool {
    [".amazonaws.com", ".amazonaws.com.cn", ".api.aws"].iter().any(|domain| host.ends_with(domain))
}

/// Scheme, host and port of a URL.
fn origin(url: &str) -> String {
    let rest = url.find("://").map_or(0, |at| at + 3);
    let end = url.get(rest..).and_then(|rest| rest.find(['/', '?', '#']));
    url.get(..end.map_or(url.len(), |end| rest + end)).unwrap_or(url).to_owned()
}

/// Whole seconds, as the queue counts; what is left over counts as one.
fn seconds(duration: Duration) -> i32 {
    let whole = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    i32::try_from(whole).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_in_the_url() {
        for (host, region) in [
            ("sqs.eu-central-1.amazonaws.com", Some("eu-central-1")),
            ("sqs-fips.us-east-2.amazonaws.com", Some("us-east-2")),
            ("sqs.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
            ("vpce-0a-1b.sqs.eu-west-1.vpce.amazonaws.com", Some("eu-west-1")),
            ("us-west-2.queue.amazonaws.com", Some("us-west-2")),
            ("queue.amazonaws.com", Some("us-east-1")),
            ("sqs.eu-central-1.amazonaws.com.evil.test", None),
            ("127.0.0.1", None),
            ("localhost", None),
        ] {
            assert_eq!(region_of(host).as_deref(), region, "{host}");
        }
    }

    #[test]
    fn an_origin_is_what_comes_before_the_path() {
        for (url, of) in [
            ("http://127.0.0.1:4566/0/q", "http://127.0.0.1:4566"),
            ("https://queue.test", "https://queue.test"),
            ("https://queue.test?x=/", "https://queue.test"),
        ] {
            assert_eq!(origin(url), of);
        }
    }

    #[test]
    fn what_an_answer_leaves_out_is_not_done() {
        let failed =
            BatchResultErrorEntry::builder().id("2").sender_fault(true).code("ReceiptHandleIsInvalid");
        let failed = [failed.build().unwrap()];
        let left = missing(4, ["0", "9", "x"].into_iter(), &failed);
        assert_eq!(left.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(left[1].1, "ReceiptHandleIsInvalid");
    }

    #[test]
    fn half_a_second_counts_as_one() {
        assert_eq!(seconds(Duration::from_millis(1500)), 2);
        assert_eq!(seconds(Duration::from_secs(20)), 20);
    }
}
