//! Places at which a test may hold a process, so that it, or another one, can be killed just there.
//!
//! They are there in builds with debug assertions alone, and do nothing unless the environment names a directory:
//! `REDKITE_HOLD_DIR`. A test that wants a process held at a place makes a file of the place's name in it. Who comes there
//! first renames it to `{name}.held`, and goes on once that is gone; all others, and the same process after a
//! restart, do not stop.

#[cfg(debug_assertions)]
mod imp {
    use std::{path::PathBuf, sync::OnceLock, time::Duration};

    const INTERVAL: Duration = Duration::from_millis(5);

    pub(super) async fn hold(parts: &[&str]) {
        static DIR: OnceLock<Option<PathBuf>> = OnceLock::new();
        let dir = DIR.get_or_init(|| std::env::var_os("REDKITE_HOLD_DIR").map(PathBuf::from));
        let Some(dir) = dir else {
            return;
        };
        let name = parts.join(".");
        let held = dir.join(format!("{name}.held"));
        // Only one of many can.
        if std::fs::rename(dir.join(&name), &held).is_err() {
            return;
        }
        tracing::warn!(place = name, "held by a test");
        while held.exists() {
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

/// A place, named by its parts, at which a test may have the caller wait.
#[cfg(debug_assertions)]
pub async fn hold_here(parts: &[&str]) {
    imp::hold(parts).await;
}

/// A place, named by its parts, at which nobody waits in this build.
#[cfg(not(debug_assertions))]
pub fn hold_here(_parts: &[&str]) -> std::future::Ready<()> {
    std::future::ready(())
}
