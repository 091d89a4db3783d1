//! How far the index builds are that run now.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use redkite_proto::redkite::datanode::RunningBuild;
use redkite_types::BuildId;

/// The builds that run now. Clones are the same ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunningBuilds(Arc<Mutex<HashMap<BuildId, Arc<RowsDone>>>>);

/// The rows of one build.
#[derive(Debug)]
pub(crate) struct RowsDone {
    done: AtomicUsize,
    rows: usize,
}

impl RowsDone {
    /// Where the build counts.
    pub(crate) fn counter(&self) -> &AtomicUsize {
        &self.done
    }
}

/// Shows a build until it is dropped.
#[derive(Debug)]
#[must_use = "a build is shown only while the guard is there"]
pub(crate) struct Running {
    builds: RunningBuilds,
    build: BuildId,
    rows: Arc<RowsDone>,
}

impl Running {
    pub(crate) fn rows(&self) -> &Arc<RowsDone> {
        &self.rows
    }
}

impl RunningBuilds {
    /// Shows a build over so many rows. Of two that run under one id, as when the call for the first was cut
    /// off and it has not noticed yet, the later one is shown.
    pub(crate) fn begin(&self, build: BuildId, rows: usize) -> Running {
        let rows = Arc::new(RowsDone {
            done: AtomicUsize::new(0),
            rows,
        });
        self.0.lock().insert(build, rows.clone());
        Running {
            builds: self.clone(),
            build,
            rows,
        }
    }

    /// Those of the builds that run now.
    pub(crate) fn of(&self, builds: &[i64]) -> Vec<RunningBuild> {
        let running = self.0.lock();
        let found = builds.iter().filter_map(|build| {
            let rows = running.get(&BuildId(*build))?;
            Some(RunningBuild {
                build_id: *build,
                rows_done: rows.done.load(Ordering::Relaxed) as i64,
                rows: rows.rows as i64,
            })
        });
        found.collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Entry::Occupied(shown) = self.builds.0.lock().entry(self.build)
            && Arc::ptr_eq(shown.get(), &self.rows)
        {
            shown.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(builds: &RunningBuilds, build: i64) -> Option<(i64, i64)> {
        let found = builds.of(&[build, build + 1_000]);
        assert!(found.iter().all(|running| running.build_id == build));
        found
            .first()
            .map(|running| (running.rows_done, running.rows))
    }

    #[test]
    fn a_build_is_shown_while_it_runs() {
        let builds = RunningBuilds::default();
        assert_eq!(shown(&builds, 7), None);
        let (seven, eight) = (builds.begin(BuildId(7), 100), builds.begin(BuildId(8), 50));
        seven.rows().counter().fetch_add(30, Ordering::Relaxed);
        assert_eq!(shown(&builds, 7), Some((30, 100)));
        assert_eq!(shown(&builds, 8), Some((0, 50)));
        drop(seven);
        assert_eq!(shown(&builds, 7), None);
        assert_eq!(shown(&builds, 8), Some((0, 50)));
        drop(eight);
        assert_eq!(shown(&builds, 8), None);
    }

    #[test]
    fn a_build_that_was_replaced_takes_nothing_away_at_its_end() {
        let builds = RunningBuilds::default();
        let first = builds.begin(BuildId(7), 100);
        let second = builds.begin(BuildId(7), 100);
        second.rows().counter().fetch_add(5, Ordering::Relaxed);
        first.rows().counter().fetch_add(90, Ordering::Relaxed);
        drop(first);
        assert_eq!(shown(&builds, 7), Some((5, 100)));
        drop(second);
        assert_eq!(shown(&builds, 7), None);
    }
}
