//! Why a call to the queue came to nothing, in words that say what to do about it.

use std::error::Error;
use std::fmt;

use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::error::ProvideErrorMetadata;
use aws_sdk_sqs::error::SdkError;

/// What is called, by the name under which it is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Receive,
    Delete,
    Extend,
    Attributes,
}

impl Call {
    const fn permission(self) -> &'static str {
        match self {
            Self::Receive => "sqs:ReceiveMessage",
            Self::Delete => "sqs:DeleteMessage",
            Self::Extend => "sqs:ChangeMessageVisibility",
            Self::Attributes => "sqs:GetQueueAttributes",
        }
    }
}

/// Why a call came to nothing.
#[derive(Debug)]
pub(super) struct Fault {
    /// Whether it was refused for good: asking again changes nothing until somebody has changed a policy.
    pub(super) denied: bool,
    text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Fault {
    /// Puts the SDK's error into words.
    pub(super) fn new<E>(call: Call, queue: &str, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let permission = call.permission();
        let (denied, why) = match error {
            SdkError::ServiceError(refused) => {
                let (code, status) = (error.code().unwrap_or_default(), refused.raw().status().as_u16());
                let why = refusal(code, permission, queue);
                let said = error.message().map(|said| format!(": {}", one_line(said))).unwrap_or_default();
                (is_denial(code), why.unwrap_or_else(|| format!("answered with {status} {code}{said}")))
            }
            SdkError::TimeoutError(_) => (false, format!("no answer in time from {queue}")),
            SdkError::ResponseError(garbled) => {
                let status = garbled.raw().status().as_u16();
                (false, format!("the answer ({status}) cannot be read: {}", chain(error)))
            }
            _ => (false, unsent(&chain(error))),
        };
        Self { denied, text: format!("{permission}: {why}") }
    }
}

fn is_denial(code: &str) -> bool {
    matches!(code, "AccessDenied" | "AccessDeniedException" | "AuthorizationError")
}

/// What a queue's refusals mean to who runs the gate.
fn refusal(code: &str, permission: &str, queue: &str) -> Option<String> {
    let why = match code {
        _ if is_denial(code) => {
            format!(
                "not allowed: a policy of these credentials must allow {permission} on {queue}, and no policy of the queue deny it"
            )
        }
        "QueueDoesNotExist" | "AWS.SimpleQueueService.NonExistentQueue" => {
            format!("there is no queue {queue} (feed.sqs.queue_url) in this region and account")
        }
        "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "InvalidAccessKeyId"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "InvalidSecurity" => {
            format!(
                "the AWS credentials are not accepted ({code}): they are of another partition, deleted or expired"
            )
        }
        "SignatureDoesNotMatch" | "InvalidSignatureException" | "RequestExpired" => {
            format!(
                "the signature is not accepted ({code}): the secret key, the region or this machine's clock is wrong"
            )
        }
        "OverLimit" => "too many messages are in flight: others hold what they do not delete".to_owned(),
        _ if code.starts_with("Kms") || code.starts_with("KMS.") => {
            format!(
                "the key that encrypts the queue cannot be used ({code}): its policy must allow kms:Decrypt"
            )
        }
        "Throttling" | "ThrottlingException" | "RequestThrottled" | "ThrottledException" => {
            format!("throttled ({code}); asked again more slowly")
        }
        _ => return None,
    };
    Some(why)
}

/// Of a request that never had an answer.
fn unsent(chain: &str) -> String {
    let lower = chain.to_ascii_lowercase();
    if lower.contains("credential") || lower.contains("identity") {
        return format!(
            "no AWS credentials; looked for in the environment (AWS_ACCESS_KEY_ID), the profile files, the web identity \
             (AWS_WEB_IDENTITY_TOKEN_FILE), the container's role and the instance's: {chain}"
        );
    }
    if lower.contains("region") {
        return format!("no region: set feed.sqs.region or AWS_REGION: {chain}");
    }
    format!("cannot be reached: {chain}")
}

/// An error and its causes, in one line of bounded length.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    one_line(&text)
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST).collect()
}

/// Characters of what others say.
const MOST: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do() {
        let of = |code| refusal(code, "sqs:DeleteMessage", "https://q.test/1/r").unwrap();
        assert!(of("AccessDenied").contains("must allow sqs:DeleteMessage on https://q.test/1/r"));
        assert!(of("QueueDoesNotExist").contains("no queue https://q.test/1/r (feed.sqs.queue_url)"));
        assert!(of("KmsAccessDenied").contains("kms:Decrypt"));
        assert!(of("ThrottlingException").contains("throttled"));
        assert_eq!(refusal("InternalError", "sqs:DeleteMessage", "q"), None);
    }

    #[test]
    fn what_never_left_says_what_is_missing() {
        assert!(unsent("the credential provider was not enabled").contains("AWS_ACCESS_KEY_ID"));
        assert!(unsent("Invalid Configuration: Missing Region").contains("feed.sqs.region"));
        assert!(unsent("connection refused").starts_with("cannot be reached"));
        assert_eq!(one_line("a\nb\0c"), "a b c");
    }
}
