//! Encoded bytes on their way to the store, while the next ones are made.

use std::pin::pin;

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use redkite_proto::redkite::meta;
use redkite_runtime::hold_here;
use redkite_segment::export::ExportFormat;
use redkite_storage::{ObjectWriter, crc32c_append};
use redkite_types::Result;

use super::target::{Place, failed, file_name};

/// Files of a place, written one after the other.
///
/// What is given is written while somebody waits here: in [`Sink::beside`] for the work that makes what
/// is given next.
pub(super) struct Sink {
    place: Place,
    format: ExportFormat,
    /// The number of the first one.
    first: u32,
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
    pub(super) fn new(place: Place, format: ExportFormat, first: u32) -> Self {
        Self {
            place,
            format,
            first,
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

    /// Waits for work, and writes what was given in the meantime, as far as that goes.
    ///
    /// # Errors
    /// Those of the work, and as [`Sink::settle`].
    pub(super) async fn beside<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut work = pin!(work);
        if matches!(self.state, State::Writing(_)) {
            tokio::select! {
                done = &mut work => return done,
                settled = self.settle() => settled?,
            }
        }
        work.await
    }

    /// Gives the next bytes of the file that is open, or else of the next one.
    ///
    /// # Errors
    /// Of what was given before.
    pub(super) async fn give(&mut self, pieces: Vec<Bytes>) -> Result<()> {
        if pieces.iter().any(|piece| !piece.is_empty()) {
            self.settle().await?;
            let opening = self.opening();
            let writing = async move {
                let (place, mut file) = opening.await?;
                file.append(&place, pieces).await?;
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
    pub(super) async fn close(&mut self, pieces: Vec<Bytes>, rows: i64) -> Result<()> {
        self.settle().await?;
        let opening = self.opening();
        let writing = async move {
            let (place, mut file) = opening.await?;
            file.append(&place, pieces).await?;
            hold_here(&["export", "file_written"]).await;
            file.writer.finish().await.map_err(failed)?;
            file.record.rows = rows;
            Ok(Written::All(file.record))
        };
        self.state = State::Writing(writing.boxed());
        Ok(())
    }

    /// The file that is open, or the next one. Everything before it is written.
    fn opening(&mut self) -> impl Future<Output = Result<(Place, OpenFile)>> + use<> {
        let name = file_name(self.first + self.files.len() as u32, self.format);
        let place = self.place.clone();
        let state = std::mem::replace(&mut self.state, State::Between);
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
    async fn append(&mut self, place: &Place, pieces: Vec<Bytes>) -> Result<()> {
        for bytes in pieces {
            place.claim(bytes.len() as u64)?;
            self.record.size += bytes.len() as u64;
            self.record.crc32c = crc32c_append(self.record.crc32c, &bytes);
            self.writer.write(bytes).await.map_err(failed)?;
        }
        Ok(())
    }
}
