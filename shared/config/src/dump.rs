//! The merged configuration as TOML, secrets masked.

use serde::Serialize;

use crate::error::{Error, Result};
use crate::secret;

/// Writes a configuration as TOML that can be read again, but for its secrets.
///
/// # Errors
/// [`Error::Dump`] when a value has no form in TOML, which is a mistake in the options' type.
pub fn dump<T: Serialize>(config: &T) -> Result<String> {
    secret::masked(|| toml::to_string_pretty(config)).map_err(|source| Error::Dump { source })
}
