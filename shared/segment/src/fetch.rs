//! Output columns for the rows that won.

use std::collections::HashMap;

use redkite_types::{Column, ColumnData, FieldId, RowBatch, SegmentId};

use crate::{
    chunk::Chunk,
    error::{Error, Result},
    reduce::RowAt,
    segment::Segment,
};

/// Copies the fields of the given rows, in the order given. [`FieldId::ROW_ID`] and
/// [`FieldId::TIMESTAMP`] are fields too, of type Int64.
///
/// # Errors
/// `BadRows` when a row lies in none of the segments (a bug) · `NoField` · `Corrupt`
pub fn fetch(segments: &[Segment], rows: &[RowAt], fields: &[FieldId]) -> Result<RowBatch> {
    let by_id: HashMap<SegmentId, &Segment> = segments
        .iter()
        .map(|segment| (segment.id(), segment))
        .collect();
    // Chunks that have a winner, and where in them each winner is.
    let mut parts: Vec<(&Segment, &Chunk)> = Vec::new();
    let mut part_of: HashMap<(SegmentId, usize), usize> = HashMap::new();
    let mut places = Vec::with_capacity(rows.len());
    for at in rows {
        let (start, segment, chunk) = by_id
            .get(&at.segment)
            .and_then(|segment| locate(segment, at.row as usize))
            .ok_or_else(|| Error::BadRows {
                segment: at.segment,
                reason: format!("there is no row {} to fetch", at.row),
            })?;
        let part = *part_of.entry((at.segment, start)).or_insert_with(|| {
            parts.push((segment, chunk));
            parts.len() - 1
        });
        places.push((part, at.row as usize - start));
    }
    let mut columns = Vec::with_capacity(fields.len());
    for &field in fields {
        let sources: Vec<Source<'_>> = parts
            .iter()
            .map(|(segment, chunk)| source(segment.id(), chunk, field))
            .collect();
        columns.push(match sources.is_empty() {
            true => empty_column(segments, field)?,
            false => gather_column(&sources, &places, field)?,
        });
    }
    RowBatch::new(rows.len(), columns).ok_or_else(|| Error::BadRows {
        segment: SegmentId(0),
        reason: "fetched columns differ in length".to_owned(),
    })
}

/// Copies rows out of several batches with the same fields: `places` are `(batch, row)`.
///
/// # Panics
/// When a place lies outside of the batches, or a batch lacks a column that the first one has.
pub fn gather(batches: &[RowBatch], places: &[(usize, usize)]) -> RowBatch {
    let Some(first) = batches.first() else {
        return RowBatch::default();
    };
    let columns = first.columns().iter().enumerate().map(|(index, column)| {
        let sources: Vec<Source<'_>> = batches
            .iter()
            .map(|batch| Source::Column(&batch.columns()[index]))
            .collect();
        gather_column(&sources, places, column.field)
    });
    // Whole columns never fail, and every column has one value for each place.
    let columns: Result<Vec<Column>> = columns.collect();
    let batch = columns
        .ok()
        .and_then(|columns| RowBatch::new(places.len(), columns));
    batch.unwrap_or_default()
}

/// Where the values of one field of one chunk come from.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    Column(&'a Column),
    /// A user's field of a chunk, which may be in a file.
    Chunk(SegmentId, &'a Chunk),
    RowIds(&'a Chunk),
    Timestamps(&'a Chunk),
}

impl Source<'_> {
    fn take(&self, rows: &[usize], field: FieldId) -> Result<Column> {
        Ok(match self {
            Self::Column(column) => column.take(rows),
            Self::Chunk(segment, chunk) => {
                let segment = *segment;
                let taken = chunk.take(field, rows)?;
                taken.ok_or(Error::NoField { segment, field })?
            }
            Self::RowIds(chunk) => {
                let ids = rows.iter().map(|&row| chunk.row_ids()[row].0).collect();
                Column::new(field, ColumnData::Int64(ids))
            }
            Self::Timestamps(chunk) => {
                // Below 2^63 until the year 4199, and clients read them as int64.
                let times = rows.iter().map(|&row| chunk.timestamps()[row].0 as i64);
                Column::new(field, ColumnData::Int64(times.collect()))
            }
        })
    }
}

fn source(segment: SegmentId, chunk: &Chunk, field: FieldId) -> Source<'_> {
    match field {
        FieldId::ROW_ID => Source::RowIds(chunk),
        FieldId::TIMESTAMP => Source::Timestamps(chunk),
        _ => Source::Chunk(segment, chunk),
    }
}

/// The chunk that holds a row of a segment, and the number of the chunk's first row.
fn locate(segment: &Segment, row: usize) -> Option<(usize, &Segment, &Chunk)> {
    let holds =
        |(start, chunk): &(usize, &std::sync::Arc<Chunk>)| chunk.span(*start).contains(&row);
    let (start, chunk) = segment.spans().find(holds)?;
    Some((start, segment, chunk))
}

fn empty_column(segments: &[Segment], field: FieldId) -> Result<Column> {
    if field == FieldId::ROW_ID || field == FieldId::TIMESTAMP {
        return Ok(Column::new(field, ColumnData::Int64(Vec::new())));
    }
    let known = |segment: &Segment| {
        let own = segment.meta().schema.field_by_id(field).cloned();
        own.or_else(|| segment.chunks().first()?.late_field(field))
    };
    match segments.iter().find_map(known) {
        Some(schema) => Ok(Column::new(
            field,
            ColumnData::empty(schema.data_type, schema.dim),
        )),
        None => Err(Error::NoField {
            segment: segments.first().map_or(SegmentId(0), Segment::id),
            field,
        }),
    }
}

/// Takes rows source by source, then puts them into the order asked for.
pub(crate) fn gather_column(
    sources: &[Source<'_>],
    places: &[(usize, usize)],
    field: FieldId,
) -> Result<Column> {
    let mut by_source: Vec<(Vec<usize>, Vec<usize>)> = Vec::with_capacity(sources.len());
    by_source.resize_with(sources.len(), Default::default);
    for (position, &(source, row)) in places.iter().enumerate() {
        by_source[source].0.push(row);
        by_source[source].1.push(position);
    }
    let mut whole: Option<Column> = None;
    let mut taken_from = vec![0; places.len()];
    let (mut taken, mut in_order) = (0, true);
    for (source, (rows, positions)) in sources.iter().zip(&by_source) {
        if rows.is_empty() && whole.is_some() {
            continue;
        }
        let part = source.take(rows, field)?;
        for &position in positions {
            in_order &= position == taken;
            taken_from[position] = taken;
            taken += 1;
        }
        match &mut whole {
            Some(whole) => whole.extend(&part),
            None => whole = Some(part),
        }
    }
    let whole = whole.unwrap_or_else(|| Column::new(field, ColumnData::Int64(Vec::new())));
    Ok(if in_order {
        whole
    } else {
        whole.take(&taken_from)
    })
}
