//! Where a bundle is, as requests say it: a path and an `external_spec`.
//!
//! # Source
//! The keys of `extfs` and the two forms of paths are facts of Milvus's external collections:
//! `s3://bucket/key`, and `s3://host:port/bucket/key` for stores of one's own.

use redkite_proto::redkite::meta::BundlePlace;
use redkite_types::{Error, ErrorCode, Result};
use serde_json::{Map, Value};

/// Keys that change nothing here unless they say something else than this server does.
const UNSUPPORTED: [&str; 7] = [
    "iam_endpoint",
    "ssl_ca_cert",
    "role_arn",
    "external_id",
    "session_name",
    "gcp_target_service_account",
    "credential_json",
];

/// Reads a path and a spec.
///
/// # Errors
/// Code 1100 for what cannot be read, 3000 for what is not supported.
pub(super) fn parse(path: &str, spec: &str) -> Result<BundlePlace> {
    let given = path.trim_end_matches('/');
    let extfs = Extfs::read(spec)?;
    let Some((scheme, rest)) = given.split_once("://") else {
        extfs.is_for_s3(false)?;
        return Ok(BundlePlace {
            root: given.to_owned(),
            given: given.to_owned(),
            ..BundlePlace::default()
        });
    };
    match scheme {
        "s3" | "s3a" | "aws" | "minio" => extfs.s3(given, scheme, rest),
        "fs" | "file" => {
            extfs.is_for_s3(false)?;
            Ok(BundlePlace {
                root: format!("fs://{rest}"),
                given: given.to_owned(),
                ..BundlePlace::default()
            })
        }
        other => Err(unsupported(format!("a path of scheme {other}"))),
    }
}

/// The section `extfs` of an external spec: texts, also where they are booleans.
#[derive(Default)]
struct Extfs(Map<String, Value>);

impl Extfs {
    fn read(spec: &str) -> Result<Self> {
        if spec.trim().is_empty() {
            return Ok(Self::default());
        }
        let wrong = |why: String| Error::invalid_parameter(format!("external_spec: {why}"));
        let spec: Map<String, Value> =
            serde_json::from_str(spec).map_err(|error| wrong(error.to_string()))?;
        let mut extfs = Map::new();
        for (section, value) in spec {
            match (section.as_str(), value) {
                ("extfs", Value::Object(keys)) => extfs = keys,
                ("extfs", Value::Null) => {}
                (other, _) => return Err(wrong(format!("{other} is not known, or not an object"))),
            }
        }
        Ok(Self(extfs))
    }

    fn take(&mut self, key: &str) -> Result<String> {
        match self.0.remove(key) {
            None | Some(Value::Null) => Ok(String::new()),
            Some(Value::String(text)) => Ok(text),
            Some(Value::Bool(flag)) => Ok(flag.to_string()),
            Some(_) => Err(Error::invalid_parameter(format!(
                "external_spec: extfs.{key} is not a text"
            ))),
        }
    }

    fn flag(&mut self, key: &str) -> Result<Option<bool>> {
        match self.take(key)?.as_str() {
            "" => Ok(None),
            "true" => Ok(Some(true)),
            "false" => Ok(Some(false)),
            other => Err(Error::invalid_parameter(format!(
                "external_spec: extfs.{key} is {other}, neither true nor false"
            ))),
        }
    }

    /// Refuses keys where there is nothing that they could be for.
    fn is_for_s3(&self, s3: bool) -> Result<()> {
        if s3 || self.0.is_empty() {
            return Ok(());
        }
        Err(Error::invalid_parameter(
            "external_spec: extfs is for paths of S3 only",
        ))
    }

