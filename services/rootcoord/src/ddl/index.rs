//! CreateIndex and DropIndex.

use std::sync::Arc;

use redkite_catalog::{CollectionEntry, keys};
use redkite_index::ColumnIndexParams;
use redkite_metastore::{Op, Txn};
use redkite_proto::{
    convert::kv,
    milvus::milvus::{CreateIndexRequest, DropIndexRequest},
    redkite::meta::{IndexInfo, ObjectState},
};
use redkite_saga::{Check, LockKey, Outputs, Saga, Step, StepKey};
use redkite_types::{
    BuildId, CollectionId, DatabaseId, Error, ErrorCode, FieldId, FieldSchema, IndexId, MetricType,
    PartitionId, Result, SegmentId, Timestamp, limits, name,
};
use serde::{Deserialize, Serialize};

use super::{context::DdlContext, resolve, steps};

/// An index definition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CreateIndexParams {
    database: DatabaseId,
    collection: CollectionId,
    collection_name: String,
    field: FieldId,
    name: String,
    index_type: String,
    metric_type: String,
    /// As DescribeIndex reports them.
    params: Vec<(String, String)>,
}

/// Reads a request.
///
/// # Errors
/// Codes 800, 100, 1100 for what is absent or makes no sense; 3000 for a scalar field.
pub async fn create_params(
    context: &DdlContext,
    database: &str,
    request: CreateIndexRequest,
) -> Result<CreateIndexParams> {
    let view = context.fresh_view().await?;
    let entry = resolve::collection(&view, database, &request.collection_name)?;
    let field = entry.schema().field(&request.field_name).ok_or_else(|| {
        Error::invalid_parameter(format!(
            "cannot create index on non-exist field: {}",
            request.field_name
        ))
    })?;
    if !field.data_type.is_vector() {
        return Err(Error::input(
            ErrorCode::UnsupportedOperation,
            format!(
                "unsupported operation: index on scalar field {} of type {} is not served",
                field.name, field.data_type
            ),
        ));
    }
    let name = if request.index_name.is_empty() {
        field.name.clone()
    } else {
        request.index_name
    };
    name::check_index(&name)?;
    let pairs: Vec<(String, String)> = request
        .extra_params
        .into_iter()
        .map(|pair| (pair.key, pair.value))
        .collect();
    let bytes: usize = pairs
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if bytes > limits::MAX_INDEX_PARAMS_BYTES {
        return Err(Error::invalid_parameter(format!(
            "index params exceed the limit of {} bytes",
            limits::MAX_INDEX_PARAMS_BYTES
        )));
    }
    let Canonical {
        index_type,
        metric_type,
        pairs: params,
    } = canonical(pairs, field)?;
    Ok(CreateIndexParams {
        database: entry.database_id(),
        collection: entry.id(),
        collection_name: request.collection_name,
        field: field.id,
        name,
        index_type,
        metric_type,
        params,
    })
}

/// An index's parameters with what was left out filled in.
#[derive(Debug)]
struct Canonical {
    index_type: String,
    metric_type: String,
    /// To report.
    pairs: Vec<(String, String)>,
}

fn canonical(mut pairs: Vec<(String, String)>, field: &FieldSchema) -> Result<Canonical> {
    let given = |pairs: &[(String, String)], key: &str| {
        pairs
            .iter()
            .any(|(name, value)| name == key && !value.is_empty())
    };
    let nested_metric = pairs
        .iter()
        .filter(|(key, _)| key == "params")
        .filter_map(|(_, json)| serde_json::from_str::<serde_json::Value>(json).ok())
        .any(|json| json.get("metric_type").is_some());
    if !given(&pairs, "metric_type") && !nested_metric {
        pairs.retain(|(key, _)| key != "metric_type");
        let metric = MetricType::parse_for(field.data_type, "")?;
        pairs.push(("metric_type".to_owned(), metric.name().to_owned()));
    }
    if !given(&pairs, "index_type") {
        pairs.retain(|(key, _)| key != "index_type");
        pairs.push(("index_type".to_owned(), "AUTOINDEX".to_owned()));
    }
    let refused = |error: redkite_index::Error| Error {
        is_input_error: true,
        ..Error::from_coded(&error)
    };
    let parsed = ColumnIndexParams::from_pairs(field.data_type, &pairs)?;
    parsed.check_dim(field.dim).map_err(refused)?;
    Ok(Canonical {
        index_type: parsed.index_type().name().to_owned(),
        metric_type: parsed.metric().name().to_owned(),
        pairs,
    })
}

