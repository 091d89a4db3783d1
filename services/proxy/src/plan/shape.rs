//! What a search asks for beside its vectors and its time, parsed and checked: the same for all searches
//! that a client sends alike.

use bytes::Bytes;
use redkite_catalog::CollectionEntry;
use redkite_proto::{milvus::milvus::SearchRequest, redkite::meta::IndexInfo};
use redkite_types::{
    DataType, Error, ErrorCode, FieldId, FieldSchema, MetricType, PartitionId, Result, limits,
};
use serde_json::{Map, Value};

use super::{
    GroupPlan, OutputFields, PagePlan, compile_filter, encode_filter, group, params::Params, scope,
};

/// Scores are rounded to at most as many decimals.
const MAX_ROUND_DECIMAL: i64 = 6;
/// Parameters that say nothing a search here depends on.
const WITHOUT_EFFECT: [&str; 3] = ["collection_id", "cluster_id", "nq"];

/// A search without its vectors.
#[derive(Clone, Debug)]
pub struct SearchShape {
    /// The vector field.
    pub field: FieldId,
    /// Its index's metric.
    pub metric: MetricType,
    /// Hits to bring back for each query, or groups.
    pub limit: usize,
    /// Hits to leave out before them, or groups.
    pub offset: usize,
    /// How hits are grouped.
    pub group: Option<GroupPlan>,
    /// The page of an iterator that this search is.
    pub page: Option<PagePlan>,
    /// Whether the read is a page of an iterator of any kind: all pages look at one time.
    pub iterator: bool,
    /// What is left of the search parameters, as JSON.
    pub params: String,
    /// The far side of a range search.
    pub radius: Option<f64>,
    /// The near side of a range search.
    pub range_filter: Option<f64>,
    /// The encoded filter.
    pub filter: Bytes,
    /// Partitions to look at.
    pub partitions: Vec<PartitionId>,
    /// What comes back.
    pub output: OutputFields,
    /// Decimals of the scores; `None` leaves them as they are.
    pub round_decimal: Option<u32>,
    /// Whether rows in growing segments are left out.
    pub ignore_growing: bool,
    /// Whether the next search that asks for the same is of this shape: pages have names of their own,
    /// and what a filter by partition key leaves out is counted for each.
    pub lasts: bool,
}

impl SearchShape {
    /// Reads what a request asks for. In a hybrid search its whole says how hits are grouped.
    ///
    /// # Errors
    /// Milvus's code and text of the first thing that is wrong; never worth a retry.
    pub(super) fn parse(
        entry: &CollectionEntry,
        request: &SearchRequest,
        of_hybrid: Option<Option<GroupPlan>>,
    ) -> Result<Self> {
        let mut params = Params::new(request.search_params.clone());
        let group = match of_hybrid {
            None => GroupPlan::take(&mut params, entry.schema())?,
            Some(group) => {
                group::drop_keys(&mut params);
                group
            }
        };
        let field = vector_field(entry, params.take("anns_field"))?;
        let index = entry.index_on(field.id);
        let metric = metric(
            field.data_type,
            index.map(AsRef::as_ref),
            params.take("metric_type"),
        )?;
        let mut inner = inner_params(params.take("params"), metric)?;
        let inner_offset = inner_number(&mut inner, "offset")?;
        let (mut limit, offset) = window(&mut params, inner_offset)?;
        let round_decimal = round_decimal(&mut params)?;
        let ignore_growing = params.take_flag("ignore_growing")?;
        let iterator = params.take_flag("iterator")?;
        let page = PagePlan::take(&mut params, iterator, group, offset)?;
        if let Some(page) = &page {
            limit = page.size;
        }
        let mut bound = |key: &str| -> Result<Option<f64>> {
            let outer = params.take_number(key)?;
            Ok(outer.or(inner_number(&mut inner, key)?))
        };
        let (radius, range_filter) = (bound("radius")?, bound("range_filter")?);
        if range_filter.is_some() && radius.is_none() {
            return Err(Error::invalid_parameter("range_filter needs a radius"));
        }
        if radius.is_some() && group.is_some() {
            return Err(Error::invalid_parameter(
                "Not allowed to do range-search when doing search-group-by",
            ));
        }
        for key in ["ef", "level", "nprobe", "search_list", "drop_ratio_search"] {
            if let Some(value) = params.take(key) {
                inner.entry(key).or_insert(Value::String(value));
            }
        }
        params.drop_keys(&WITHOUT_EFFECT);
        params.finish()?;

        let filter = compile_filter(entry, &request.dsl, request.expr_template_values.clone())?;
        scope::check_isolation(entry, &request.dsl)?;
        let partitions = scope::partitions(entry, &request.partition_names, &filter)?;
        Ok(Self {
            field: field.id,
            metric,
            limit,
            offset,
            group,
            lasts: page.is_none() && !scope::is_by_key(entry, &filter),
            page,
            iterator,
            params: Value::Object(inner).to_string(),
            radius,
            range_filter,
            filter: encode_filter(&filter)?,
            partitions,
            output: OutputFields::resolve(entry.schema(), &request.output_fields)?,
            round_decimal,
            ignore_growing,
        })
    }

