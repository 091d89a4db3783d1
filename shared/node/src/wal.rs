//! Section `wal` of the configuration: the channels' logs.

use redkite_config::{ByteSize, Error, HumanDuration, Result, Validate};
use serde::{Deserialize, Serialize};

/// Most objects of one log that may be on their way at a time.
const MAX_IN_FLIGHT: usize = 64;

/// Where the channels' logs are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WalEngine {
    /// In the object store where that is on other machines, else in local files.
    #[default]
    Auto,
    /// In files in the data directory: fast, but they stay with the machine.
    Local,
    /// In the object store: any machine can go on with them.
    Object,
}

/// Section `wal` of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WalOptions {
    /// `auto`, `local` or `object`.
    pub engine: WalEngine,
    /// Object logs: while an object is on its way, writes gather for so long before the next one is
    /// sent.
    pub group_interval: HumanDuration,
    /// Object logs: writes that take up this much are sent without waiting for more; an object holds
    /// no more, unless a single write is larger.
    pub group_size: ByteSize,
    /// Object logs: objects of one channel on their way at a time.
    pub max_in_flight: usize,
    /// Object logs: a write that cannot be made for so long fails, and with it all that wait.
    pub write_timeout: HumanDuration,
    /// Local logs: a file that is larger is followed by a new one.
    pub segment_size: ByteSize,
    /// Bytes of one channel's writes that may wait for its log; more are refused.
    pub pending_limit: ByteSize,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self {
            engine: WalEngine::Auto,
            group_interval: HumanDuration::millis(10),
            group_size: ByteSize::mib(4),
            max_in_flight: 8,
            write_timeout: HumanDuration::secs(30),
            segment_size: ByteSize::mib(64),
            pending_limit: ByteSize::mib(256),
        }
    }
}

impl Validate for WalOptions {
    fn validate(&self) -> Result<()> {
        if !(1..=MAX_IN_FLIGHT).contains(&self.max_in_flight) {
            return Err(Error::value("wal.max_in_flight", "must be 1 to 64"));
        }
        let sizes = [
            ("wal.group_size", self.group_size, ByteSize::kib(4)),
            ("wal.segment_size", self.segment_size, ByteSize::kib(64)),
            ("wal.pending_limit", self.pending_limit, ByteSize::mib(1)),
        ];
        for (key, size, least) in sizes {
            if size < least {
                return Err(Error::value(key, format!("must be at least {least}")));
            }
        }
        if self.group_size > ByteSize::mib(256) {
            return Err(Error::value("wal.group_size", "must be at most 256MiB"));
        }
        if self.group_interval > HumanDuration::secs(10) {
            return Err(Error::value("wal.group_interval", "must be at most 10s"));
        }
        if self.write_timeout < HumanDuration::secs(1) {
            return Err(Error::value("wal.write_timeout", "must be at least 1s"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key that is named, and what is set.
    type Wrong = (&'static str, fn(&mut WalOptions));

    #[test]
    fn defaults_are_valid_and_nonsense_names_its_key() {
        WalOptions::default().validate().unwrap();
        let wrong: [Wrong; 4] = [
            ("wal.max_in_flight", |wal| wal.max_in_flight = 65),
            ("wal.group_size", |wal| wal.group_size = ByteSize::bytes(0)),
            ("wal.segment_size", |wal| {
                wal.segment_size = ByteSize::kib(1)
            }),
            ("wal.write_timeout", |wal| {
                wal.write_timeout = HumanDuration::millis(10);
            }),
        ];
        for (key, change) in wrong {
            let mut options = WalOptions::default();
            change(&mut options);
            let error = options.validate().unwrap_err().to_string();
            assert!(error.contains(key), "{key}: {error}");
        }
    }
}