impl CreateIndexParams {
    fn is_same(&self, found: &IndexInfo) -> bool {
        let mut ours = kv::from_iter(self.params.clone());
        let mut theirs = found.params.clone();
        ours.sort_by(|a, b| a.key.cmp(&b.key));
        theirs.sort_by(|a, b| a.key.cmp(&b.key));
        found.field_id == self.field.0 && found.name == self.name && ours == theirs
    }
}

const ALLOCATE: StepKey<(IndexId, Timestamp)> = StepKey::new("allocate");
const ADD_META: StepKey<()> = StepKey::new("add_meta");

/// allocate → **add_meta** (the data coordinator sees it and starts to build) → sync_querycoord →
/// expire_proxy_caches.
pub struct CreateIndex(pub Arc<DdlContext>);

impl Saga for CreateIndex {
    const KIND: &'static str = "create_index";
    const VERSION: u32 = 1;
    type Params = CreateIndexParams;
    type Output = ();

    fn locks(&self, params: &Self::Params) -> Vec<LockKey> {
        vec![
            steps::share_database(params.database),
            steps::take_collection(params.collection),
        ]
    }

    fn steps(&self) -> Vec<Step<Self::Params>> {
        let context = self.0.clone();
        vec![
            Step::<Self::Params>::allocate(ALLOCATE, move |_| {
                let context = context.clone();
                async move {
                    Ok((
                        IndexId(context.ids.alloc(1).await?),
                        context.timestamp().await?,
                    ))
                }
            }),
            Step::<Self::Params>::meta(ADD_META, |cx| {
                let (id, timestamp) = cx.get(ALLOCATE)?;
                let params = &cx.params;
                let info = IndexInfo {
                    id: id.0,
                    collection_id: params.collection.0,
                    field_id: params.field.0,
                    name: params.name.clone(),
                    index_type: params.index_type.clone(),
                    metric_type: params.metric_type.clone(),
                    params: kv::from_iter(params.params.clone()),
                    created_ts: timestamp.0,
                    state: ObjectState::Created.into(),
                };
                Ok(Txn::new().then(steps::put(keys::index(params.collection, id), &info)))
            })
            .pivot(),
            steps::expire_proxy_caches(&self.0),
        ]
    }

    fn output(&self, _: &Self::Params, _: &Outputs) -> Result<()> {
        Ok(())
    }

    async fn check(&self, params: &Self::Params) -> Result<Check<()>> {
        let view = self.0.fresh_view().await?;
        let entry = resolve::collection_by_id(&view, params.collection, &params.collection_name)?;
        let taken = entry
            .index_on(params.field)
            .or_else(|| entry.index(&params.name));
        match taken {
            None => Ok(Check::Proceed),
            Some(found) if params.is_same(found) => Ok(Check::Already(())),
            Some(_) => Err(Error::invalid_parameter(
                "CreateIndex failed: at most one distinct index is allowed per field",
            )),
        }
    }
}

/// An index that is to go.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DropIndexParams {
    database: DatabaseId,
    collection: CollectionId,
    collection_name: String,
    index: IndexId,
}

/// Reads a request; `None` when there is nothing to drop.
///
/// # Errors
/// Codes 800, 100 for what is absent.
pub async fn drop_params(
    context: &DdlContext,
    database: &str,
    request: DropIndexRequest,
) -> Result<Option<DropIndexParams>> {
    let view = context.fresh_view().await?;
    let entry = resolve::collection(&view, database, &request.collection_name)?;
    let index = if request.index_name.is_empty() {
        let field = entry.schema().field(&request.field_name);
        field.and_then(|field| entry.index_on(field.id))
    } else {
        entry.index(&request.index_name)
    };
    Ok(index.map(|index| DropIndexParams {
        database: entry.database_id(),
        collection: entry.id(),
        collection_name: request.collection_name.clone(),
        index: IndexId(index.id),
    }))
}