    /// Hits that each owner must bring back for each query, or groups.
    pub fn topk(&self) -> usize {
        self.limit + self.offset
    }

    /// The search parameters with an `ef` of at least `k`: an owner may be asked for more hits than
    /// the client wants.
    pub fn params_for(&self, k: usize) -> String {
        if k <= self.topk() {
            return self.params.clone();
        }
        let mut params: Map<String, Value> = serde_json::from_str(&self.params).unwrap_or_default();
        if let Some(ef) = params.get_mut("ef") {
            let given = ef.as_u64().or_else(|| ef.as_str()?.parse().ok());
            if given.is_some_and(|given| given >= self.topk() as u64 && given < k as u64) {
                *ef = k.into();
            }
        }
        Value::Object(params).to_string()
    }

    /// The fields that owners bring back: what was asked for, and what makes the groups.
    pub fn fetched(&self) -> Vec<i64> {
        let group = self.group.map(|group| group.field);
        let group = group.filter(|field| !self.output.fields.contains(field));
        let fields = self.output.fields.iter().chain(&group);
        fields.map(|field| field.0).collect()
    }
}

pub(super) fn unsupported(what: &str) -> Error {
    Error::input(
        ErrorCode::UnsupportedOperation,
        format!("unsupported operation: {what}"),
    )
}

pub(super) fn refuse_unsupported(request: &SearchRequest) -> Result<()> {
    if !request.sub_reqs.is_empty() {
        return Err(unsupported("sub requests of a search are not served"));
    }
    if request.function_score.is_some() || !request.function_chains.is_empty() {
        return Err(unsupported("a rerank function of a search is not served"));
    }
    if request.highlighter.is_some() {
        return Err(unsupported("highlighting is not served"));
    }
    if request.search_aggregation.is_some() {
        return Err(unsupported("aggregation of a search is not served"));
    }
    if request
        .namespace
        .as_ref()
        .is_some_and(|namespace| !namespace.is_empty())
    {
        return Err(unsupported("namespaces are not served"));
    }
    if request.travel_timestamp != 0 {
        return Err(unsupported("travel_timestamp is not served"));
    }
    Ok(())
}

fn vector_field(entry: &CollectionEntry, name: Option<String>) -> Result<&FieldSchema> {
    let schema = entry.schema();
    match name {
        Some(name) => {
            let field = schema.field(&name).ok_or_else(|| {
                Error::invalid_parameter(format!(
                    "failed to get field schema by name: fieldName({name}) not found"
                ))
            })?;
            if !field.data_type.is_vector() {
                return Err(Error::invalid_parameter(format!(
                    "field ({name}) to search is not of vector type"
                )));
            }
            Ok(field)
        }
        None => {
            let mut fields = schema.vector_fields();
            match (fields.next(), fields.next()) {
                (Some(field), None) => Ok(field),
                _ => {
                    let names: Vec<&str> = schema
                        .vector_fields()
                        .map(|field| field.name.as_str())
                        .collect();
                    Err(Error::invalid_parameter(format!(
                        "multiple anns_fields exist, please specify a anns_field in \
                         search_params, one of [{}]",
                        names.join(" ")
                    )))
                }
            }
        }
    }
}

fn metric(
    data_type: DataType,
    index: Option<&IndexInfo>,
    asked: Option<String>,
) -> Result<MetricType> {
    let own = index
        .map(|index| MetricType::parse_for(data_type, &index.metric_type))
        .transpose()?;
    let asked = match (asked, own) {
        (None, _) => None,
        // Whether the type has such a metric at all matters only if none is set.
        (Some(name), Some(_)) => Some(MetricType::parse(&name)?),
        (Some(name), None) => Some(MetricType::parse_for(data_type, &name)?),
    };
    match (own, asked) {
        (Some(own), Some(asked)) if own != asked => Err(Error::input(
            ErrorCode::Unexpected,
            format!(
                "fail to search on QueryNode: metric type not match: invalid parameter\
                 [expected={own}][actual={asked}]"
            ),
        )),
        (Some(own), _) => Ok(own),
        (None, Some(asked)) => Ok(asked),
        (None, None) => MetricType::parse_for(data_type, ""),
    }
}

