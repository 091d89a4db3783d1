//! The rows of all channels in one order.

use redkite_proto::{
    convert::{columns, keys},
    milvus::schema::FieldData,
    redkite::querynode::QueryResponse,
};
use redkite_types::{
    CollectionSchema, Column, ColumnData, Error, FieldId, PrimaryKeys, Result, Value,
    order::compare_rows,
};

use crate::plan::QueryPlan;

/// One channel's answer, taken apart.
struct Shard {
    ids: PrimaryKeys,
    columns: Vec<Column>,
}

/// Merges the channels' rows in the order asked for, with ties in order of the primary key, and cuts
/// the window out.
///
/// # Errors
/// Internal when an answer does not add up: a bug of ours.
pub fn reduce(
    plan: &QueryPlan,
    schema: &CollectionSchema,
    answers: Vec<QueryResponse>,
) -> Result<Vec<FieldData>> {
    let shards = answers
        .into_iter()
        .map(|answer| Shard::new(answer, schema))
        .collect::<Result<Vec<_>>>()?;
    let mut order: Vec<(usize, usize)> = shards
        .iter()
        .enumerate()
        .flat_map(|(shard, found)| (0..found.ids.len()).map(move |row| (shard, row)))
        .collect();
    if shards.len() > 1 {
        let values: Vec<Vec<Vec<Value>>> = shards
            .iter()
            .map(|shard| {
                (0..shard.ids.len())
                    .map(|row| shard.values(plan, row))
                    .collect()
            })
            .collect();
        order.sort_by(|a, b| {
            compare_rows(&plan.order, &values[a.0][a.1], &values[b.0][b.1])
                .then_with(|| shards[a.0].ids.get(a.1).cmp(&shards[b.0].ids.get(b.1)))
        });
    }
    let window: Vec<(usize, usize)> = order
        .into_iter()
        .skip(plan.offset)
        .take(plan.limit.unwrap_or(usize::MAX))
        .collect();
    Ok(gather(plan, schema, &shards, &window))
}

impl Shard {
    fn new(answer: QueryResponse, schema: &CollectionSchema) -> Result<Self> {
        let ids = match answer.ids.filter(|ids| ids.id_field.is_some()) {
            Some(ids) => keys::from_proto(ids)?,
            None => PrimaryKeys::Int(Vec::new()),
        };
        let rows = ids.len();
        let columns = answer
            .fields
            .into_iter()
            .map(|data| {
                let field = schema
                    .field_by_id(FieldId(data.field_id))
                    .ok_or_else(|| Error::internal("a query node sent an unknown field"))?;
                columns::from_proto(data, field, rows)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { ids, columns })
    }

    /// What a row is ordered by.
    fn values(&self, plan: &QueryPlan, row: usize) -> Vec<Value> {
        let column = |field: FieldId| self.columns.iter().find(|column| column.field == field);
        let fields = plan.order.iter();
        fields
            .map(|by| column(by.field).map_or(Value::Null, |column| column.value(row)))
            .collect()
    }
}

fn gather(
    plan: &QueryPlan,
    schema: &CollectionSchema,
    shards: &[Shard],
    window: &[(usize, usize)],
) -> Vec<FieldData> {
    let fields = plan
        .output
        .fields
        .iter()
        .filter_map(|id| schema.field_by_id(*id));
    fields
        .map(|field| {
            let of_shard = |shard: usize| {
                shards[shard]
                    .columns
                    .iter()
                    .find(|column| column.field == field.id)
            };
            let gathered = match shards {
                [_] => {
                    let rows: Vec<usize> = window.iter().map(|(_, row)| *row).collect();
                    of_shard(0).map(|column| column.take(&rows))
                }
                _ => {
                    let mut all =
                        Column::new(field.id, ColumnData::empty(field.data_type, field.dim));
                    for (shard, row) in window {
                        if let Some(column) = of_shard(*shard) {
                            all.extend(&column.take(&[*row]));
                        }
                    }
                    Some(all)
                }
            };
            let column = gathered.unwrap_or_else(|| {
                Column::new(field.id, ColumnData::empty(field.data_type, field.dim))
            });
            columns::to_proto(column, field)
        })
        .collect()
}
