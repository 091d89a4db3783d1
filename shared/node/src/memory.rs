//! How much memory a process uses against what it may, so that work is refused before the kernel
//! kills the process.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use redkite_types::{Error, ErrorCode, Result};

/// Share of the memory there is, in percent, that is used unless a limit is set.
const DEFAULT_SHARE: u64 = 85;

/// Share of the limit, in percent, that work which can wait may fill. The rest is left to users:
/// what a compaction claims at once must not make a write fail.
const BACKGROUND_SHARE: u64 = 75;

/// Who asks for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryUse {
    /// Rows and loads of users: up to the limit.
    User,
    /// Work that can wait, as compaction: it is refused earlier.
    Background,
}

/// The memory of this process.
///
/// What is used is measured from time to time, memory that is mapped from files left out; what is
/// claimed in between is added, so that a burst cannot outrun the measure.
#[derive(Debug)]
pub struct MemoryBudget {
    limit: u64,
    used: AtomicU64,
    /// Of work that is running, allocated or not.
    reserved: AtomicU64,
}

/// Room for a long piece of work, until it is dropped.
#[derive(Debug)]
pub struct MemoryReservation {
    budget: Arc<MemoryBudget>,
    bytes: u64,
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        self.budget
            .reserved
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl MemoryBudget {
    /// A budget of `limit` bytes; 0 stands for most of what the machine, or the group of processes
    /// that this one is in, has.
    pub fn new(limit: u64) -> Self {
        let limit = match limit {
            0 => available().map_or(u64::MAX, |bytes| bytes / 100 * DEFAULT_SHARE),
            limit => limit,
        };
        let budget = Self {
            limit,
            used: AtomicU64::new(0),
            reserved: AtomicU64::new(0),
        };
        budget.measure();
        budget
    }

    /// Refuses nothing; for tests.
    pub fn unlimited() -> Self {
        Self::new(u64::MAX)
    }

    /// Bytes that may be used.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes used as of the last measure, with what was claimed since.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Looks again. Blocks for a moment.
    pub fn measure(&self) {
        if let Some(used) = anonymous_bytes() {
            self.used.store(used, Ordering::Relaxed);
        }
    }

    /// Takes room for work that allocates while it runs. Other work that can wait is not given it, also
    /// after the next measure, which knows nothing of what is still to come. What the work has
    /// allocated by then counts twice: rather one build too few at a time than one too many.
    ///
    /// # Errors
    /// As [`MemoryBudget::claim`].
    pub fn reserve(self: &Arc<Self>, what: &str, bytes: u64) -> Result<MemoryReservation> {
        self.claim(MemoryUse::Background, what, bytes)?;
        self.reserved.fetch_add(bytes, Ordering::Relaxed);
        Ok(MemoryReservation {
            budget: self.clone(),
            bytes,
        })
    }

    /// Takes room for bytes that are about to be allocated. They need not be given back: the next
    /// measure knows.
    ///
    /// # Errors
    /// Code 3; nothing was taken. It passes when something is released.
    pub fn claim(&self, by: MemoryUse, what: &str, bytes: u64) -> Result<()> {
        let limit = match by {
            MemoryUse::User => self.limit,
            MemoryUse::Background => {
                let share = self.limit / 100 * BACKGROUND_SHARE;
                share.saturating_sub(self.reserved.load(Ordering::Relaxed))
            }
        };
        let claim = |used: u64| used.checked_add(bytes).filter(|after| *after <= limit);
        match self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, claim)
        {
            Ok(_) => Ok(()),
            Err(used) => Err(Error::new(
                ErrorCode::MemoryLimitExceeded,
                format!(
                    "memory limit exceeded[{used} of {limit} bytes used, {bytes} needed for {what}]"
                ),
            )),
        }
    }
}

/// More than the allocator keeps at hand after it was freed.
const LARGE_BYTES: usize = 32 << 20;

/// Has the allocator return to the system what was freed a second ago or earlier.
///
/// mimalloc does so only while something large is freed. A process that becomes idle after a load, a
/// flush or an index build would keep what these have freed, which may be as much as the data, for as
/// long as it stays idle. So something large is freed here. Nobody writes to it, and it takes no memory.
pub(crate) fn give_back() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGE_BYTES)));
}

