//! Snapshots in S3-compatible storage. Requests are signed by `rusty_s3` and sent by `reqwest`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Client, Response};
use rusty_s3::actions::ListObjectsV2;
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use tokio::io::AsyncWriteExt;

use crate::options::SnapshotPlace;

/// How long a signed request is good for, and a transfer may take.
const GOOD_FOR: Duration = Duration::from_secs(3600);
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// A folder in a bucket.
pub struct S3 {
    bucket: Bucket,
    credentials: Credentials,
    /// With a slash at its end, or empty.
    folder: String,
    client: Client,
}

impl S3 {
    /// What the options say; `None` without a bucket.
    pub fn of(place: &SnapshotPlace) -> anyhow::Result<Option<Self>> {
        let Some(name) = &place.s3_bucket else { return Ok(None) };
        let (Some(key), Some(secret)) = (&place.s3_access_key, &place.s3_secret_key) else {
            bail!("--s3-bucket needs --s3-access-key and --s3-secret-key");
        };
        let endpoint = place.s3_endpoint.parse().with_context(|| format!("{:?} is no URL", place.s3_endpoint))?;
        // Path style works with every server; names of buckets need no DNS.
        let bucket = Bucket::new(endpoint, UrlStyle::Path, name.clone(), place.s3_region.clone())
            .with_context(|| format!("cannot use {:?} (--s3-endpoint)", place.s3_endpoint))?;
        let folder = match place.s3_folder.trim_matches('/') {
            "" => String::new(),
            folder => format!("{folder}/"),
        };
        let client = Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            .timeout(GOOD_FOR)
            .build()
            .context("cannot make a client for S3")?;
        Ok(Some(Self { bucket, credentials: Credentials::new(key.clone(), secret.clone()), folder, client }))
    }

    /// How an object is shown to people.
    pub fn location(&self, name: &str) -> String {
        format!("s3://{}/{}{name}", self.bucket.name(), self.folder)
    }

    /// Copies a file; the object is there whole or not at all.
    pub async fn put(&self, name: &str, file: &Path) -> anyhow::Result<()> {
        let key = format!("{}{name}", self.folder);
        let url = self.bucket.put_object(Some(&self.credentials), &key).sign(GOOD_FOR);
        let opened = tokio::fs::File::open(file).await.with_context(|| format!("cannot read {}", file.display()))?;
        let length = opened.metadata().await.with_context(|| format!("cannot read {}", file.display()))?.len();
        let request = self.client.put(url).header("content-length", length).body(reqwest::Body::from(opened));
        checked(request.send().await, "store", &self.location(name)).await.map(drop)
    }

    /// Fetches an object into a file, which gets its name when it is whole.
    pub async fn get(&self, name: &str, file: &Path) -> anyhow::Result<()> {
        let key = format!("{}{name}", self.folder);
        let url = self.bucket.get_object(Some(&self.credentials), &key).sign(GOOD_FOR);
        let location = self.location(name);
        let mut answer = checked(self.client.get(url).send().await, "fetch", &location).await?;
        let unfinished = file.with_extension("unfinished");
        let written = async {
            let mut target = tokio::fs::File::create(&unfinished).await?;
            while let Some(chunk) = answer.chunk().await? {
                target.write_all(&chunk).await?;
            }
            target.sync_all().await?;
            tokio::fs::rename(&unfinished, file).await?;
            Ok::<_, anyhow::Error>(())
        };
        written.await.with_context(|| format!("cannot fetch {location} to {}", file.display()))
    }

    pub async fn delete(&self, name: &str) -> anyhow::Result<()> {
        let key = format!("{}{name}", self.folder);
        let url = self.bucket.delete_object(Some(&self.credentials), &key).sign(GOOD_FOR);
        checked(self.client.delete(url).send().await, "remove", &self.location(name)).await.map(drop)
    }

    /// Names and sizes in the folder.
    pub async fn list(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let mut found = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let mut action = self.bucket.list_objects_v2(Some(&self.credentials));
            action.with_prefix(self.folder.clone());
            if let Some(token) = next.take() {
                action.with_continuation_token(token);
            }
            let url = action.sign(GOOD_FOR);
            let location = self.location("");
            let answer = checked(self.client.get(url).send().await, "list", &location).await?;
            let text = answer.text().await.with_context(|| format!("cannot list {location}"))?;
            let parsed = ListObjectsV2::parse_response(&text).with_context(|| format!("cannot list {location}"))?;
            for object in parsed.contents {
                if let Some(name) = object.key.strip_prefix(&self.folder)
                    && !name.is_empty()
                    && !name.contains('/')
                {
                    found.push((name.to_owned(), object.size.unwrap_or(0)));
                }
            }
            match parsed.next_continuation_token {
                Some(token) => next = Some(token),
                None => return Ok(found),
            }
        }
    }
}

/// The answer if it is a good one. Addresses are left out of errors: they carry signatures.
async fn checked(answer: reqwest::Result<Response>, step: &str, location: &str) -> anyhow::Result<Response> {
    let answer = answer.map_err(reqwest::Error::without_url).with_context(|| format!("cannot {step} {location}"))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    // S3's errors are XML with a <Code>, such as NoSuchBucket or SignatureDoesNotMatch.
    let text = answer.text().await.unwrap_or_default();
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map_or("", |(code, _)| code);
    bail!("cannot {step} {location}: the server answered {status} {code}")
}
