//! Authentication and authorisation that other services decide (apiserver `plugin/pkg/authenticator/token/webhook`,
//! `plugin/pkg/authorizer/webhook`).

pub mod access;
pub mod tokens;

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use base::Backoff;
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use crate::remote::{Remote, RemoteError};

/// `DefaultAuthWebhookRetryBackoff`.
const ATTEMPTS: u32 = 5;
const BACKOFF: Duration = Duration::from_millis(500);

/// Why a service gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error("the answer of the webhook is no JSON")]
    Answer(#[from] serde_json::Error),
    #[error("context deadline exceeded")]
    Timeout,
}

/// Posts a review and reads its answer, again while that may help, for `timeout` altogether.
async fn ask(remote: &Remote, review: &Value, timeout: Duration) -> Result<Value, AskError> {
    let body = Bytes::from(serde_json::to_vec(review)?);
    let attempts = async {
        let mut backoff = Backoff::new(BACKOFF, BACKOFF * 6).with_jitter(0.2);
        let mut attempt = 1;
        loop {
            match remote.post(body.clone(), timeout).await {
                Ok(answer) => return Ok(serde_json::from_slice(&answer)?),
                Err(error) if attempt < ATTEMPTS && error.is_passing() => {
                    tracing::debug!(error = %base::chain(&error), "a webhook failed; asking again");
                    attempt += 1;
                    let wait = match &error {
                        RemoteError::Refused { retry_after: Some(wait), .. } => *wait,
                        _ => backoff.step(),
                    };
                    tokio::time::sleep(wait).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    };
    tokio::time::timeout(timeout, attempts).await.unwrap_or(Err(AskError::Timeout))
}

/// Answers that are believed for a while. When it is full, what is stale goes, and then everything.
pub(crate) struct Believed<K, V> {
    entries: Mutex<HashMap<K, (V, Instant)>>,
    max: usize,
}

impl<K: Eq + Hash, V: Clone> Believed<K, V> {
    pub fn new(max: usize) -> Self {
        Self { entries: Mutex::default(), max }
    }

    pub fn get(&self, key: &K) -> Option<V> {
        let now = Instant::now();
        self.entries.lock().get(key).filter(|(_, until)| now < *until).map(|(value, _)| value.clone())
    }

    pub fn put(&self, key: K, value: V, time: Duration) {
        if time.is_zero() {
            return;
        }
        let now = Instant::now();
        let mut entries = self.entries.lock();
        if entries.len() >= self.max {
            entries.retain(|_, (_, until)| now < *until);
            if entries.len() >= self.max {
                entries.clear();
            }
        }
        entries.insert(key, (value, now + time));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn answers_are_believed_for_their_time() {
        let believed = Believed::new(2);
        believed.put("a", 1, Duration::from_secs(10));
        believed.put("b", 2, Duration::from_secs(100));
        assert_eq!(believed.get(&"a"), Some(1));
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(believed.get(&"a"), None);
        believed.put("c", 3, Duration::from_secs(10));
        assert_eq!((believed.get(&"b"), believed.get(&"c")), (Some(2), Some(3)));
        believed.put("d", 4, Duration::ZERO);
        assert_eq!(believed.get(&"d"), None);
    }
}
