//! What an operator may set.

use redkite_config::{ByteSize, Error, HumanDuration, Result, Validate};
use serde::{Deserialize, Serialize};

/// Section `proxy` of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProxyOptions {
    /// How long a request may take when its client sets no deadline.
    pub request_timeout: HumanDuration,
    /// The same for a flush, which writes files before it answers.
    pub flush_timeout: HumanDuration,
    /// Largest message that a client may send.
    pub max_message_size: ByteSize,
    /// Bytes of inserts and upserts that may be on their way at the same time; more are refused with
    /// code 8, and clients send them again.
    pub write_buffer_size: ByteSize,
    /// How far a read with `Bounded` consistency may lag behind.
    pub graceful_time: HumanDuration,
    /// How long a question for the load progress waits for the load to end before it answers.
    pub load_poll: HumanDuration,
}

/// Section `security` of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SecurityOptions {
    /// Whether users must come with their passwords and may do only what was granted to them;
    /// Milvus's `common.security.authorizationEnabled`.
    pub authorization: bool,
}

impl Default for ProxyOptions {
    fn default() -> Self {
        Self {
            request_timeout: HumanDuration::secs(60),
            flush_timeout: HumanDuration::secs(600),
            max_message_size: ByteSize::mib(256),
            write_buffer_size: ByteSize::gib(1),
            graceful_time: HumanDuration::secs(5),
            load_poll: HumanDuration::millis(200),
        }
    }
}

impl Validate for ProxyOptions {
    fn validate(&self) -> Result<()> {
        let positive = [
            ("proxy.request_timeout", self.request_timeout),
            ("proxy.flush_timeout", self.flush_timeout),
        ];
        for (key, span) in positive {
            if span.get().is_zero() {
                return Err(Error::value(key, "must not be 0"));
            }
        }
        if self.max_message_size < ByteSize::kib(64) {
            return Err(Error::value(
                "proxy.max_message_size",
                "must be at least 64KiB",
            ));
        }
        if self.write_buffer_size < ByteSize::mib(1) {
            return Err(Error::value(
                "proxy.write_buffer_size",
                "must be at least 1MiB",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_nonsense_names_its_key() {
        ProxyOptions::default().validate().unwrap();
        let bad = ProxyOptions {
            max_message_size: ByteSize::bytes(1),
            ..ProxyOptions::default()
        };
        assert!(
            bad.validate()
                .unwrap_err()
                .to_string()
                .contains("proxy.max_message_size")
        );
        let unknown = serde_json::from_str::<ProxyOptions>(r#"{"timeout": "1s"}"#).unwrap_err();
        assert!(unknown.to_string().contains("timeout"), "{unknown}");
    }
}
