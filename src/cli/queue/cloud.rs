//! The calls to SQS and SNS. **Invariant:** each of them ends, and one that fails names itself and what it needs.

use std::collections::HashMap;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::Region;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_sqs::error::DisplayErrorContext;
use aws_sdk_sqs::error::ProvideErrorMetadata;
use aws_sdk_sqs::error::SdkError;
use aws_sdk_sqs::types::QueueAttributeName;

use super::CloudArgs;
use super::Topic;
use super::wanted::Attributes;
use crate::cli::REFUSED;
use crate::cli::UNREACHABLE;
use crate::cli::USAGE;

/// The SDK has no limit of its own for reading an answer.
const ATTEMPT: Duration = Duration::from_secs(10);
const OPERATION: Duration = Duration::from_secs(30);
/// The longest error that is shown, characters.
const MAX_SHOWN: usize = 400;

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
#[error("{told}")]
pub(super) struct Failure {
    pub(super) told: String,
    pub(super) code: u8,
    /// Whether it is a matter of permissions.
    pub(super) is_denied: bool,
}

/// The two services.
pub(super) struct Cloud {
    sqs: aws_sdk_sqs::Client,
    sns: aws_sdk_sns::Client,
    pub(super) region: String,
}

/// A queue that exists.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    pub(super) url: String,
    pub(super) arn: String,
    pub(super) attributes: Attributes,
}

impl Queue {
    /// How many messages are in it, those included that are being worked on.
    pub(super) fn messages(&self) -> u64 {
        let counts = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
            QueueAttributeName::ApproximateNumberOfMessagesDelayed,
        ];
        let count = |name| self.attributes.get(name)?.parse::<u64>().ok();
        counts.iter().filter_map(count).sum()
    }
}

impl Failure {
    pub(super) fn refused(told: String) -> Self {
        Self { told, code: REFUSED, is_denied: false }
    }
}

impl Cloud {
    /// With the credentials, and if need be the region, that the environment has. Calls nobody yet.
    pub(super) async fn open(args: &CloudArgs) -> Result<Self, Failure> {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(3))
            .operation_attempt_timeout(ATTEMPT)
            .operation_timeout(OPERATION);
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).timeout_config(timeouts.build());
        if let Some(region) = &args.region {
            loader = loader.region(Region::new(region.clone()));
        } else if let Some(topic) = &args.topic_arn {
            loader = loader.region(Region::new(topic.region.clone()));
        }
        if let Some(endpoint) = &args.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        let config = loader.load().await;
        let Some(region) = config.region().map(ToString::to_string) else {
            let told = "--region is missing: the AWS region (or AWS_REGION)".to_owned();
            return Err(Failure { told, code: USAGE, is_denied: false });
        };
        // A topic is spoken to where it is, and a queue may be elsewhere.
        let topic_region =
            args.topic_arn.as_ref().map_or_else(|| region.clone(), |topic| topic.region.clone());
        let sns = aws_sdk_sns::config::Builder::from(&config).region(Region::new(topic_region)).build();
        Ok(Self { sqs: aws_sdk_sqs::Client::new(&config), sns: aws_sdk_sns::Client::from_conf(sns), region })
    }

    /// A queue, if there is one of that name.
    pub(super) async fn queue(&self, name: &str) -> Result<Option<Queue>, Failure> {
        let found = match self.sqs.get_queue_url().queue_name(name).send().await {
            Ok(found) => found,
            Err(error) if error.as_service_error().is_some_and(|e| e.is_queue_does_not_exist()) => {
                return Ok(None);
            }
            Err(error) => return Err(failure("sqs:GetQueueUrl", name, &error)),
        };
        let url = found.queue_url.unwrap_or_default();
        let asked = self.sqs.get_queue_attributes().queue_url(&url).attribute_names(QueueAttributeName::All);
        let answer = asked.send().await.map_err(|error| failure("sqs:GetQueueAttributes", name, &error))?;
        let attributes = answer.attributes.unwrap_or_default();
        let arn = attributes.get(&QueueAttributeName::QueueArn).cloned().unwrap_or_default();
        Ok(Some(Queue { url, arn, attributes }))
    }

    /// Makes a queue; it must not be there.
    pub(super) async fn create(&self, name: &str, attributes: Attributes) -> Result<Queue, Failure> {
        let create = self.sqs.create_queue().queue_name(name).set_attributes(Some(attributes));
        create.send().await.map_err(|error| failure("sqs:CreateQueue", name, &error))?;
        let made = self.queue(name).await?;
        made.ok_or_else(|| {
            Failure::refused(format!("queue {name}: it was made, but is not there yet; try again"))
        })
    }

    /// Changes attributes of a queue.
    pub(super) async fn set(&self, queue: &Queue, attributes: Attributes) -> Result<(), Failure> {
        let set = self.sqs.set_queue_attributes().queue_url(&queue.url).set_attributes(Some(attributes));
        set.send().await.map_err(|error| failure("sqs:SetQueueAttributes", &queue.arn, &error))?;
        Ok(())
    }

    /// Deletes a queue; one that is gone is as good.
    pub(super) async fn delete(&self, queue: &Queue) -> Result<(), Failure> {
        match self.sqs.delete_queue().queue_url(&queue.url).send().await {
            Ok(_) => Ok(()),
            Err(error) if error.as_service_error().is_some_and(|e| e.is_queue_does_not_exist()) => Ok(()),
            Err(error) => Err(failure("sqs:DeleteQueue", &queue.arn, &error)),
        }
    }

    /// The subscription of a queue to a topic.
    pub(super) async fn subscription(&self, topic: &str, queue_arn: &str) -> Result<Option<String>, Failure> {
        let mut pages = self.sns.list_subscriptions_by_topic().topic_arn(topic).into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = match page {
                Ok(page) => page,
                Err(error) if error.as_service_error().is_some_and(|e| e.is_not_found_exception()) => {
                    return Ok(None);
                }
                Err(error) => return Err(failure("sns:ListSubscriptionsByTopic", topic, &error)),
            };
            let mut all = page.subscriptions.unwrap_or_default().into_iter();
            let ours = all.find(|s| s.protocol() == Some("sqs") && s.endpoint() == Some(queue_arn));
            if let Some(ours) = ours {
                return Ok(ours.subscription_arn);
            }
        }
        Ok(None)
    }

    /// Subscribes a queue to a topic; the subscription's name.
    pub(super) async fn subscribe(&self, topic: &str, queue_arn: &str, raw: &str) -> Result<String, Failure> {
        let subscribe = self.sns.subscribe().topic_arn(topic).protocol("sqs").endpoint(queue_arn);
        let subscribe = subscribe.attributes(RAW, raw).return_subscription_arn(true);
        let answer = subscribe.send().await.map_err(|error| failure("sns:Subscribe", topic, &error))?;
        Ok(answer.subscription_arn.unwrap_or_default())
    }

    /// Whether a subscription delivers without an envelope.
    pub(super) async fn is_raw(&self, subscription: &str) -> Result<String, Failure> {
        let asked = self.sns.get_subscription_attributes().subscription_arn(subscription).send().await;
        let answer = asked.map_err(|error| failure("sns:GetSubscriptionAttributes", subscription, &error))?;
        Ok(answer.attributes.unwrap_or_default().remove(RAW).unwrap_or_else(|| "false".to_owned()))
    }

    /// Says whether a subscription delivers without an envelope.
    pub(super) async fn set_raw(&self, subscription: &str, raw: &str) -> Result<(), Failure> {
        let set = self.sns.set_subscription_attributes().subscription_arn(subscription);
        let set = set.attribute_name(RAW).attribute_value(raw).send().await;
        set.map_err(|error| failure("sns:SetSubscriptionAttributes", subscription, &error))?;
        Ok(())
    }

    /// Ends a subscription.
    pub(super) async fn unsubscribe(&self, subscription: &str) -> Result<(), Failure> {
        let done = self.sns.unsubscribe().subscription_arn(subscription).send().await;
        done.map_err(|error| failure("sns:Unsubscribe", subscription, &error))?;
        Ok(())
    }

    /// A topic's attributes.
    pub(super) async fn topic(&self, topic: &Topic) -> Result<HashMap<String, String>, Failure> {
        let asked = self.sns.get_topic_attributes().topic_arn(&topic.arn).send().await;
        let answer = asked.map_err(|error| failure("sns:GetTopicAttributes", &topic.arn, &error))?;
        Ok(answer.attributes.unwrap_or_default())
    }

    /// Lets a topic sign with SHA-256.
    pub(super) async fn sign_with_sha256(&self, topic: &Topic) -> Result<(), Failure> {
        let set = self.sns.set_topic_attributes().topic_arn(&topic.arn);
        let set = set.attribute_name(SIGNATURE_VERSION).attribute_value("2").send().await;
        set.map_err(|error| failure("sns:SetTopicAttributes", &topic.arn, &error))?;
        Ok(())
    }
}

