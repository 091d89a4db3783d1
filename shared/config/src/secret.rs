//! A text that is never printed.

use std::cell::Cell;
use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

const MASK: &str = "***";

thread_local! {
    // Serde gives a serializer no context, and the loader itself must be able to write the real
    // value into its layer of defaults. So masking is a mode of the thread while `dump` runs.
    static MASKED: Cell<bool> = const { Cell::new(false) };
}

/// A password or key. `Debug`, `Display` and [`crate::dump`] show `***`.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself; say it where it is used and nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether nothing was set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let hidden = MASKED.get() && !self.is_empty();
        serializer.serialize_str(if hidden { MASK } else { &self.0 })
    }
}

/// Runs `write` with secrets masked in whatever it serialises on this thread.
pub(crate) fn masked<R>(write: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            MASKED.set(self.0);
        }
    }
    let _restore = Restore(MASKED.replace(true));
    write()
}
