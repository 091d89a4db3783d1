//! The section `rpc` of the configuration.

use redkite_config::{ByteSize, Error, HumanDuration, Result, Validate};
use serde::{Deserialize, Serialize};

/// What an operator may set about calls between processes and from clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RpcOptions {
    /// The largest message that is sent or taken.
    pub max_message_size: ByteSize,
    /// How long calls that run may take to finish when the server stops.
    pub drain_limit: HumanDuration,
    /// How often an idle connection is tested.
    pub keepalive_interval: HumanDuration,
    /// How long a test of a connection may take before the connection is given up.
    pub keepalive_timeout: HumanDuration,
    /// How long making a connection may take.
    pub connect_timeout: HumanDuration,
}

impl Default for RpcOptions {
    fn default() -> Self {
        Self {
            max_message_size: ByteSize::mib(256),
            drain_limit: HumanDuration::secs(10),
            keepalive_interval: HumanDuration::secs(10),
            keepalive_timeout: HumanDuration::secs(5),
            connect_timeout: HumanDuration::secs(3),
        }
    }
}

impl Validate for RpcOptions {
    fn validate(&self) -> Result<()> {
        if self.max_message_size < ByteSize::kib(64) {
            return Err(Error::value(
                "rpc.max_message_size",
                "must be at least 64KiB",
            ));
        }
        if self.max_message_size > ByteSize::gib(2) {
            return Err(Error::value("rpc.max_message_size", "must be at most 2GiB"));
        }
        let positive = [
            ("rpc.keepalive_interval", self.keepalive_interval),
            ("rpc.keepalive_timeout", self.keepalive_timeout),
            ("rpc.connect_timeout", self.connect_timeout),
        ];
        for (key, span) in positive {
            if span.get().is_zero() {
                return Err(Error::value(key, "must not be 0"));
            }
        }
        Ok(())
    }
}
