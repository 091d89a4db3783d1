//! The configuration that every process has.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use redkite_config::{ByteSize, Error, HumanDuration, Result, Secret, Validate};
use redkite_rpc::RpcOptions;
use redkite_storage::{CacheOptions, S3Options, StoreOptions, StoreUri};
use redkite_telemetry::TelemetryOptions;
use serde::{Deserialize, Serialize};

use crate::wal::{WalEngine, WalOptions};

/// Our own events; of libraries only what is wrong.
const LOG_FILTER: &str = "info,openraft=warn,sled=warn,h2=warn,hyper=warn,opendal=warn,ractor=warn";

/// The sections that every process has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeOptions {
    /// Where the process is and whom it talks to.
    pub common: CommonOptions,
    /// Where segment files are.
    pub storage: StorageOptions,
    /// The channels' logs.
    pub wal: WalOptions,
    /// Logs and traces.
    pub telemetry: TelemetryOptions,
    /// Calls between processes.
    pub rpc: RpcOptions,
}

impl Default for NodeOptions {
    fn default() -> Self {
        let telemetry = TelemetryOptions {
            log_filter: LOG_FILTER.to_owned(),
            ..TelemetryOptions::default()
        };
        Self {
            common: CommonOptions::default(),
            storage: StorageOptions::default(),
            wal: WalOptions::default(),
            telemetry,
            rpc: RpcOptions::default(),
        }
    }
}

/// Section `common` of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CommonOptions {
    /// Where the process keeps its files; processes of one machine may share it.
    pub data_dir: PathBuf,
    /// `host:port` that the service listens on; without it the role's own port on 127.0.0.1.
    pub listen: Option<String>,
    /// Host name or address under which the other processes reach this one; without it the one that
    /// it listens on.
    pub advertised_host: Option<String>,
    /// `host:port` of `/healthz`, `/readyz` and `/metrics`.
    pub admin_listen: String,
    /// `host:port` of each root coordinator.
    pub rootcoord: Vec<String>,
    /// A process that does not answer for so long is taken for dead.
    pub session_ttl: HumanDuration,
    /// How long a stopping process may take.
    pub stop_timeout: HumanDuration,
    /// Bytes that are kept free on the disks of the data directory and of the object store: with
    /// less, rows and definitions of users are refused, so that the rest can go on. 0 switches it
    /// off.
    pub min_free_space: ByteSize,
    /// Memory that the process may use, mapped files left out; 0 stands for 85 % of what the machine
    /// or the process's control group has. Writes and loads are refused beyond.
    pub memory_limit: ByteSize,
}

impl Default for CommonOptions {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./data"),
            listen: None,
            advertised_host: None,
            admin_listen: "127.0.0.1:9091".to_owned(),
            rootcoord: vec!["127.0.0.1:53100".to_owned()],
            session_ttl: HumanDuration::secs(10),
            stop_timeout: HumanDuration::secs(25),
            min_free_space: ByteSize::mib(256),
            memory_limit: ByteSize::bytes(0),
        }
    }
}

/// Section `storage` of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageOptions {
    /// Where segment files are: `fs://<directory>` or `s3://<bucket>[/<prefix>]`; without it
    /// `objects` in the data directory.
    pub uri: Option<String>,
    /// URL of an S3 server that is not Amazon's, `http://host:port`; else from `AWS_ENDPOINT_URL`.
    pub endpoint: Option<String>,
    /// Region that S3 requests are signed for; else from `AWS_REGION`, else `us-east-1`.
    pub region: Option<String>,
    /// Access key of S3; without it and the secret key from the environment, as Amazon's tools do.
    pub access_key: Option<String>,
    /// Secret key of S3.
    pub secret_key: Secret,
    /// Whether the bucket stands in the path of S3's URLs and not in the host name; without it yes
    /// for an endpoint that is not Amazon's.
    pub path_style: Option<bool>,
    /// How long one operation on S3 may take with its retries; what asked for it tries again later.
    pub timeout: HumanDuration,
    /// After this one request to S3 counts as lost.
    pub request_timeout: HumanDuration,
    /// Bytes of S3's objects that this process keeps on local disk; 0 for none.
    pub cache_size: ByteSize,
    /// Where they are; without it `cache/objects` in the data directory.
    pub cache_dir: Option<PathBuf>,
}

impl Default for StorageOptions {
    fn default() -> Self {
        Self {
            uri: None,
            endpoint: None,
            region: None,
            access_key: None,
            secret_key: Secret::default(),
            path_style: None,
            timeout: HumanDuration::secs(30),
            request_timeout: HumanDuration::secs(10),
            cache_size: ByteSize::gib(10),
            cache_dir: None,
        }
    }
}

