//! The flags that every binary has.

use std::path::PathBuf;

use crate::error::Result;
use crate::loader::LoadOptions;

/// Flags for configuration; flatten it into a binary's arguments.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ConfigArgs {
    /// TOML file to read
    #[arg(long, value_name = "FILE", env = "REDKITE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Set one value, for example --set rpc.drain_limit=5s; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
    /// Print the merged configuration, secrets masked, and exit
    #[arg(long)]
    pub dump_config: bool,
}

impl ConfigArgs {
    /// What these flags ask the loader to do.
    ///
    /// # Errors
    /// [`crate::Error::Override`] for a `--set` without an equals sign.
    pub fn load_options(&self) -> Result<LoadOptions> {
        let mut options = LoadOptions::default();
        options.file.clone_from(&self.config);
        for argument in &self.set {
            options = options.set_text(argument)?;
        }
        Ok(options)
    }
}
