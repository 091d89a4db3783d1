//! Rows of a segment, some at a time.

use std::{collections::VecDeque, ops::Range};

use redkite_runtime::{CpuPool, Priority};
use redkite_segment::file::Piece;
use redkite_types::{BitSet, Error, FieldId, Result, RowBatch, StopFlag};

use super::source::Rows;

/// Rows that are divided at a time.
const WINDOW: usize = 1 << 18;

/// What is in memory at a time, as it is read and decoded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) bytes: u64,
    pub(super) rows: usize,
}

/// Rows of a segment in their order, of which some fields are read.
pub(super) struct Batches<'a> {
    cpu: CpuPool,
    rows: &'a Rows,
    fields: &'a [FieldId],
    limits: Limits,
    /// The first row that was not looked at yet.
    next: usize,
    /// Rows that are read next, and where they are divided.
    window: Vec<u32>,
    parts: VecDeque<Range<usize>>,
}

impl<'a> Batches<'a> {
    pub(super) fn new(
        cpu: &CpuPool,
        rows: &'a Rows,
        fields: &'a [FieldId],
        limits: Limits,
    ) -> Self {
        Self {
            cpu: cpu.clone(),
            rows,
            fields,
            limits,
            next: 0,
            window: Vec::new(),
            parts: VecDeque::new(),
        }
    }

    /// The next rows; `None` behind the last one.
    pub(super) async fn read(&mut self) -> Result<Option<Piece>> {
        if self.parts.is_empty() {
            self.divide().await?;
        }
        let Some(part) = self.parts.pop_front() else {
            return Ok(None);
        };
        let Rows { store, columns, .. } = self.rows;
        let read = columns.read(&**store, &self.window[part], self.fields);
        Ok(Some(read.await.map_err(|error| Error::from_coded(&error))?))
    }

    /// The next rows, decoded.
    pub(super) async fn decode(&mut self) -> Result<Option<RowBatch>> {
        let Some(piece) = self.read().await? else {
            return Ok(None);
        };
        let decode = move |_: &StopFlag| piece.decode();
        on_pool(&self.cpu, Priority::Segment, decode)
            .await
            .map(Some)
    }

    async fn divide(&mut self) -> Result<()> {
        let (window, next) = members(&self.rows.rows, self.next, WINDOW);
        let (columns, fields) = (self.rows.columns.clone(), self.fields.to_vec());
        let Limits { bytes, rows } = self.limits;
        let divide = move |_: &StopFlag| {
            let parts = columns.divide(&window, &fields, bytes, rows)?;
            Ok((window, parts))
        };
        let parts;
        (self.window, parts) = on_pool(&self.cpu, Priority::Segment, divide).await?;
        self.parts = parts.into();
        self.next = next;
        Ok(())
    }
}

/// The next members of a set from a row on, about so many at the most, and the row behind them.
fn members(set: &BitSet, from: usize, most: usize) -> (Vec<u32>, usize) {
    let mut found = Vec::new();
    let words = set.words();
    let mut word = from / 64;
    while word < words.len() && found.len() < most {
        let mut left = words[word];
        while left != 0 {
            found.push((word * 64) as u32 + left.trailing_zeros());
            left &= left - 1;
        }
        word += 1;
    }
    (found, word * 64)
}

pub(super) async fn on_pool<T: Send + 'static>(
    cpu: &CpuPool,
    priority: Priority,
    work: impl FnOnce(&StopFlag) -> redkite_segment::Result<T> + Send + 'static,
) -> Result<T> {
    let outcome = cpu.run_stoppable(priority, work).await;
    let outcome = outcome.map_err(|error| Error::from_coded(&error))?;
    outcome.map_err(|error| Error::from_coded(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_hold_every_member_once() {
        for step in [1, 3, 64, 200] {
            let set = BitSet::from_fn(1_000, |row| row % step == 0);
            let (mut found, mut from) = (Vec::new(), 0);
            loop {
                let (some, next) = members(&set, from, 70);
                if some.is_empty() {
                    break;
                }
                assert!(some.len() < 70 + 64 && next > from);
                found.extend(some);
                from = next;
            }
            let wanted: Vec<u32> = set.iter().map(|row| row as u32).collect();
            assert_eq!(found, wanted, "step {step}");
        }
    }
}
