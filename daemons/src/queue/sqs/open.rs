//! How queues are named, found and made.

use super::{BYTES_MAX, Cause, POLL_MAX, Sqs, SqsQueue, seconds};
use crate::{aws::AwsError, queue::QueueName};
use aws_sdk_sqs::{
    operation::{create_queue::CreateQueueError, get_queue_url::GetQueueUrlError},
    types::QueueAttributeName,
};
use serde_json::Value;
use std::{collections::HashMap, sync::Arc, time::Duration};

/// What the name of a dead-letter queue ends with.
const DEAD: &str = "-dead";

/// Letters of a queue's name.
const NAME_MAX: usize = 80;

/// How many queues a page of a list has.
const PAGE: i32 = 1000;

type Attributes = HashMap<QueueAttributeName, String>;

/// Why a queue can't be used, whatever SQS does.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error(
        "SQS takes names of up to {NAME_MAX} letters, digits, `-` and `_`; `{0}` has {letters}",
        letters = .0.chars().count()
    )]
    Name(String),
    #[error("names that end with `{DEAD}` are those of dead-letter queues")]
    Dead,
    #[error(
        "`{0}` has no redrive policy: give it one with a dead-letter queue, or delete it and it is made anew"
    )]
    NoRedrivePolicy(String),
    #[error("the redrive policy of `{queue}` can't be understood: {policy}")]
    RedrivePolicy { queue: String, policy: String },
    #[error("the dead-letter queue `{dead}` of `{queue}` does not exist")]
    NoDeadLetterQueue { queue: String, dead: String },
}

impl Sqs {
    /// The queue of this name, made with its dead-letter queue when there is none.
    pub(super) async fn open(self: &Arc<Self>, name: &QueueName) -> Result<SqsQueue, Cause> {
        let full = self.full_name(name)?;
        let url = match self.find(&full, None).await? {
            Some(url) => url,
            None => self.make(&full).await?,
        };
        let attributes = self
            .attributes(&url, &[QueueAttributeName::MaximumMessageSize, QueueAttributeName::RedrivePolicy])
            .await?;
        let bytes_max = attributes.get(&QueueAttributeName::MaximumMessageSize);
        let Some(policy) = attributes.get(&QueueAttributeName::RedrivePolicy) else {
            return Err(Unfit::NoRedrivePolicy(full).into());
        };
        let Some((arn, max_receives)) = redrive_policy(policy) else {
            return Err(Unfit::RedrivePolicy { queue: full, policy: policy.clone() }.into());
        };
        // arn:aws:sqs:REGION:ACCOUNT:NAME
        let mut parts = arn.rsplitn(3, ':');
        let (dead, account) = (parts.next().unwrap_or_default(), parts.next());
        let Some(dead_url) = self.find(dead, account).await? else {
            return Err(Unfit::NoDeadLetterQueue { queue: full, dead: dead.to_owned() }.into());
        };
        Ok(SqsQueue {
            sqs: Arc::clone(self),
            name: name.clone(),
            url: url.into(),
            dead_url: dead_url.into(),
            bytes_max: bytes_max.and_then(|bytes| bytes.parse().ok()).unwrap_or(BYTES_MAX).min(BYTES_MAX),
            max_receives,
        })
    }

    /// The name that a queue and, with an end to it, its dead-letter queue have in SQS.
    fn full_name(&self, name: &QueueName) -> Result<String, Unfit> {
        if name.as_str().ends_with(DEAD) {
            return Err(Unfit::Dead);
        }
        let full = format!("{}{name}", self.options.prefix);
        let dead = format!("{full}{DEAD}");
        let taken = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
        if name.as_str().is_empty() || dead.len() > NAME_MAX || !dead.chars().all(taken) {
            return Err(Unfit::Name(dead));
        }
        Ok(full)
    }

    /// Makes a queue and its dead-letter queue. Another may do the same meanwhile.
    async fn make(&self, full: &str) -> Result<String, AwsError> {
        let options = &self.options;
        let retention =
            |kept: Duration| (QueueAttributeName::MessageRetentionPeriod, seconds(kept).to_string());
        let size = (QueueAttributeName::MaximumMessageSize, BYTES_MAX.to_string());
        let dead = self
            .create(&format!("{full}{DEAD}"), [retention(options.dead_letter_retention), size.clone()].into())
            .await?;
        let arn = self.attributes(&dead, &[QueueAttributeName::QueueArn]).await?;
        let policy = serde_json::json!({
            "deadLetterTargetArn": arn.get(&QueueAttributeName::QueueArn),
            "maxReceiveCount": options.max_receives,
        });
        let poll = (QueueAttributeName::ReceiveMessageWaitTimeSeconds, seconds(POLL_MAX).to_string());
        let attributes = [
            retention(options.message_retention),
            size,
            poll,
            (QueueAttributeName::RedrivePolicy, policy.to_string()),
        ];
        let url = self.create(full, attributes.into()).await?;
        tracing::info!(queue = full, "made in SQS");
        tokio::time::sleep(options.settle).await;
        Ok(url)
    }

