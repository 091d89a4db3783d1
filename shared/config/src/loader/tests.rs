use std::io::Write as _;

use serde::Deserialize;

use super::*;
use crate::{ByteSize, HumanDuration, Secret, dump};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Rpc {
    max_message: ByteSize,
    keepalive: HumanDuration,
    peers: Vec<String>,
    certificate: Option<String>,
}

impl Default for Rpc {
    fn default() -> Self {
        Self {
            max_message: ByteSize::mib(256),
            keepalive: HumanDuration::secs(10),
            peers: Vec::new(),
            certificate: None,
        }
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Proxy {
    listen: String,
    workers: usize,
    root_password: Secret,
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:19530".to_owned(),
            workers: 2,
            root_password: Secret::from("Milvus"),
        }
    }
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    rpc: Rpc,
    proxy: Proxy,
}

impl Validate for Config {
    fn validate(&self) -> Result<()> {
        if self.proxy.workers == 0 {
            return Err(Error::value("proxy.workers", "must not be 0"));
        }
        Ok(())
    }
}

fn file(text: &str) -> (tempfile::NamedTempFile, LoadOptions) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let path = file.path().to_owned();
    (
        file,
        LoadOptions {
            file: Some(path),
            ..LoadOptions::default()
        },
    )
}

/// Loads with variables of the environment set.
///
/// The environment belongs to the whole process; figment's jail puts it back and lets one such
/// test run at a time.
#[allow(clippy::result_large_err, reason = "figment's closure type")]
fn load_with_env(options: &LoadOptions, env: &[(&str, &str)]) -> Result<Config> {
    let mut loaded = None;
    figment::Jail::expect_with(|jail| {
        for (key, value) in env {
            jail.set_env(key, value);
        }
        loaded = Some(load(options));
        Ok(())
    });
    loaded.unwrap()
}

#[test]
fn without_any_layer_the_defaults_hold() {
    let config: Config = load(&LoadOptions {
        env: false,
        ..LoadOptions::default()
    })
    .unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.proxy.root_password.expose(), "Milvus");
}

#[test]
fn later_layers_win_and_leave_other_keys_alone() {
    let (_file, options) = file(
        "[rpc]\nmax_message = '1MiB'\nkeepalive = '1s'\n[proxy]\nlisten = 'file:1'\nworkers = 3\n",
    );
    let options = options.set_text("proxy.workers=7").unwrap();
    let config = load_with_env(
        &options,
        &[
            ("REDKITE__RPC__MAX_MESSAGE", "2MiB"),
            ("REDKITE__PROXY__WORKERS", "5"),
        ],
    )
    .unwrap();
    assert_eq!(config.rpc.keepalive, HumanDuration::secs(1));
    assert_eq!(config.rpc.max_message, ByteSize::mib(2));
    assert_eq!(config.proxy.workers, 7);
    assert_eq!(config.proxy.listen, "file:1");
    assert_eq!(config.rpc.peers, Vec::<String>::new());
}

#[test]
fn lists_and_explicit_values_can_be_set() {
    let options = LoadOptions {
        env: false,
        ..LoadOptions::default()
    }
    .set_text("rpc.peers=[a:1,b:2]")
    .unwrap()
    .set("rpc.max_message", 4096)
    .unwrap()
    .set("proxy.listen", "123")
    .unwrap();
    let config: Config = load(&options).unwrap();
    assert_eq!(config.rpc.peers, ["a:1", "b:2"]);
    assert_eq!(config.rpc.max_message, ByteSize::kib(4));
    assert_eq!(config.proxy.listen, "123");
}

#[test]
fn an_unknown_key_is_named_with_its_origin() {
    let (held, options) = file("[rpc]\nmax_mesage = 1\n");
    let text = load::<Config>(&options).unwrap_err().to_string();
    assert!(text.contains("unknown key `max_mesage`"), "{text}");
    assert!(text.contains("max_message, keepalive"), "{text}");
    assert!(text.contains("`rpc"), "{text}");
    assert!(text.contains(&held.path().display().to_string()), "{text}");

    let text = load_with_env(&LoadOptions::default(), &[("REDKITE__PROXY__WORKRES", "5")])
        .unwrap_err()
        .to_string();
    assert!(text.contains("workres"), "{text}");
    assert!(text.contains("REDKITE__"), "{text}");

    let options = LoadOptions::default().set_text("proxy.color=red").unwrap();
    let text = load::<Config>(&options).unwrap_err().to_string();
    assert!(
        text.contains("color") && text.contains("command line"),
        "{text}"
    );
}

#[test]
fn a_section_of_another_service_passes_and_one_of_nobody_does_not() {
    let (_file, options) = file("[datacoord]\nanything = 1\n[proxy]\nworkers = 4\n");
    assert_eq!(load::<Config>(&options).unwrap().proxy.workers, 4);

    let (_file, options) = file("[prxy]\nworkers = 4\n");
    let error = load::<Config>(&options).unwrap_err();
    assert!(
        matches!(&error, Error::UnknownSection { section, .. } if section == "prxy"),
        "{error}"
    );
}

#[test]
fn a_wrong_type_or_value_is_named() {
    let (_file, options) = file("[rpc]\nkeepalive = 5\n");
    let text = load::<Config>(&options).unwrap_err().to_string();
    assert!(text.contains("rpc.keepalive"), "{text}");

    let (_file, options) = file("[rpc]\nmax_message = 'much'\n");
    let text = load::<Config>(&options).unwrap_err().to_string();
    assert!(
        text.contains("`much`") && text.contains("rpc.max_message"),
        "{text}"
    );

    let (_file, options) = file("[proxy]\nworkers = 0\n");
    let text = load_valid::<Config>(&options).unwrap_err().to_string();
    assert!(text.contains("`proxy.workers` must not be 0"), "{text}");
}

#[test]
fn a_missing_file_and_a_broken_argument_are_errors() {
    let options = LoadOptions {
        file: Some(PathBuf::from("no/such/file.toml")),
        ..LoadOptions::default()
    };
    assert!(matches!(load::<Config>(&options), Err(Error::File { .. })));
    for argument in ["proxy.workers", "=5"] {
        let error = LoadOptions::default().set_text(argument).unwrap_err();
        assert!(matches!(error, Error::Override { .. }), "{error}");
    }
}

#[test]
fn the_dump_reads_back_and_masks_secrets() {
    let text = dump(&Config::default()).unwrap();
    assert!(text.contains("max_message = \"256MiB\""), "{text}");
    assert!(text.contains("root_password = \"***\""), "{text}");
    assert!(!text.contains("Milvus"), "{text}");
    let (_file, options) = file(&text);
    let config: Config = load(&options).unwrap();
    assert_eq!(config.rpc, Config::default().rpc);
    assert!(!format!("{config:?}").contains("Milvus"));
}
