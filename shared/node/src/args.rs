//! The flags of a binary with one service.

use std::path::PathBuf;

use redkite_config::{ConfigArgs, LoadOptions, Result};

/// The flags of a binary with one service. They stand above file and environment.
#[derive(Clone, Debug, clap::Parser)]
pub struct NodeArgs {
    /// Where configuration comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Directory of this process's files
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address that the service listens on
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Host under which the other processes reach this one, when it is not the one it listens on
    #[arg(long, value_name = "HOST")]
    pub advertise: Option<String>,
    /// Address of /healthz, /readyz and /metrics
    #[arg(long, value_name = "HOST:PORT")]
    pub admin_listen: Option<String>,
    /// Address of the root coordinator; several separated by commas
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub rootcoord: Vec<String>,
}

impl NodeArgs {
    /// What these flags ask the loader to do.
    ///
    /// # Errors
    /// As [`ConfigArgs::load_options`].
    pub fn load_options(&self) -> Result<LoadOptions> {
        let mut load = self.config.load_options()?;
        if let Some(dir) = &self.data_dir {
            load = load.set("common.data_dir", dir)?;
        }
        if let Some(listen) = &self.listen {
            load = load.set("common.listen", listen)?;
        }
        if let Some(host) = &self.advertise {
            load = load.set("common.advertised_host", host)?;
        }
        if let Some(listen) = &self.admin_listen {
            load = load.set("common.admin_listen", listen)?;
        }
        if !self.rootcoord.is_empty() {
            load = load.set("common.rootcoord", &self.rootcoord)?;
        }
        Ok(load)
    }
}