/// Bytes of the process that are in memory and in no file.
fn anonymous_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    kibibytes(&status, "RssAnon:")
}

/// The smaller of the machine's memory and the limits of the groups of processes that this one is in.
fn available() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.and_then(|text| kibibytes(&text, "MemTotal:"));
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = groups.lines().flat_map(group_limits);
    limits.chain(machine).min()
}

/// The limits that one line of `/proc/self/cgroup` leads to: `number:controllers:path`.
fn group_limits(line: &str) -> Vec<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
        return Vec::new();
    };
    let (root, file) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max"),
        "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        _ => return Vec::new(),
    };
    // Inside of a container the path is the host's, and the group is the root.
    let own = Path::new(root).join(path.trim_start_matches('/'));
    let places = own.ancestors().take_while(|dir| dir.starts_with(root));
    let texts = places.filter_map(|dir| std::fs::read_to_string(dir.join(file)).ok());
    // Without a limit the file says `max`, or a number that no machine reaches.
    texts.filter_map(|text| text.trim().parse().ok()).collect()
}

fn kibibytes(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    let number: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(number * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_claimed_counts_until_the_next_measure() {
        let budget = MemoryBudget {
            limit: 100,
            used: AtomicU64::new(60),
            reserved: AtomicU64::new(0),
        };
        budget.claim(MemoryUse::User, "a test", 40).unwrap();
        let refused = budget.claim(MemoryUse::User, "a test", 1).unwrap_err();
        assert_eq!(refused.code, ErrorCode::MemoryLimitExceeded);
        assert!(refused.message.contains("100 of 100"), "{refused}");
        MemoryBudget::unlimited()
            .claim(MemoryUse::User, "a test", 1 << 40)
            .unwrap();
    }

    #[test]
    fn what_runs_keeps_its_room_over_a_measure() {
        let budget = Arc::new(MemoryBudget {
            limit: 400,
            used: AtomicU64::new(100),
            reserved: AtomicU64::new(0),
        });
        let reservation = budget.reserve("a build", 150).unwrap();
        // A measure that comes before anything was allocated.
        budget.used.store(100, Ordering::Relaxed);
        budget.reserve("a build", 51).unwrap_err();
        budget
            .claim(MemoryUse::Background, "a merge", 51)
            .unwrap_err();
        drop(budget.reserve("a build", 50).unwrap());
        budget.used.store(100, Ordering::Relaxed);
        budget.claim(MemoryUse::User, "a write", 300).unwrap();
        budget.used.store(100, Ordering::Relaxed);
        drop(reservation);
        budget.reserve("a build", 200).unwrap();
    }

    #[test]
    fn work_that_can_wait_leaves_room_for_users() {
        let budget = MemoryBudget {
            limit: 400,
            used: AtomicU64::new(100),
            reserved: AtomicU64::new(0),
        };
        budget
            .claim(MemoryUse::Background, "a merge", 201)
            .unwrap_err();
        budget.claim(MemoryUse::Background, "a merge", 200).unwrap();
        budget.claim(MemoryUse::User, "a write", 100).unwrap();
        budget.claim(MemoryUse::User, "a write", 1).unwrap_err();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_process_and_the_machine_are_measured() {
        let budget = MemoryBudget::new(0);
        assert!(budget.used() > 1 << 16, "{budget:?}");
        assert!(budget.limit() > budget.used(), "{budget:?}");
        let before = budget.used();
        let held = vec![1_u8; 64 << 20];
        budget.measure();
        assert!(budget.used() > before + (48 << 20), "{budget:?}");
        drop(held);
    }

    #[test]
    fn numbers_are_read_in_kibibytes() {
        let text = "VmRSS:\t  7 kB\nRssAnon:\t     12 kB\n";
        assert_eq!(kibibytes(text, "RssAnon:"), Some(12 * 1024));
        assert_eq!(kibibytes(text, "Other:"), None);
        assert!(group_limits("3:cpu:/x").is_empty());
        assert!(group_limits("nonsense").is_empty());
    }
}
