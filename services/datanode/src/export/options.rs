//! What an operator may set.

use redkite_config::{ByteSize, Error, HumanDuration, Result, Secret, Validate};
use redkite_storage::{S3Options, StoreOptions};
use serde::{Deserialize, Serialize};

/// Section `datanode.export` of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExportOptions {
    /// A file is ended once it is so large.
    pub max_file_size: ByteSize,
    /// Buckets of other stores; exports to all others go into the deployment's own store, below
    /// `exports/` and the bucket's name.
    pub buckets: Vec<BucketOptions>,
}

/// A bucket of another store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketOptions {
    /// Its name, in requests and in the store.
    pub bucket: String,
    /// URL of an S3 server that is not Amazon's.
    pub endpoint: Option<String>,
    /// Region that requests are signed for.
    pub region: Option<String>,
    /// Access key; without it and the secret key from the environment.
    pub access_key: Option<String>,
    /// Secret key; never printed.
    #[serde(default)]
    pub secret_key: Secret,
    /// Whether the bucket stands in the path of URLs.
    pub path_style: Option<bool>,
    /// How long one operation may take with its retries.
    #[serde(default = "half_a_minute")]
    pub timeout: HumanDuration,
}

const fn half_a_minute() -> HumanDuration {
    HumanDuration::secs(30)
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            max_file_size: ByteSize::mib(256),
            buckets: Vec::new(),
        }
    }
}

impl BucketOptions {
    /// How its store is opened.
    pub fn store(&self) -> StoreOptions {
        let secret = &self.secret_key;
        StoreOptions {
            timeout: self.timeout.get(),
            s3: S3Options {
                endpoint: self.endpoint.clone(),
                region: self.region.clone(),
                access_key: self.access_key.clone(),
                secret_key: (!secret.is_empty()).then(|| secret.expose().to_owned()),
                path_style: self.path_style,
            },
            ..StoreOptions::new(format!("s3://{}", self.bucket))
        }
    }
}

impl Validate for ExportOptions {
    fn validate(&self) -> Result<()> {
        if self.max_file_size < ByteSize::kib(64) {
            let reason = "must be at least 64KiB";
            return Err(Error::value("datanode.export.max_file_size", reason));
        }
        for (index, bucket) in self.buckets.iter().enumerate() {
            let name = &bucket.bucket;
            if name.is_empty() || self.buckets[..index].iter().any(|one| one.bucket == *name) {
                let reason = "has a bucket without a name or twice";
                return Err(Error::value("datanode.export.buckets", reason));
            }
            if bucket.access_key.is_some() == bucket.secret_key.is_empty() {
                let reason = "needs access_key and secret_key together";
                return Err(Error::value("datanode.export.buckets", reason));
            }
            if bucket.timeout.get().is_zero() {
                let reason = "has a timeout of 0";
                return Err(Error::value("datanode.export.buckets", reason));
            }
        }
        Ok(())
    }
}