impl StorageOptions {
    /// Whether any option is set that only S3 knows; its name.
    fn only_for_s3(&self) -> Option<&'static str> {
        let set = [
            ("storage.endpoint", self.endpoint.is_some()),
            ("storage.region", self.region.is_some()),
            ("storage.access_key", self.access_key.is_some()),
            ("storage.secret_key", !self.secret_key.is_empty()),
            ("storage.path_style", self.path_style.is_some()),
            ("storage.cache_dir", self.cache_dir.is_some()),
        ];
        set.into_iter()
            .find(|(_, is_set)| *is_set)
            .map(|(key, _)| key)
    }

    fn validate(&self, uri: &str) -> Result<()> {
        let parsed = StoreUri::parse(uri)
            .map_err(|error| Error::value("storage.uri", format!("cannot be used: {error}")))?;
        let is_s3 = matches!(parsed, StoreUri::S3 { .. });
        match self.only_for_s3() {
            Some(key) if !is_s3 => {
                return Err(Error::value(key, format!("is for s3:// and not for {uri}")));
            }
            Some(_) | None => {}
        }
        if self.access_key.is_some() == self.secret_key.is_empty() {
            return Err(Error::value(
                "storage.secret_key",
                "and storage.access_key go together",
            ));
        }
        if let Some(endpoint) = &self.endpoint
            && !endpoint.starts_with("http://")
            && !endpoint.starts_with("https://")
        {
            let problem = format!("is `{endpoint}`, not http://host:port or https://host");
            return Err(Error::value("storage.endpoint", problem));
        }
        if self.request_timeout.get().is_zero() || self.request_timeout > self.timeout {
            return Err(Error::value(
                "storage.request_timeout",
                "must be above 0 and at most storage.timeout",
            ));
        }
        Ok(())
    }
}

impl NodeOptions {
    /// The URI of the object store.
    pub fn storage_uri(&self) -> String {
        match &self.storage.uri {
            Some(uri) => uri.clone(),
            None => format!("fs://{}", self.common.data_dir.join("objects").display()),
        }
    }

    /// How the object store is opened.
    pub fn store_options(&self) -> StoreOptions {
        let storage = &self.storage;
        let secret_key = &storage.secret_key;
        StoreOptions {
            uri: self.storage_uri(),
            s3: S3Options {
                endpoint: storage.endpoint.clone(),
                region: storage.region.clone(),
                access_key: storage.access_key.clone(),
                secret_key: (!secret_key.is_empty()).then(|| secret_key.expose().to_owned()),
                path_style: storage.path_style,
            },
            timeout: storage.timeout.get(),
            request_timeout: storage.request_timeout.get(),
            cache: Some(CacheOptions {
                dir: match &storage.cache_dir {
                    Some(dir) => dir.clone(),
                    None => self.common.data_dir.join("cache").join("objects"),
                },
                size_bytes: storage.cache_size.as_u64(),
            }),
            probe: true,
        }
    }

    /// The directories of all that is written to local disks.
    pub fn local_dirs(&self) -> Vec<PathBuf> {
        let objects = self.storage_uri();
        let objects = objects.strip_prefix("fs://").map(PathBuf::from);
        [self.common.data_dir.clone()]
            .into_iter()
            .chain(objects)
            .collect()
    }

    /// The directory of the metastore.
    pub fn meta_dir(&self) -> PathBuf {
        self.common.data_dir.join("meta")
    }

    /// Whether the channels' logs are in the object store: as configured, or because that is what
    /// all machines have in common.
    pub fn wal_in_objects(&self) -> bool {
        match self.wal.engine {
            WalEngine::Local => false,
            WalEngine::Object => true,
            WalEngine::Auto => {
                let uri = self.storage_uri();
                let scheme = uri.split_once("://").map(|(scheme, _)| scheme);
                !matches!(scheme, None | Some("fs" | "file" | "memory"))
            }
        }
    }

    /// The directory of the channels' logs where they are files.
    pub fn wal_dir(&self) -> PathBuf {
        self.common.data_dir.join("wal")
    }
}

