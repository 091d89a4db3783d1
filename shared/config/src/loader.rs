//! Merging the layers into one typed value.

use std::path::PathBuf;

use figment::error::Kind;
use figment::providers::{Env, Format as _, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// The sections of all services.
///
/// One file may configure a whole cluster: each binary reads its own sections, lets the others
/// pass, and refuses what nobody knows.
pub const SECTIONS: &[&str] = &[
    "common",
    "raft",
    "storage",
    "wal",
    "telemetry",
    "rpc",
    "proxy",
    "security",
    "vikingdb",
    "rootcoord",
    "datacoord",
    "metastore",
    "querycoord",
    "querynode",
    "datanode",
];

/// Variables of the environment that count: `REDKITE__SECTION__KEY`.
const ENV_PREFIX: &str = "REDKITE__";

/// Where values come from, beside the defaults.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// A TOML file; it must be there.
    pub file: Option<PathBuf>,
    /// Whether the environment counts.
    pub env: bool,
    overrides: Vec<(String, Value)>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            file: None,
            env: true,
            overrides: Vec::new(),
        }
    }
}

impl LoadOptions {
    /// Sets one value above all layers; a later one wins. The key is `section.key`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the value has no form in a configuration.
    pub fn set(mut self, key: &str, value: impl Serialize) -> Result<Self> {
        let value = Value::serialize(value).map_err(|error| invalid(&error))?;
        self.overrides.push((key.to_owned(), value));
        Ok(self)
    }

    /// Sets one value from a text `section.key=value`, read as the environment is: `12` is a
    /// number, `true` a boolean, `[a,b]` a list, `"12"` a text, anything else a text.
    ///
    /// # Errors
    /// [`Error::Override`] when there is no equals sign or no key.
    pub fn set_text(mut self, argument: &str) -> Result<Self> {
        let wrong = || Error::Override {
            argument: argument.to_owned(),
        };
        let (key, text) = argument.split_once('=').ok_or_else(wrong)?;
        if key.trim().is_empty() {
            return Err(wrong());
        }
        let Ok(value) = text.trim().parse::<Value>();
        self.overrides.push((key.trim().to_owned(), value));
        Ok(self)
    }
}

/// What a configuration checks beyond its types.
pub trait Validate {
    /// Answers the first value that makes no sense, as [`Error::value`].
    ///
    /// # Errors
    /// [`Error::Value`], which names the key.
    fn validate(&self) -> Result<()>;
}

/// Merges defaults, file, environment and overrides.
///
/// # Errors
/// [`Error::File`] when the file cannot be read; [`Error::UnknownSection`] and [`Error::Invalid`]
/// name each wrong key and the layer it stands in. Options must say `deny_unknown_fields` for that.
pub fn load<T: Serialize + DeserializeOwned + Default>(options: &LoadOptions) -> Result<T> {
    let defaults = Figment::from(Serialized::defaults(T::default()));
    let own: Dict = defaults.extract().map_err(|error| invalid(&error))?;
    let layers = layers(options, &own)?;
    defaults
        .merge(layers)
        .extract()
        .map_err(|error| invalid(&error))
}

/// [`load`], then [`Validate::validate`].
///
/// # Errors
/// Those of both.
pub fn load_valid<T>(options: &LoadOptions) -> Result<T>
where
    T: Serialize + DeserializeOwned + Default + Validate,
{
    let config: T = load(options)?;
    config.validate()?;
    Ok(config)
}

/// Everything above the defaults, without the sections of other services.
fn layers(options: &LoadOptions, own: &Dict) -> Result<Figment> {
    let mut layers = Figment::new();
    if let Some(path) = &options.file {
        std::fs::metadata(path).map_err(|source| Error::File {
            path: path.clone(),
            source,
        })?;
        layers = layers.merge(Own {
            layer: Toml::file_exact(path),
            own,
        });
    }
    if options.env {
        layers = layers.merge(Own {
            layer: Env::prefixed(ENV_PREFIX).split("__"),
            own,
        });
    }
    for (key, value) in &options.overrides {
        layers = layers.merge(Own {
            layer: Override { key, value },
            own,
        });
    }
    let given: Dict = layers.extract().map_err(|error| invalid(&error))?;
    for section in given.keys() {
        if !own.contains_key(section) {
            return Err(Error::UnknownSection {
                section: section.clone(),
                origin: layers
                    .find_metadata(section)
                    .map(origin)
                    .unwrap_or_default(),
                known: own
                    .keys()
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .join(", "),
            });
        }
    }
    Ok(layers)
}

/// A layer without the sections that belong to other services.
struct Own<'a, P> {
    layer: P,
    own: &'a Dict,
}

impl<P: Provider> Provider for Own<'_, P> {
    fn metadata(&self) -> Metadata {
        self.layer.metadata()
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let mut data = self.layer.data()?;
        for values in data.values_mut() {
            values.retain(|section, _| {
                self.own.contains_key(section) || !SECTIONS.contains(&section.as_str())
            });
        }
        Ok(data)
    }
}

/// One value from the command line.
struct Override<'a> {
    key: &'a str,
    value: &'a Value,
}

impl Provider for Override<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named("the command line")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Serialized::default(self.key, self.value).data()
    }
}

/// One line for each thing that is wrong: what, at which key, in which layer.
fn invalid(error: &figment::Error) -> Error {
    let problems = error.clone().into_iter().map(|error| {
        let mut line = match &error.kind {
            Kind::UnknownField(name, known) => {
                format!("unknown key `{name}`, known are: {}", known.join(", "))
            }
            kind => kind.to_string(),
        };
        if !error.path.is_empty() {
            line.push_str(&format!(" at `{}`", error.path.join(".")));
        }
        if let Some(metadata) = &error.metadata {
            line.push_str(&format!(" in {}", origin(metadata)));
        }
        line
    });
    Error::Invalid {
        problems: problems.collect(),
    }
}

fn origin(metadata: &Metadata) -> String {
    match &metadata.source {
        Some(Source::File(path)) => path.display().to_string(),
        Some(_) | None => metadata.name.replace('`', ""),
    }
}

#[cfg(test)]
mod tests;
