//! How a store is opened.

use std::{fmt, path::PathBuf, time::Duration};

use crate::{
    error::{Error, Result},
    layout::check_key,
};

/// How a store is opened; [`crate::open_with`].
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// `fs://<directory>`, `memory://` or `s3://<bucket>[/<prefix>]`.
    pub uri: String,
    /// Where and as whom S3 is called; unused by the other schemes.
    pub s3: S3Options,
    /// How long one operation may take with all its retries; a large object is moved in parts of
    /// [`crate::PART_BYTES`], each with a time of its own.
    pub timeout: Duration,
    /// After this one request is given up, and sent again if that is safe.
    pub request_timeout: Duration,
    /// Where copies of remote objects are kept; without it [`crate::ObjectStore::local_file`]
    /// has none. Unused where objects are local.
    pub cache: Option<CacheOptions>,
    /// Whether a remote store is tried out with a write before it is used; not for one that is only
    /// read.
    pub probe: bool,
}

impl StoreOptions {
    /// The defaults for a URI: 30 s an operation, 10 s a request, no cache.
    pub fn new(uri: impl Into<String>) -> Self {
        Self {
            uri: uri.into(),
            s3: S3Options::default(),
            timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(10),
            cache: None,
            probe: true,
        }
    }
}

/// Where and as whom S3 is called.
///
/// What is left out comes from the environment, as in Amazon's own tools: `AWS_ENDPOINT_URL`,
/// `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, profiles and instance roles.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct S3Options {
    /// `http://host:port` or `https://host`; Amazon's own without it.
    pub endpoint: Option<String>,
    /// Region that requests are signed for, `us-east-1` without it.
    pub region: Option<String>,
    /// Access key; goes together with the secret key.
    pub access_key: Option<String>,
    /// Secret key; never printed.
    pub secret_key: Option<String>,
    /// Whether the bucket stands in the path and not in the host name. Without it: yes for an
    /// endpoint of one's own, no for Amazon's.
    pub path_style: Option<bool>,
}

impl fmt::Debug for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Options")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("access_key", &self.access_key)
            .field("secret_key", &self.secret_key.as_ref().map(|_| "***"))
            .field("path_style", &self.path_style)
            .finish()
    }
}

/// Where copies of remote objects are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    /// Directory; processes may share it, each works below it in a place of its own.
    pub dir: PathBuf,
    /// Bytes of copies that one process keeps at most.
    pub size_bytes: u64,
}

/// A storage URI, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUri {
    /// Files below a directory.
    Local(PathBuf),
    /// Nothing survives the process.
    Memory,
    /// Objects of a bucket.
    S3 {
        /// The bucket.
        bucket: String,
        /// What all keys in it start with, without slashes at its ends; may be empty.
        prefix: String,
    },
}

impl StoreUri {
    /// Takes a URI apart.
    ///
    /// # Errors
    /// `InvalidUri`, saying what is wrong.
    pub fn parse(uri: &str) -> Result<Self> {
        let refuse = |reason: String| Error::InvalidUri {
            uri: uri.to_owned(),
            reason,
        };
        let Some((scheme, rest)) = uri.split_once("://") else {
            return Err(refuse("it has no scheme such as fs://".to_owned()));
        };
        match scheme {
            "fs" | "file" if rest.is_empty() => Err(refuse("it names no directory".to_owned())),
            "fs" | "file" => Ok(Self::Local(rest.into())),
            "memory" if rest.is_empty() => Ok(Self::Memory),
            "memory" => Err(refuse("memory:// has no path".to_owned())),
            "s3" => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                let prefix = prefix.trim_end_matches('/');
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
                if bucket.is_empty() || !bucket.bytes().all(plain) {
                    return Err(refuse("it names no bucket".to_owned()));
                }
                if !prefix.is_empty() {
                    check_key(prefix).map_err(|error| refuse(error.to_string()))?;
                }
                Ok(Self::S3 {
                    bucket: bucket.to_owned(),
                    prefix: prefix.to_owned(),
                })
            }
            other => Err(refuse(format!(
                "scheme {other} is unknown, supported: fs, memory, s3"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_taken_apart() {
        let s3 = |bucket: &str, prefix: &str| StoreUri::S3 {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        };
        assert_eq!(StoreUri::parse("s3://b").unwrap(), s3("b", ""));
        assert_eq!(StoreUri::parse("s3://b/").unwrap(), s3("b", ""));
        assert_eq!(StoreUri::parse("s3://b/x/y/").unwrap(), s3("b", "x/y"));
        assert_eq!(
            StoreUri::parse("fs://./a").unwrap(),
            StoreUri::Local("./a".into())
        );
        assert_eq!(StoreUri::parse("memory://").unwrap(), StoreUri::Memory);
        for wrong in [
            "",
            "fs://",
            "/tmp/x",
            "s4://bucket",
            "s3://",
            "s3:///x",
            "s3://b/../x",
            "s3://b//x",
            "s3://b?x=1",
            "memory://x",
        ] {
            assert!(StoreUri::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        let options = S3Options {
            secret_key: Some("hush".to_owned()),
            ..S3Options::default()
        };
        assert!(!format!("{options:?}").contains("hush"));
    }
}