impl Validate for NodeOptions {
    fn validate(&self) -> Result<()> {
        let common = &self.common;
        if common.data_dir == Path::new("") {
            return Err(Error::value("common.data_dir", "must not be empty"));
        }
        let addresses = [
            ("common.listen", common.listen.as_deref()),
            ("common.admin_listen", Some(common.admin_listen.as_str())),
        ];
        for (key, address) in addresses {
            if let Some(address) = address {
                split_address(address).ok_or_else(|| not_an_address(key, address))?;
            }
        }
        if common.rootcoord.is_empty() {
            return Err(Error::value(
                "common.rootcoord",
                "must name one address at least",
            ));
        }
        for address in &common.rootcoord {
            split_address(address).ok_or_else(|| not_an_address("common.rootcoord", address))?;
        }
        if common.session_ttl.get().as_millis() < 1_000 {
            return Err(Error::value("common.session_ttl", "must be at least 1s"));
        }
        self.storage.validate(&self.storage_uri())?;
        self.wal.validate()?;
        self.rpc.validate()
    }
}

fn not_an_address(key: &str, address: &str) -> Error {
    Error::value(key, format!("is `{address}`, not host:port"))
}

/// Takes `host:port` apart; an IPv6 host stands in brackets.
pub fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let is_valid = match bare {
        Some(bare) => bare.parse::<IpAddr>().is_ok(),
        None => !host.is_empty() && !host.contains([':', '/', '[']),
    };
    is_valid.then_some((host, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key that is named, and what is set.
    type Wrong = (&'static str, fn(&mut StorageOptions));

    #[test]
    fn defaults_are_valid() {
        let options = NodeOptions::default();
        options.validate().unwrap();
        assert_eq!(options.storage_uri(), "fs://./data/objects");
    }

    #[test]
    fn logs_are_where_every_machine_finds_them() {
        let with = |uri: Option<&str>, engine| {
            let mut options = NodeOptions::default();
            options.storage.uri = uri.map(str::to_owned);
            options.wal.engine = engine;
            options.wal_in_objects()
        };
        assert!(!with(None, WalEngine::Auto));
        assert!(!with(Some("memory://"), WalEngine::Auto));
        assert!(with(Some("s3://bucket/prefix"), WalEngine::Auto));
        assert!(!with(Some("s3://bucket/prefix"), WalEngine::Local));
        assert!(with(Some("fs:///data"), WalEngine::Object));
    }

    #[test]
    fn addresses_are_taken_apart() {
        assert_eq!(split_address("127.0.0.1:80"), Some(("127.0.0.1", 80)));
        assert_eq!(split_address("[::1]:80"), Some(("[::1]", 80)));
        assert_eq!(split_address("db.local:0"), Some(("db.local", 0)));
        for wrong in [
            "",
            ":80",
            "::1:80",
            "host",
            "host:99999",
            "http://host:80",
            "[x]:1",
        ] {
            assert_eq!(split_address(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_wrong_value_names_its_key() {
        let mut options = NodeOptions::default();
        options.common.listen = Some("19530".to_owned());
        let error = options.validate().unwrap_err();
        assert!(error.to_string().contains("common.listen"), "{error}");
    }

    #[test]
    fn storage_options_that_contradict_each_other_are_refused() {
        let s3 = StorageOptions {
            uri: Some("s3://bucket/some/prefix".to_owned()),
            endpoint: Some("http://127.0.0.1:9000".to_owned()),
            access_key: Some("key".to_owned()),
            secret_key: "hush".into(),
            ..StorageOptions::default()
        };
        let with = |change: fn(&mut StorageOptions)| {
            let mut options = NodeOptions {
                storage: s3.clone(),
                ..NodeOptions::default()
            };
            change(&mut options.storage);
            options
        };
        let good = with(|_| {});
        good.validate().unwrap();
        let opened = good.store_options();
        assert_eq!(opened.s3.secret_key.as_deref(), Some("hush"));
        let cache = opened.cache.unwrap();
        assert_eq!(cache.dir, Path::new("./data/cache/objects"));
        assert_eq!(cache.size_bytes, 10 << 30);
        let dumped = redkite_config::dump(&good).unwrap();
        assert!(
            !dumped.contains("hush") && dumped.contains("***"),
            "{dumped}"
        );

        let wrong: [Wrong; 6] = [
            ("storage.uri", |s3| s3.uri = Some("s4://x".to_owned())),
            ("storage.endpoint", |s3| s3.uri = None),
            ("storage.endpoint", |s3| {
                s3.endpoint = Some("host:1".to_owned())
            }),
            ("storage.secret_key", |s3| s3.secret_key = Secret::default()),
            ("storage.secret_key", |s3| s3.access_key = None),
            ("storage.request_timeout", |s3| {
                s3.request_timeout = HumanDuration::secs(31);
            }),
        ];
        for (key, change) in wrong {
            let error = with(change).validate().unwrap_err().to_string();
            assert!(error.contains(key), "{key}: {error}");
        }
    }
}
