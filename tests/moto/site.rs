//! A cloud, and the program that is run against it.

use std::collections::HashMap;
use std::process::Output;

use aws_sdk_sqs::types::QueueAttributeName;

use crate::server::Moto;
use crate::server::REGION;

/// What a command printed, and its exit code.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    #[track_caller]
    pub(crate) fn said(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        for part in parts {
            assert!(self.err.contains(part), "no {part}: {}", self.err);
        }
        self
    }
}

/// A cloud with a topic in it.
pub(crate) struct Site {
    pub(crate) moto: Moto,
    pub(crate) sqs: aws_sdk_sqs::Client,
    pub(crate) sns: aws_sdk_sns::Client,
    pub(crate) topic: String,
}

impl Site {
    pub(crate) async fn new() -> Self {
        let moto = Moto::start();
        let config = moto.config().await;
        let (sqs, sns) = (aws_sdk_sqs::Client::new(&config), aws_sdk_sns::Client::new(&config));
        let topic = sns.create_topic().name("revocations").send().await.unwrap().topic_arn.unwrap();
        Self { moto, sqs, sns, topic }
    }

    /// `portcullis queue WHAT --name gate-1 ..`.
    pub(crate) fn queue(&self, what: &str, more: &[&str]) -> Ended {
        let mut program = self.moto.program();
        program.args(["queue", what, "--name", "gate-1", "--region", REGION, "--endpoint", &self.moto.url]);
        let Output { status, stdout, stderr } = program.args(more).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ended { code: status.code(), out: text(stdout), err: text(stderr) }
    }

    pub(crate) fn provision(&self, more: &[&str]) -> Ended {
        self.queue("provision", &[&["--topic-arn", &self.topic], more].concat())
    }

    pub(crate) async fn url(&self, name: &str) -> Option<String> {
        self.sqs.get_queue_url().queue_name(name).send().await.ok()?.queue_url
    }

    pub(crate) async fn attributes(&self, name: &str) -> HashMap<QueueAttributeName, String> {
        let url = self.url(name).await.unwrap();
        let asked = self.sqs.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::All);
        asked.send().await.unwrap().attributes.unwrap()
    }

    pub(crate) async fn subscriptions(&self) -> Vec<HashMap<String, String>> {
        let listed = self.sns.list_subscriptions_by_topic().topic_arn(&self.topic).send().await.unwrap();
        let mut all = Vec::new();
        for subscription in listed.subscriptions.unwrap_or_default() {
            let asked = self.sns.get_subscription_attributes();
            let asked = asked.subscription_arn(subscription.subscription_arn.unwrap()).send().await.unwrap();
            all.push(asked.attributes.unwrap());
        }
        all
    }
}

/// The section that is printed, as a gate reads it.
pub(crate) fn section(ended: &Ended) -> portcullis::feed::sqs::Config {
    let config: portcullis::feed::Config =
        toml::from_str::<HashMap<String, _>>(&ended.out).unwrap().remove("feed").unwrap();
    config.check().unwrap();
    config.sqs.unwrap()
}
