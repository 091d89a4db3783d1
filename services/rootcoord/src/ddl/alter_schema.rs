//! AddCollectionField and AlterCollectionField: a schema that changes under its rows.
//!
//! Each change makes a new version of the schema. Reads and writes carry the version that they were
//! planned with, and a query node that has not heard of it yet has them come again; so nothing has to
//! wait for the nodes here. Rows that are there already are left as they are.

use std::{sync::Arc, time::Duration};

use redkite_catalog::{CollectionEntry, keys};
use redkite_metastore::Txn;
use redkite_proto::{
    convert::schema as convert,
    milvus::milvus::{AddCollectionFieldRequest, AlterCollectionFieldRequest},
    redkite::meta::FieldInfo,
};
use redkite_saga::{Check, LockKey, Outputs, Saga, Step, StepKey};
use redkite_types::{
    CollectionId, CollectionSchema, DatabaseId, Error, ErrorCode, FieldSchema, Result, Timestamp,
    evolve,
};
use serde::{Deserialize, Serialize};

use super::{context::DdlContext, resolve, steps};

/// How long the query nodes are waited for.
const QUERY_NODES_WITHIN: Duration = Duration::from_secs(2);

/// A field that is to be added.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AddFieldParams {
    database: DatabaseId,
    collection: CollectionId,
    name: String,
    field: FieldSchema,
}

/// Reads a request to add a field.
///
/// # Errors
/// Codes 800, 100 for what is absent; 1100, 1701 and 3000 for a field that cannot be added.
pub async fn add_params(
    context: &DdlContext,
    database: &str,
    request: AddCollectionFieldRequest,
) -> Result<AddFieldParams> {
    let view = context.fresh_view().await?;
    let entry = resolve::collection(&view, database, &request.collection_name)?;
    let field = convert::decode_client_field(request.schema)?;
    // What is wrong with it alone is said before anybody waits for a lock.
    entry.schema().with_field(field.clone())?;
    Ok(AddFieldParams {
        database: entry.database_id(),
        collection: entry.id(),
        name: request.collection_name,
        field,
    })
}

const ALTER_META: StepKey<()> = StepKey::new("alter_meta");

/// **alter_meta** → sync_querycoord → expire_proxy_caches.
pub struct AddField(pub Arc<DdlContext>);

impl Saga for AddField {
    const KIND: &'static str = "add_field";
    const VERSION: u32 = 1;
    type Params = AddFieldParams;
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
            Step::<Self::Params>::meta_async(ALTER_META, move |cx| {
                let context = context.clone();
                async move {
                    let params = &cx.params;
                    let view = context.fresh_view().await?;
                    let entry = resolve::collection_by_id(&view, params.collection, &params.name)?;
                    let schema = entry.schema().with_field(params.field.clone())?;
                    Ok(put_schema(entry, &schema, context.timestamp().await?))
                }
            })
            .pivot(),
            steps::tell_query_nodes(
                &self.0,
                |params: &Self::Params| params.collection,
                QUERY_NODES_WITHIN,
            ),
            steps::expire_proxy_caches(&self.0),
        ]
    }

    fn output(&self, _: &Self::Params, _: &Outputs) -> Result<()> {
        Ok(())
    }

    async fn check(&self, params: &Self::Params) -> Result<Check<()>> {
        let view = self.0.fresh_view().await?;
        let entry = resolve::collection_by_id(&view, params.collection, &params.name)?;
        entry.schema().with_field(params.field.clone())?;
        Ok(Check::Proceed)
    }
}

/// Other parameters of a field.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AlterFieldParams {
    database: DatabaseId,
    collection: CollectionId,
    name: String,
    field: String,
    set: Vec<(String, String)>,
    delete: Vec<String>,
}

/// Reads a request to alter a field.
///
/// # Errors
/// Codes 800, 100 for what is absent; 1100 and 3000 for what cannot be changed.
pub async fn alter_params(
    context: &DdlContext,
    database: &str,
    request: AlterCollectionFieldRequest,
) -> Result<AlterFieldParams> {
    let view = context.fresh_view().await?;
    let entry = resolve::collection(&view, database, &request.collection_name)?;
    if request.properties.is_empty() && request.delete_keys.is_empty() {
        return Err(Error::invalid_parameter(
            "alter collection field requires either properties or deletekeys to modify or delete \
             keys, both cannot be empty",
        ));
    }
    let pairs = request.properties.into_iter();
    let params = AlterFieldParams {
        database: entry.database_id(),
        collection: entry.id(),
        name: request.collection_name,
        field: request.field_name,
        set: pairs.map(|pair| (pair.key, pair.value)).collect(),
        delete: request.delete_keys,
    };
    params.altered(entry)?;
    Ok(params)
}

impl AlterFieldParams {
    /// The schema after the change.
    fn altered(&self, entry: &CollectionEntry) -> Result<CollectionSchema> {
        let altered = entry
            .schema()
            .with_field_params(&self.field, &self.set, &self.delete)?;
        let mut keys = self.set.iter().map(|(key, _)| key).chain(&self.delete);
        let maps = keys.any(|key| evolve::canonical_param(key) == evolve::MMAP_ENABLED);
        if maps && entry.is_loaded() {
            return Err(Error::input(
                ErrorCode::CollectionLoaded,
                format!(
                    "can not alter collection field properties if collection loaded: {}\
                     [collection={}]",
                    ErrorCode::CollectionLoaded.text(),
                    self.name
                ),
            ));
        }
        Ok(altered)
    }
}

/// **alter_meta** → sync_querycoord → expire_proxy_caches.
pub struct AlterField(pub Arc<DdlContext>);

impl Saga for AlterField {
    const KIND: &'static str = "alter_field";
    const VERSION: u32 = 1;
    type Params = AlterFieldParams;
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
            Step::<Self::Params>::meta_async(ALTER_META, move |cx| {
                let context = context.clone();
                async move {
                    let params = &cx.params;
                    let view = context.fresh_view().await?;
                    let entry = resolve::collection_by_id(&view, params.collection, &params.name)?;
                    let schema = params.altered(entry)?;
                    Ok(put_schema(entry, &schema, context.timestamp().await?))
                }
            })
            .pivot(),
            steps::tell_query_nodes(
                &self.0,
                |params: &Self::Params| params.collection,
                QUERY_NODES_WITHIN,
            ),
            steps::expire_proxy_caches(&self.0),
        ]
    }

    fn output(&self, _: &Self::Params, _: &Outputs) -> Result<()> {
        Ok(())
    }

    async fn check(&self, params: &Self::Params) -> Result<Check<()>> {
        let view = self.0.fresh_view().await?;
        let entry = resolve::collection_by_id(&view, params.collection, &params.name)?;
        params.altered(entry)?;
        Ok(Check::Proceed)
    }
}

/// Writes a schema in the place of a collection's own: the fields that are new, or not what or where
/// they were.
fn put_schema(entry: &CollectionEntry, schema: &CollectionSchema, at: Timestamp) -> Txn {
    let mut info = entry
        .info()
        .map(|info| info.as_ref().clone())
        .unwrap_or_default();
    info.schema_version = schema.version;
    info.updated_ts = at.0;
    let mut txn = Txn::new().then(steps::put_collection(&info));
    for (position, field) in schema.fields.iter().enumerate() {
        if entry.schema().fields.get(position) == Some(field) {
            continue;
        }
        let record = FieldInfo {
            collection_id: info.id,
            position: position as i32,
            schema: Some(convert::field_to_proto(field)),
        };
        txn = txn.then(steps::put(keys::field(entry.id(), field.id), &record));
    }
    txn
}
