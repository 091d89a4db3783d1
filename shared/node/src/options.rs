//! The configuration that every process has.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use redkite_config::{ByteSize, Error, HumanDuration, Result, Validate};
use redkite_rpc::RpcOptions;
use redkite_telemetry::TelemetryOptions;
use serde::{Deserialize, Serialize};

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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageOptions {
    /// Where segment files are: `fs://<directory>`; without it `objects` in the data directory.
    pub uri: Option<String>,
}

impl NodeOptions {
    /// The URI of the object store.
    pub fn storage_uri(&self) -> String {
        match &self.storage.uri {
            Some(uri) => uri.clone(),
            None => format!("fs://{}", self.common.data_dir.join("objects").display()),
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

    /// The directory of the channels' logs.
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

    #[test]
    fn defaults_are_valid() {
        let options = NodeOptions::default();
        options.validate().unwrap();
        assert_eq!(options.storage_uri(), "fs://./data/objects");
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
}
