//! A query, parsed and checked.

use bytes::Bytes;
use redkite_catalog::CollectionEntry;
use redkite_proto::milvus::milvus::QueryRequest;
use redkite_types::{Error, ErrorCode, PartitionId, Result, limits, order::OrderBy};

use super::{
    OutputFields, compile_filter, consistency::Asked, encode_filter, order, params::Params, scope,
};

/// The output field that counts.
pub const COUNT: &str = "count(*)";
/// Parameters that say nothing a query here depends on: results are always complete and, where no
/// other order is asked for, in that of the primary key.
const WITHOUT_EFFECT: [&str; 4] = [
    "collection_id",
    "cluster_id",
    "reduce_stop_for_best",
    "query_iter_last_element_offset",
];

/// A query, ready to be sent to the owners of the channels.
#[derive(Clone, Debug)]
pub struct QueryPlan {
    /// The encoded filter.
    pub filter: Bytes,
    /// Partitions to look at.
    pub partitions: Vec<PartitionId>,
    /// What comes back.
    pub output: OutputFields,
    /// Only the number of rows comes back.
    pub count_only: bool,
    /// The order of the rows before that of the primary key.
    pub order: Vec<OrderBy>,
    /// Rows at most; `None` brings back all.
    pub limit: Option<usize>,
    /// Rows to leave out before them.
    pub offset: usize,
    /// Whether rows in growing segments are left out.
    pub ignore_growing: bool,
    /// How fresh it must be.
    pub asked: Asked,
}

impl QueryPlan {
    /// Parses and checks a request.
    ///
    /// # Errors
    /// Milvus's code and text of the first thing that is wrong; never worth a retry.
    pub fn new(entry: &CollectionEntry, request: QueryRequest) -> Result<Self> {
        if request.travel_timestamp != 0
            || request
                .namespace
                .as_ref()
                .is_some_and(|namespace| !namespace.is_empty())
        {
            return Err(Error::input(
                ErrorCode::UnsupportedOperation,
                "unsupported operation: travel_timestamp and namespaces are not served",
            ));
        }
        let mut params = Params::new(request.query_params);
        let (limit, offset) = window(&mut params)?;
        let ignore_growing = params.take_flag("ignore_growing")?;
        let iterator = params.take_flag("iterator")?;
        let order = params.take("order_by_fields").unwrap_or_default();
        let order = order::parse(&order, entry.schema())?;
        params.drop_keys(&WITHOUT_EFFECT);
        params.finish()?;

        let filter = compile_filter(entry, &request.expr, request.expr_template_values)?;
        if iterator && !order.is_empty() {
            return Err(Error::invalid_parameter(
                "order_by_fields is not allowed when doing iteration: pages follow the primary key",
            ));
        }
        let count_only = request
            .output_fields
            .iter()
            .any(|name| name.trim() == COUNT);
        if count_only {
            check_count(&request.output_fields, limit, offset)?;
            if !order.is_empty() {
                return Err(Error::invalid_parameter(format!(
                    "order_by_fields is not allowed with {COUNT}"
                )));
            }
        } else if filter.is_all() && limit.is_none() && !iterator {
            return Err(Error::invalid_parameter(
                "empty expression should be used with limit",
            ));
        }
        let output = if count_only {
            OutputFields::default()
        } else {
            OutputFields::resolve(entry.schema(), &request.output_fields)?
                .with_primary_key(entry.schema().primary_key())
        };
        Ok(Self {
            partitions: scope::partitions(entry, &request.partition_names, &filter)?,
            filter: encode_filter(&filter)?,
            output,
            count_only,
            order,
            limit,
            offset,
            ignore_growing,
            asked: Asked {
                level: request.consistency_level,
                use_default: request.use_default_consistency,
                guarantee_ts: request.guarantee_timestamp,
                iterator,
            },
        })
    }

    /// The fields that owners bring back: what was asked for, and what the rows are ordered by.
    pub fn fetched(&self) -> Vec<i64> {
        let mut fields: Vec<i64> = self.output.fields.iter().map(|field| field.0).collect();
        for by in &self.order {
            if !fields.contains(&by.field.0) {
                fields.push(by.field.0);
            }
        }
        fields
    }

    /// Rows that each owner must bring back; zero means all.
    pub fn rows_wanted(&self) -> u64 {
        self.limit.map_or(0, |limit| (limit + self.offset) as u64)
    }
}

fn check_count(output: &[String], limit: Option<usize>, offset: usize) -> Result<()> {
    if output.len() > 1 {
        return Err(Error::invalid_parameter(format!(
            "{COUNT} cannot be asked for together with other fields"
        )));
    }
    if limit.is_some() || offset > 0 {
        return Err(Error::invalid_parameter(
            "count entities with pagination is not allowed",
        ));
    }
    Ok(())
}

fn window(params: &mut Params) -> Result<(Option<usize>, usize)> {
    let max = limits::MAX_RESULT_WINDOW;
    let limit = params
        .take_number::<i64>("limit")?
        .filter(|limit| *limit != -1);
    let offset = params.take_number::<i64>("offset")?.unwrap_or(0);
    if let Some(limit) = limit.filter(|limit| !(1..=max).contains(limit)) {
        return Err(Error::invalid_parameter(format!(
            "invalid max query result window, limit [{limit}] is invalid, it should be in range [1, \
             {max}], but got {limit}"
        )));
    }
    if offset < 0 {
        return Err(Error::invalid_parameter(format!(
            "offset [{offset}] is invalid, it should be in range [0, {max}], but got {offset}"
        )));
    }
    let sum = limit.unwrap_or(0) + offset;
    if sum > max {
        return Err(Error::invalid_parameter(format!(
            "invalid max query result window, (offset+limit) should be in range [1, {max}], but got \
             {sum}"
        )));
    }
    Ok((
        limit.map(|limit| limit.unsigned_abs() as usize),
        offset.unsigned_abs() as usize,
    ))
}
