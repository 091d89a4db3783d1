//! The binary as an operator sees it: start, refusal, stop.

#![allow(
    clippy::unwrap_used,
    reason = "the lint knows tests by their attribute, not by their file"
)]

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

/// A running `redkite standalone`; killed when the test fails.
struct Server {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(dir: &Path, port: u16, admin_port: u16) -> Self {
        let mut child = command(dir, port, admin_port).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    /// Reads what it prints until a line with this text.
    fn wait_for(&mut self, text: &str) {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            let read = self.out.read_line(&mut line).unwrap();
            assert!(
                read > 0,
                "it ended before it printed {text:?}: {}",
                self.errors()
            );
        }
    }

    fn interrupt(&mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-INT", &pid])
                .status()
                .unwrap()
                .success()
        );
        self.child.wait().unwrap()
    }

    fn errors(&mut self) -> String {
        let mut text = String::new();
        let _ = self.child.stderr.take().unwrap().read_to_string(&mut text);
        text
    }
}

fn command(dir: &Path, port: u16, admin_port: u16) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_redkite"));
    command
        .arg("standalone")
        .arg("--data-dir")
        .arg(dir)
        .args([
            "--port",
            &port.to_string(),
            "--admin-port",
            &admin_port.to_string(),
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Ports that nobody listens on at the moment.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// What a start that must fail says.
fn refusal(dir: &Path, port: u16, admin_port: u16) -> String {
    let output = command(dir, port, admin_port).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    errors
}

#[test]
fn it_says_how_to_connect_and_stops_cleanly_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let [port, admin_port] = free_ports();
    for _ in 0..2 {
        let mut server = Server::start(dir.path(), port, admin_port);
        server.wait_for(&format!("MilvusClient(\"http://127.0.0.1:{port}\")"));
        let status = server.interrupt();
        assert_eq!(status.code(), Some(0), "{}", server.errors());
    }
}

#[test]
fn a_data_directory_or_a_port_in_use_is_refused_by_name() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let [port, admin_port, free, free_admin] = free_ports();
    let mut server = Server::start(dir.path(), port, admin_port);
    server.wait_for("MilvusClient");

    let errors = refusal(dir.path(), free, free_admin);
    let pid = format!("in use by another process (pid {})", server.child.id());
    assert!(errors.contains(&pid), "{errors}");

    let errors = refusal(other.path(), port, free_admin);
    assert!(errors.contains(&format!("127.0.0.1:{port}")), "{errors}");
    assert!(errors.contains("--port"), "{errors}");

    let errors = refusal(other.path(), free, admin_port);
    assert!(errors.contains("--admin-port"), "{errors}");
}

#[test]
fn a_wrong_key_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let output = command(dir.path(), 0, 0)
        .args(["--set", "proxy.nope=1"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(
        errors.contains("nope") && errors.contains("proxy"),
        "{errors}"
    );
}