    fn s3(mut self, given: &str, scheme: &str, rest: &str) -> Result<BundlePlace> {
        let provider = self.take("cloud_provider")?;
        if !matches!(provider.as_str(), "" | "aws" | "minio") {
            return Err(unsupported(format!("extfs.cloud_provider {provider}")));
        }
        let storage = self.take("storage_type")?;
        if !matches!(storage.as_str(), "" | "remote" | "minio") {
            return Err(unsupported(format!("extfs.storage_type {storage}")));
        }
        let address = self.take("address")?;
        let use_ssl = self.flag("use_ssl")?;
        let (host, rest) = rest.split_once('/').unwrap_or((rest, ""));
        let own = scheme == "minio" || provider == "minio";
        let is_host =
            host.contains(':') || host.ends_with(".amazonaws.com") || (own && address.is_empty());
        let (host, bucket, key) = match is_host {
            true => {
                let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
                (host, bucket, key)
            }
            false => ("", host, rest),
        };
        let named = self.take("bucket_name")?;
        if !named.is_empty() && named != bucket {
            return Err(Error::invalid_parameter(format!(
                "external_spec: extfs.bucket_name is {named}, but the path is in bucket {bucket}"
            )));
        }
        if bucket.is_empty() || key.is_empty() {
            return Err(Error::invalid_parameter(format!(
                "{given} names no bucket, or nothing in it"
            )));
        }
        let address = match address.as_str() {
            "" => host,
            address => address,
        };
        let (access_key, secret_key) =
            (self.take("access_key_id")?, self.take("access_key_value")?);
        if access_key.is_empty() != secret_key.is_empty() {
            return Err(Error::invalid_parameter(
                "external_spec: extfs.access_key_id and extfs.access_key_value go together",
            ));
        }
        if self.flag("use_iam")? == Some(true) && !access_key.is_empty() {
            return Err(Error::invalid_parameter(
                "external_spec: extfs.use_iam goes without keys",
            ));
        }
        let virtual_host = self.flag("use_virtual_host")?;
        let place = BundlePlace {
            root: format!("s3://{bucket}/{key}"),
            endpoint: endpoint(address, use_ssl),
            region: self.take("region")?,
            access_key,
            secret_key,
            path_style: virtual_host.map(|virtual_host| !virtual_host),
            given: given.to_owned(),
        };
        for key in UNSUPPORTED {
            if !self.take(key)?.is_empty() {
                return Err(unsupported(format!("extfs.{key}")));
            }
        }
        match self.0.keys().next() {
            None => Ok(place),
            Some(other) => Err(Error::invalid_parameter(format!(
                "external_spec: extfs.{other} is not known"
            ))),
        }
    }
}

/// The URL of a host: encrypted where that is said, and for Amazon's unless the contrary is.
fn endpoint(address: &str, use_ssl: Option<bool>) -> String {
    if address.is_empty() || address.contains("://") {
        return address.to_owned();
    }
    let encrypted = use_ssl.unwrap_or(address.ends_with(".amazonaws.com"));
    let scheme = if encrypted { "https" } else { "http" };
    format!("{scheme}://{address}")
}

fn unsupported(what: String) -> Error {
    Error::input(
        ErrorCode::UnsupportedOperation,
        format!("unsupported operation: {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_paths_are_read() {
        let spec = r#"{"extfs": {"cloud_provider": "minio", "region": "r", "use_ssl": "false",
            "access_key_id": "a", "access_key_value": "s"}}"#;
        let place = parse("s3://127.0.0.1:9000/bucket/one/two/", spec).unwrap();
        assert_eq!(place.root, "s3://bucket/one/two");
        assert_eq!(place.endpoint, "http://127.0.0.1:9000");
        assert_eq!(place.given, "s3://127.0.0.1:9000/bucket/one/two");
        assert_eq!(
            (place.region.as_str(), place.access_key.as_str()),
            ("r", "a")
        );
        let spec =
            r#"{"extfs": {"address": "store:9000", "use_ssl": true, "use_virtual_host": true}}"#;
        let place = parse("s3://bucket/one", spec).unwrap();
        assert_eq!(
            (place.root.as_str(), place.endpoint.as_str()),
            ("s3://bucket/one", "https://store:9000")
        );
        assert_eq!(place.path_style, Some(false));
        let place = parse("aws://s3.eu-west-1.amazonaws.com/bucket/one", "").unwrap();
        assert_eq!(place.endpoint, "https://s3.eu-west-1.amazonaws.com");
        assert_eq!(parse("backups/one", "").unwrap().root, "backups/one");
        assert_eq!(
            parse("file:///backups", "{}").unwrap().root,
            "fs:///backups"
        );
    }

    #[test]
    fn nothing_is_ignored() {
        let code = |path, spec| parse(path, spec).unwrap_err().code;
        for (path, spec) in [
            ("s3://bucket/x", "{"),
            ("s3://bucket/x", r#"{"format": "parquet"}"#),
            ("s3://bucket/x", r#"{"extfs": {"colour": "red"}}"#),
            ("s3://bucket/x", r#"{"extfs": {"access_key_id": "a"}}"#),
            ("s3://bucket/x", r#"{"extfs": {"bucket_name": "other"}}"#),
            ("s3://bucket/x", r#"{"extfs": {"use_ssl": "perhaps"}}"#),
            ("s3://bucket", ""),
            ("backups/x", r#"{"extfs": {"region": "r"}}"#),
        ] {
            assert_eq!(
                code(path, spec),
                ErrorCode::InvalidParameter,
                "{path} {spec}"
            );
        }
        for (path, spec) in [
            ("gs://bucket/x", ""),
            ("s3://bucket/x", r#"{"extfs": {"cloud_provider": "gcp"}}"#),
            ("s3://bucket/x", r#"{"extfs": {"ssl_ca_cert": "pem"}}"#),
        ] {
            assert_eq!(
                code(path, spec),
                ErrorCode::UnsupportedOperation,
                "{path} {spec}"
            );
        }
    }
}