const RAW: &str = "RawMessageDelivery";
/// What a topic signs with: 1 is SHA-1, 2 is SHA-256.
pub(super) const SIGNATURE_VERSION: &str = "SignatureVersion";

/// A call that failed: which, on what, why, and what it takes.
fn failure<E>(call: &str, on: &str, error: &SdkError<E>) -> Failure
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let clipped = |text: &str| text.chars().take(MAX_SHOWN).collect::<String>();
    let Some(service) = error.as_service_error() else {
        let told = DisplayErrorContext(error).to_string();
        // Behind the causes it repeats itself for debuggers.
        let told = told.split_once(" (").map_or(told.as_str(), |(causes, _)| causes);
        let lacks = told.contains("credentials");
        let advice = if lacks {
            "; the AWS credentials chain has none (AWS_ACCESS_KEY_ID, AWS_PROFILE, ..)"
        } else {
            ""
        };
        let code = if lacks { USAGE } else { UNREACHABLE };
        return Failure { told: format!("{call} {on}: {}{advice}", clipped(told)), code, is_denied: false };
    };
    let code = service.code().unwrap_or("no code");
    let is_denied = code.contains("AccessDenied") || code.contains("AuthorizationError");
    let advice = match code {
        _ if is_denied => format!("; allow {call} on it in IAM"),
        "QueueDeletedRecently" | "AWS.SimpleQueueService.QueueDeletedRecently" => {
            "; a name can be used again after 60 seconds".to_owned()
        }
        "InvalidClientTokenId" | "UnrecognizedClientException" | "ExpiredToken" | "SignatureDoesNotMatch" => {
            "; these AWS credentials are not valid there".to_owned()
        }
        _ => String::new(),
    };
    let message = clipped(service.message().unwrap_or("no reason given"));
    Failure { told: format!("{call} {on}: {code}: {message}{advice}"), code: REFUSED, is_denied }
}