/// Limit and offset, within Milvus's window; clients may say the offset in either place.
fn window(params: &mut Params, inner_offset: Option<f64>) -> Result<(usize, usize)> {
    let max = limits::MAX_RESULT_WINDOW;
    let limit = match params.take_number::<i64>("topk")? {
        Some(limit) => limit,
        None => params
            .take_number::<i64>("limit")?
            .ok_or_else(|| Error::invalid_parameter("topk not found in search_params"))?,
    };
    if !(1..=max).contains(&limit) {
        return Err(Error::invalid_parameter(format!(
            "topk [{limit}] is invalid, it should be in range [1, {max}], but got {limit}"
        )));
    }
    let offset = params.take_number::<i64>("offset")?;
    let offset = offset
        .or(inner_offset.map(|offset| offset as i64))
        .unwrap_or(0);
    if !(0..=max).contains(&offset) {
        return Err(Error::invalid_parameter(format!(
            "offset [{offset}] is invalid, it should be in range [0, {max}], but got {offset}"
        )));
    }
    if limit + offset > max {
        return Err(Error::invalid_parameter(format!(
            "(offset+limit) should be in range [1, {max}], but got {}",
            limit + offset
        )));
    }
    Ok((
        limit.unsigned_abs() as usize,
        offset.unsigned_abs() as usize,
    ))
}

pub(super) fn round_decimal(params: &mut Params) -> Result<Option<u32>> {
    match params.take_number::<i64>("round_decimal")?.unwrap_or(-1) {
        -1 => Ok(None),
        decimals @ 0..=MAX_ROUND_DECIMAL => Ok(Some(decimals.unsigned_abs() as u32)),
        decimals => Err(Error::invalid_parameter(format!(
            "round_decimal [{decimals}] is invalid, it should be -1 or an integer in range [0, \
             {MAX_ROUND_DECIMAL}]"
        ))),
    }
}

/// The JSON object under `params`; a metric in it must be the index's.
fn inner_params(text: Option<String>, metric: MetricType) -> Result<Map<String, Value>> {
    let Some(text) = text else {
        return Ok(Map::new());
    };
    let mut inner: Map<String, Value> = serde_json::from_str(&text).map_err(|_| {
        Error::invalid_parameter(format!("search params [{text}] is not a JSON object"))
    })?;
    if let Some(Value::String(name)) = inner.remove("metric_type")
        && !name.is_empty()
        && MetricType::parse(&name)? != metric
    {
        return Err(Error::input(
            ErrorCode::Unexpected,
            format!("metric type not match: invalid parameter[expected={metric}][actual={name}]"),
        ));
    }
    Ok(inner)
}

fn inner_number(inner: &mut Map<String, Value>, key: &str) -> Result<Option<f64>> {
    let number = match inner.remove(key) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.parse().ok(),
        Some(value) => value.as_f64(),
    };
    number
        .map(Some)
        .ok_or_else(|| Error::invalid_parameter(format!("{key} is invalid, it should be a number")))
}

#[cfg(test)]
mod tests {
    use redkite_proto::convert::kv;

    use super::*;

    fn window_of(pairs: &[(&str, &str)]) -> Result<(usize, usize)> {
        window(&mut Params::new(kv::from_iter(pairs.iter().copied())), None)
    }

    #[test]
    fn the_window_has_milvus_s_limits_and_texts() {
        assert_eq!(
            window_of(&[("topk", "10"), ("offset", "5")]).unwrap(),
            (10, 5)
        );
        let cases: [(&[(&str, &str)], &str); 4] = [
            (
                &[("topk", "0")],
                "it should be in range [1, 16384], but got 0",
            ),
            (
                &[("topk", "16385")],
                "it should be in range [1, 16384], but got 16385",
            ),
            (
                &[("topk", "16384"), ("offset", "1")],
                "(offset+limit) should be in range [1, 16384], but got 16385",
            ),
            (&[], "topk not found"),
        ];
        for (pairs, want) in cases {
            let error = window_of(pairs).unwrap_err();
            assert!(error.message.contains(want), "{error}");
        }
    }

    #[test]
    fn the_metric_must_be_the_index_s() {
        let index = IndexInfo {
            metric_type: "L2".into(),
            ..IndexInfo::default()
        };
        assert_eq!(
            metric(DataType::FloatVector, Some(&index), None).unwrap(),
            MetricType::L2
        );
        assert_eq!(
            metric(DataType::FloatVector, Some(&index), Some("l2".into())).unwrap(),
            MetricType::L2
        );
        let error = metric(DataType::FloatVector, Some(&index), Some("IP".into())).unwrap_err();
        assert!(error.message.contains("metric type not match"));
        assert!(inner_params(Some(r#"{"metric_type": "IP"}"#.into()), MetricType::L2).is_err());
    }
}