const REMOVE_META: StepKey<()> = StepKey::new("remove_meta");

/// **remove_meta** (with all its builds) → expire_proxy_caches.
pub struct DropIndex(pub Arc<DdlContext>);

impl Saga for DropIndex {
    const KIND: &'static str = "drop_index";
    const VERSION: u32 = 1;
    type Params = DropIndexParams;
    type Output = ();

    fn locks(&self, params: &Self::Params) -> Vec<LockKey> {
        vec![
            steps::share_database(params.database),
            steps::take_collection(params.collection),
        ]
    }

    fn steps(&self) -> Vec<Step<Self::Params>> {
        let context = self.0.clone();
        vec![
            Step::<Self::Params>::meta_async(REMOVE_META, move |cx| {
                let context = context.clone();
                async move {
                    let view = context.fresh_view().await?;
                    let params = &cx.params;
                    let entry = resolve::collection_by_id(
                        &view,
                        params.collection,
                        &params.collection_name,
                    )?;
                    Ok(remove(entry, params.index))
                }
            })
            .pivot(),
            steps::expire_proxy_caches(&self.0),
        ]
    }

    fn output(&self, _: &Self::Params, _: &Outputs) -> Result<()> {
        Ok(())
    }

    async fn check(&self, params: &Self::Params) -> Result<Check<()>> {
        let view = self.0.fresh_view().await?;
        let entry = resolve::collection_by_id(&view, params.collection, &params.collection_name)?;
        if !entry
            .visible_indexes()
            .any(|index| index.id == params.index.0)
        {
            return Ok(Check::Already(()));
        }
        if entry.is_loaded() {
            return Err(Error::invalid_parameter(
                "index cannot be dropped, collection is loaded, please release it first",
            ));
        }
        Ok(Check::Proceed)
    }
}

fn remove(entry: &CollectionEntry, index: IndexId) -> Txn {
    let collection = entry.id();
    let mut txn = Txn::new().then(Op::delete(keys::index(collection, index)));
    for (segment, found) in &entry.segments {
        for build in found
            .indexes
            .values()
            .filter(|build| build.index_id == index.0)
        {
            txn = txn.then(Op::delete(keys::segment_index(
                collection,
                PartitionId(build.partition_id),
                SegmentId(segment.0),
                BuildId(build.build_id),
            )));
        }
    }
    txn
}

#[cfg(test)]
mod tests {
    use redkite_types::DataType;

    use super::*;

    fn pairs(given: &[(&str, &str)]) -> Vec<(String, String)> {
        given
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn what_is_left_out_is_filled_in_and_what_is_wrong_is_refused() {
        let field = FieldSchema {
            dim: 8,
            ..FieldSchema::new("vector", DataType::FloatVector)
        };
        let found = canonical(pairs(&[("metric_type", "L2")]), &field).unwrap();
        assert_eq!(
            (&*found.index_type, &*found.metric_type),
            ("AUTOINDEX", "L2")
        );
        let given = [
            ("index_type", "HNSW"),
            ("params", r#"{"M": 8, "efConstruction": 64}"#),
        ];
        let found = canonical(pairs(&given), &field).unwrap();
        assert_eq!(
            (&*found.index_type, &*found.metric_type),
            ("HNSW", "COSINE")
        );
        for wrong in [
            vec![("index_type", "NOPE")],
            vec![("index_type", "HNSW"), ("M", "1")],
            vec![("index_type", "HNSW"), ("nlist", "10")],
            vec![("index_type", "IVF_PQ"), ("m", "3")],
            vec![("index_type", "SCANN"), ("sub_dim", "3")],
            vec![("index_type", "HNSW"), ("metric_type", "HAMMING")],
        ] {
            let error = canonical(pairs(&wrong), &field).unwrap_err();
            assert_eq!(
                error.code,
                ErrorCode::InvalidParameter,
                "{wrong:?}: {error}"
            );
        }
    }
}