    /// Makes a queue, or finds the one that was made meanwhile with other attributes.
    async fn create(&self, full: &str, attributes: Attributes) -> Result<String, AwsError> {
        let made = self.client.create_queue().queue_name(full).set_attributes(Some(attributes)).send().await;
        let error = match made {
            Ok(made) => return Ok(made.queue_url.unwrap_or_default()),
            Err(error) => error,
        };
        if error.as_service_error().is_some_and(CreateQueueError::is_queue_name_exists)
            && let Some(url) = self.find(full, None).await?
        {
            return Ok(url);
        }
        Err(self.explain("CreateQueue", &error))
    }

    /// The URL of a queue, of this account when no other is named.
    async fn find(&self, full: &str, account: Option<&str>) -> Result<Option<String>, AwsError> {
        let asked = self
            .client
            .get_queue_url()
            .queue_name(full)
            .set_queue_owner_aws_account_id(account.map(str::to_owned));
        match asked.send().await {
            Ok(found) => Ok(found.queue_url),
            Err(error) if error.as_service_error().is_some_and(GetQueueUrlError::is_queue_does_not_exist) => {
                Ok(None)
            }
            Err(error) => Err(self.explain("GetQueueUrl", &error)),
        }
    }

    pub(super) async fn attributes(
        &self,
        url: &str,
        names: &[QueueAttributeName],
    ) -> Result<Attributes, AwsError> {
        let asked =
            self.client.get_queue_attributes().queue_url(url).set_attribute_names(Some(names.to_vec()));
        let told = asked.send().await.map_err(|error| self.explain("GetQueueAttributes", &error))?;
        Ok(told.attributes.unwrap_or_default())
    }

    pub(super) async fn list(&self) -> Result<Vec<QueueName>, AwsError> {
        let prefix = &self.options.prefix;
        let mut pages =
            self.client.list_queues().queue_name_prefix(prefix).max_results(PAGE).into_paginator().send();
        let mut names = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.explain("ListQueues", &error))?;
            let urls = page.queue_urls.unwrap_or_default();
            names.extend(urls.iter().filter_map(|url| {
                let name = url.rsplit('/').next()?.strip_prefix(prefix.as_str())?;
                (!name.is_empty() && !name.ends_with(DEAD)).then(|| QueueName::named(name))
            }));
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// Where a policy puts messages aside, and after how many receives, which it may say as a number or as text.
fn redrive_policy(policy: &str) -> Option<(String, u32)> {
    let policy: Value = serde_json::from_str(policy).ok()?;
    let arn = policy.get("deadLetterTargetArn")?.as_str()?.to_owned();
    let receives = policy.get("maxReceiveCount")?;
    let receives = receives.as_u64().and_then(|number| u32::try_from(number).ok());
    let receives = receives.or_else(|| policy.get("maxReceiveCount")?.as_str()?.parse().ok())?;
    Some((arn, receives))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::sqs::{SqsOptions, SqsQueues};
    use aws_config::{BehaviorVersion, SdkConfig};

    fn full_name(prefix: &str, name: &str) -> Result<String, String> {
        let config = SdkConfig::builder().behavior_version(BehaviorVersion::latest()).build();
        let options = SqsOptions { prefix: prefix.to_owned(), ..SqsOptions::default() };
        let queues = SqsQueues::new(&config, options);
        queues.sqs.full_name(&QueueName::named(name)).map_err(|unfit| unfit.to_string())
    }

    #[test]
    fn names_that_sqs_takes_have_prefix_and_suffix_within_80_letters() {
        assert_eq!(full_name("quorate-", "inbound"), Ok("quorate-inbound".to_owned()));
        assert_eq!(full_name("p-", &"q".repeat(73)).map(|name| name.len()), Ok(75));
        let error = full_name("p-", &"q".repeat(74)).expect_err("81 with the suffix");
        assert!(error.contains("80") && error.contains("81"), "{error}");
        for strange in ["", "a.b", "a b", "é"] {
            assert!(full_name("p-", strange).is_err(), "{strange}");
        }
        assert!(full_name("p-", "q-dead").expect_err("a dead-letter queue").contains("-dead"));
    }

    #[test]
    fn a_redrive_policy_may_say_its_number_as_text() {
        let expected = Some(("arn:aws:sqs:eu-central-1:1:q-dead".to_owned(), 7));
        for count in ["7", "\"7\""] {
            let policy = format!(
                r#"{{"deadLetterTargetArn":"arn:aws:sqs:eu-central-1:1:q-dead","maxReceiveCount":{count}}}"#
            );
            assert_eq!(redrive_policy(&policy), expected);
        }
        assert_eq!(redrive_policy("{}"), None);
        assert_eq!(redrive_policy("x"), None);
    }
}
