//! What an operator may set.

use redkite_catalog::privileges::ROOT;
use redkite_config::{Error, HumanDuration, Result, Secret, Validate};
use serde::{Deserialize, Serialize};

/// Section `vikingdb` of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VikingDbOptions {
    /// `host:port` of VikingDB's API; without it there is none.
    pub listen: Option<String>,
    /// A single access key; more of them are in `keys`.
    pub access_key: Option<String>,
    /// The secret key of `access_key`.
    pub secret_key: Secret,
    /// The user of `access_key`.
    pub user: String,
    /// Access keys.
    pub keys: Vec<AccessKey>,
    /// How far the date of a request may be from the server's clock, in either direction.
    pub clock_window: HumanDuration,
}

/// An access key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessKey {
    /// What a request names.
    pub access_key: String,
    /// What it is signed with; never printed.
    pub secret_key: Secret,
    /// The user of the system whose requests these are.
    #[serde(default = "root")]
    pub user: String,
}

fn root() -> String {
    ROOT.to_owned()
}

impl Default for VikingDbOptions {
    fn default() -> Self {
        Self {
            listen: None,
            access_key: None,
            secret_key: Secret::default(),
            user: root(),
            keys: Vec::new(),
            clock_window: HumanDuration::secs(15 * 60),
        }
    }
}

impl VikingDbOptions {
    /// All access keys.
    pub fn access_keys(&self) -> Vec<AccessKey> {
        let single = self.access_key.iter().map(|access_key| AccessKey {
            access_key: access_key.clone(),
            secret_key: self.secret_key.clone(),
            user: self.user.clone(),
        });
        single.chain(self.keys.iter().cloned()).collect()
    }

    /// The key of a name.
    pub fn key(&self, name: &str) -> Option<AccessKey> {
        let mut keys = self.access_keys().into_iter();
        keys.find(|key| key.access_key == name)
    }
}

impl Validate for VikingDbOptions {
    fn validate(&self) -> Result<()> {
        if self.access_key.is_some() == self.secret_key.is_empty() {
            let reason = "and vikingdb.access_key go together";
            return Err(Error::value("vikingdb.secret_key", reason));
        }
        let keys = self.access_keys();
        if self.listen.is_some() && keys.is_empty() {
            let reason = "is needed, or a list in vikingdb.keys, where vikingdb.listen is set";
            return Err(Error::value("vikingdb.access_key", reason));
        }
        for (index, key) in keys.iter().enumerate() {
            let plain = |byte: u8| byte.is_ascii_graphic() && !b"/,;=".contains(&byte);
            if key.access_key.is_empty() || !key.access_key.bytes().all(plain) {
                let reason = "has an access_key that cannot stand in a header";
                return Err(Error::value("vikingdb.keys", reason));
            }
            if key.secret_key.is_empty() || key.user.is_empty() {
                let reason = "has a key without a secret_key or a user";
                return Err(Error::value("vikingdb.keys", reason));
            }
            if keys[..index]
                .iter()
                .any(|other| other.access_key == key.access_key)
            {
                let reason = "has an access_key twice";
                return Err(Error::value("vikingdb.keys", reason));
            }
        }
        if self.clock_window.get().is_zero() {
            return Err(Error::value("vikingdb.clock_window", "must not be 0"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_with_secrets_and_a_listener_with_keys() {
        VikingDbOptions::default().validate().unwrap();
        let mut options = VikingDbOptions {
            listen: Some("127.0.0.1:0".to_owned()),
            ..VikingDbOptions::default()
        };
        let text = options.validate().unwrap_err().to_string();
        assert!(text.contains("vikingdb.access_key"), "{text}");
        options.access_key = Some("AK".to_owned());
        let text = options.validate().unwrap_err().to_string();
        assert!(text.contains("vikingdb.secret_key"), "{text}");
        options.secret_key = "hush".into();
        options.validate().unwrap();
        options.keys = options.access_keys();
        let text = options.validate().unwrap_err().to_string();
        assert!(text.contains("twice") && !text.contains("hush"), "{text}");
        assert!(!format!("{options:?}").contains("hush"));
    }
}
