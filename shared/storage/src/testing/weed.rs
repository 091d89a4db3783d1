//! A SeaweedFS server on loopback, with S3 in front.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use redkite_runtime::{Random, testing::eventually};

use crate::options::{S3Options, StoreOptions};

const ACCESS_KEY: &str = "redkite";
const SECRET_KEY: &str = "redkite-secret";

/// How long the server may take until it answers; it needs about three seconds.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Runs the server and outlives it: when the pipe on its input ends, because the test has dropped
/// its end or is gone, however it went, the server is killed and its files are removed.
/// `$1` is the directory, `$2` a pattern of sockets that the server leaves; the rest is its command.
const KEEPER: &str = r#"
dir=$1; sockets=$2; shift 2
"$@" >"$dir/log" 2>&1 </dev/null &
server=$!
cat >/dev/null
kill -9 $server
wait $server 2>/dev/null
rm -rf "$dir" $sockets
"#;

/// A running server with a bucket. It ends when this is dropped or the process ends.
#[derive(Debug)]
pub struct Weed {
    s3: SocketAddr,
    filer: SocketAddr,
    /// `None` once it was let go.
    input: Option<ChildStdin>,
    keeper: Child,
    buckets: AtomicU64,
}

impl Weed {
    /// Starts a server, or says on stderr that there is none: `REDKITE_WEED` names its binary,
    /// without it `.venv/bin/weed` at the workspace's root is taken.
    ///
    /// # Panics
    /// When it does not start, or `REDKITE_WEED` names no file.
    pub async fn start() -> Option<Self> {
        let Some(binary) = binary() else {
            eprintln!(
                "skipped: no S3 server to test with; set REDKITE_WEED or run `make .venv/ready`"
            );
            return None;
        };
        let weed = Self::spawn(&binary);
        eventually("the S3 server answers", START_LIMIT, || {
            std::future::ready(weed.is_up().then_some(()))
        })
        .await;
        Some(weed)
    }

    #[allow(
        clippy::zombie_processes,
        reason = "drop waits for it; it ends with the pipe in any case"
    )]
    fn spawn(binary: &Path) -> Self {
        let ports = free_ports::<8>();
        let [
            master,
            master_rpc,
            volume,
            volume_rpc,
            filer,
            filer_rpc,
            s3,
            s3_rpc,
        ] = ports;
        let name = format!("redkite-weed-{}-{s3}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).expect("a directory for the S3 server");
        let keys = dir.join("s3.json");
        std::fs::write(&keys, identities()).expect("the keys of the S3 server");
        let sockets: Vec<String> = [filer, filer_rpc, master_rpc, volume_rpc, s3, s3_rpc]
            .iter()
            .map(|port| format!("/tmp/seaweedfs-*-{port}.sock"))
            .collect();
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "sh"])
            .arg(&dir)
            .arg(sockets.join(" "))
            .arg(binary)
            .args([
                "server",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-filer",
                "-s3",
            ])
            .arg(format!("-dir={}", dir.display()))
            .arg(format!("-master.port={master}"))
            .arg(format!("-master.port.grpc={master_rpc}"))
            .arg(format!("-volume.port={volume}"))
            .arg(format!("-volume.port.grpc={volume_rpc}"))
            .arg(format!("-filer.port={filer}"))
            .arg(format!("-filer.port.grpc={filer_rpc}"))
            .arg(format!("-s3.port={s3}"))
            .arg(format!("-s3.port.grpc={s3_rpc}"))
            .args(["-s3.port.iceberg=0", "-s3.port.lance=0"])
            .args(["-s3.autoCreateBucket=false", "-master.telemetry=false"])
            .args(["-master.volumeSizeLimitMB=64", "-volume.max=400"])
            .arg(format!("-s3.config={}", keys.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        Self {
            s3: ([127, 0, 0, 1], s3).into(),
            filer: ([127, 0, 0, 1], filer).into(),
            input: keeper.stdin.take(),
            keeper,
            buckets: AtomicU64::new(0),
        }
    }

    /// Where S3 is.
    pub fn address(&self) -> SocketAddr {
        self.s3
    }

    /// How to reach S3, with the right keys.
    pub fn s3_options(&self) -> S3Options {
        S3Options {
            endpoint: Some(format!("http://{}", self.s3)),
            access_key: Some(ACCESS_KEY.to_owned()),
            secret_key: Some(SECRET_KEY.to_owned()),
            ..S3Options::default()
        }
    }

    /// Options for a store in a new bucket.
    ///
    /// # Panics
    /// When the server does not make the bucket.
    pub fn new_store(&self) -> StoreOptions {
        let number = self.buckets.fetch_add(1, Ordering::Relaxed);
        let bucket = format!("bucket-{number}");
        let status = http(self.filer, "POST", &format!("/buckets/{bucket}/"));
        assert_eq!(status, Some(201), "bucket {bucket} was not made");
        StoreOptions {
            s3: self.s3_options(),
            ..StoreOptions::new(format!("s3://{bucket}/some/prefix"))
        }
    }

    /// Buckets can be made and S3 answers, if only that it does not know us.
    fn is_up(&self) -> bool {
        http(self.filer, "GET", "/buckets/").is_some_and(|status| status < 500)
            && http(self.s3, "GET", "/").is_some_and(|status| status < 500)
            && http(self.filer, "POST", "/buckets/probe-bucket/") == Some(201)
    }
}

impl Drop for Weed {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.keeper.wait();
    }
}

fn binary() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("REDKITE_WEED") {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "REDKITE_WEED={} is no file", path.display());
        return Some(path);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2)?;
    let path = root.join(".venv/bin/weed");
    path.is_file().then_some(path)
}

fn identities() -> String {
    format!(
        r#"{{"identities":[{{"name":"test",
            "credentials":[{{"accessKey":"{ACCESS_KEY}","secretKey":"{SECRET_KEY}"}}],
            "actions":["Admin","Read","Write","List","Tagging"]}}]}}"#
    )
}

/// Loopback ports that nothing listens on, below the range from which outgoing connections take
/// theirs.
fn free_ports<const N: usize>() -> [u16; N] {
    let random = Random::from_system();
    let mut listeners = Vec::new();
    while listeners.len() < N {
        let port = 12_000 + random.below(20_000) as u16;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            listeners.push((port, listener));
        }
    }
    std::array::from_fn(|i| listeners[i].0)
}

/// The status of an HTTP request without a body; `None` where nothing answers.
fn http(address: SocketAddr, method: &str, path: &str) -> Option<u16> {
    let limit = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&address, limit).ok()?;
    stream.set_read_timeout(Some(limit)).ok()?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).ok()?;
    std::str::from_utf8(&head[9..]).ok()?.parse().ok()
}
