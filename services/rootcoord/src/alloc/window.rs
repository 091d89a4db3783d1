//! The durable end of a window of numbers.

use parking_lot::Mutex;
use prost::Message;
use redkite_metastore::{Compare, KeyValue, Op, SharedKv, Txn, TxnOutcome};
use redkite_proto::redkite::meta::AllocatorWindow;
use redkite_types::{Coded, Error, Result, Revision};

/// The end of a window in the metastore, fenced: once another process has moved it, every further
/// move of this one fails.
pub(super) struct Window {
    kv: SharedKv,
    key: &'static str,
    /// Revision of our last write; zero before the record exists.
    revision: Mutex<Revision>,
}

impl Window {
    /// Reads the window's present end; zero when there is none yet.
    pub(super) async fn open(kv: SharedKv, key: &'static str) -> Result<(Self, u64)> {
        let found = kv
            .get(key)
            .await
            .map_err(|error| Error::from_coded(&error))?;
        let (end, revision) = match found {
            Some(pair) => (decode(&pair)?.end, pair.revision),
            None => (0, Revision(0)),
        };
        Ok((
            Self {
                kv,
                key,
                revision: Mutex::new(revision),
            },
            end,
        ))
    }

    /// Makes a new end durable.
    ///
    /// # Errors
    /// Code 2 when another process has taken over, or when the store did not answer.
    pub(super) async fn extend(&self, end: u64) -> Result<()> {
        let last = *self.revision.lock();
        let key = self.key.to_owned();
        let compare = if last.0 == 0 {
            Compare::Absent { key }
        } else {
            Compare::Revision {
                key,
                revision: last,
            }
        };
        let value = AllocatorWindow { end }.encode_to_vec();
        let txn = Txn::new().when(compare).then(Op::put(self.key, value));
        match self
            .kv
            .txn(txn)
            .await
            .map_err(|error| unavailable(&error))?
        {
            TxnOutcome::Applied { revision } => {
                *self.revision.lock() = revision;
                Ok(())
            }
            // The answer to our own earlier write may have been lost: then the record holds an end
            // that we asked for. Whoever wrote it, no number below it may be given out any more.
            TxnOutcome::Refused { current, .. } => Err(Error::new(
                redkite_types::ErrorCode::ServiceUnavailable,
                format!(
                    "window {} was moved by another process to {}",
                    self.key,
                    current
                        .as_ref()
                        .map(decode)
                        .transpose()?
                        .unwrap_or_default()
                        .end
                ),
            )),
        }
    }
}

fn decode(pair: &KeyValue) -> Result<AllocatorWindow> {
    AllocatorWindow::decode(pair.value.clone())
        .map_err(|error| Error::internal(format!("window {} cannot be decoded: {error}", pair.key)))
}

fn unavailable(error: &redkite_metastore::Error) -> Error {
    Error::from_coded(error).context(format_args!("code {}", error.code().number()))
}
