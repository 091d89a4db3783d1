//! Encoded bytes on their way to the store, while the next ones are made.

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use redkite_proto::redkite::meta;
use redkite_runtime::hold_here;
use redkite_storage::{ObjectWriter, crc32c_append};
use redkite_types::Result;

use super::target::{Place, failed};

/// Files of a place, written one after the other.
///
/// What is given is written while somebody waits in [`Sink::settle`], so that is done beside the work
/// that makes what is given next.
pub(super) struct Sink {
    place: Place,
    state: State,
    /// Those that are complete.
    files: Vec<meta::ExportFile>,
}

enum State {
    Between,
    Open(OpenFile),
    Writing(BoxFuture<'static, Result<Written>>),
}

/// A file that nobody sees yet.
struct OpenFile {
    writer: Box<dyn ObjectWriter>,
    record: meta::ExportFile,
}

enum Written {
    Some(OpenFile),
    All(meta::ExportFile),
}

impl Sink {
    pub(super) fn new(place: Place) -> Self {
        Self {
            place,
            state: State::Between,
            files: Vec::new(),
        }
    }

    /// How many files are complete. Settled, so are all that were closed.
    pub(super) fn complete(&self) -> usize {
        self.files.len()
    }

    /// Waits until everything that was given is written.
    ///
    /// # Errors
    /// Code 7 when a disk is full; else as the store says.
    pub(super) async fn settle(&mut self) -> Result<()> {
        if let State::Writing(writing) = &mut self.state {
            self.state = match writing.await? {
                Written::Some(file) => State::Open(file),
                Written::All(record) => {
                    self.files.push(record);
                    State::Between
                }
            };
        }
        Ok(())
    }

    /// Gives the next bytes of the file that is open, or else of one of this name.
    ///
    /// # Errors
    /// Of what was given before.
    pub(super) async fn give(&mut self, name: String, bytes: Bytes) -> Result<()> {
        self.settle().await?;
        if !bytes.is_empty() {
            let opening = self.opening(name);
            let writing = async move {
                let (place, mut file) = opening.await?;
                file.append(&place, bytes).await?;
                Ok(Written::Some(file))
            };
            self.state = State::Writing(writing.boxed());
        }
        Ok(())
    }

    /// Gives the last bytes of a file, which has so many rows.
    ///
    /// # Errors
    /// Of what was given before.
    pub(super) async fn close(&mut self, name: String, bytes: Bytes, rows: i64) -> Result<()> {
        self.settle().await?;
        let opening = self.opening(name);
        let writing = async move {
            let (place, mut file) = opening.await?;
            file.append(&place, bytes).await?;
            hold_here(&["export", "file_written"]).await;
            file.writer.finish().await.map_err(failed)?;
            file.record.rows = rows;
            Ok(Written::All(file.record))
        };
        self.state = State::Writing(writing.boxed());
        Ok(())
    }

    fn opening(&mut self, name: String) -> impl Future<Output = Result<(Place, OpenFile)>> + use<> {
        let (place, state) = (
            self.place.clone(),
            std::mem::replace(&mut self.state, State::Between),
        );
        async move {
            if let State::Open(file) = state {
                return Ok((place, file));
            }
            let file = OpenFile {
                writer: place.writer(&name).await?,
                record: meta::ExportFile {
                    name,
                    ..meta::ExportFile::default()
                },
            };
            Ok((place, file))
        }
    }

    /// The files, once all is written.
    ///
    /// # Errors
    /// As [`Sink::settle`].
    pub(super) async fn finish(mut self) -> Result<Vec<meta::ExportFile>> {
        self.settle().await?;
        Ok(self.files)
    }
}

impl OpenFile {
    async fn append(&mut self, place: &Place, bytes: Bytes) -> Result<()> {
        place.claim(bytes.len() as u64)?;
        self.record.size += bytes.len() as u64;
        self.record.crc32c = crc32c_append(self.record.crc32c, &bytes);
        self.writer.write(bytes).await.map_err(failed)
    }
}
