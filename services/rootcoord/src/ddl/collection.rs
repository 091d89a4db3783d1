//! CreateCollection.

use std::sync::Arc;

use redkite_catalog::{CatalogView, CollectionEntry, keys};
use redkite_metastore::{Op, Txn};
use redkite_proto::{
    convert::{kv, schema as convert},
    milvus::milvus::CreateCollectionRequest,
    redkite::meta::{CollectionInfo, DatabaseInfo, FieldInfo, ObjectState, PartitionInfo},
};
use redkite_saga::{Check, LockKey, Outputs, Saga, Step, StepCx, StepKey};
use redkite_types::{
    CollectionId, CollectionSchema, ConsistencyLevel, DatabaseId, Error, ErrorCode, FieldId,
    PartitionId, Result, Timestamp, limits, name,
};
use serde::{Deserialize, Serialize};

use super::{
    alter_collection::{MMAP_ENABLED, check_mmap, check_properties},
    context::DdlContext,
    isolation, resolve, steps,
};

/// What is asked for, checked as far as that needs no metadata.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreateCollectionParams {
    database: DatabaseId,
    name: String,
    schema: CollectionSchema,
    shards: usize,
    consistency: ConsistencyLevel,
    properties: Vec<(String, String)>,
    /// In order of creation.
    partitions: Vec<String>,
    partition_key_partitions: i64,
}

/// The new ids and the time of the creation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Allocated {
    collection: CollectionId,
    /// The partitions get this id and the ones behind it.
    first_partition: i64,
    timestamp: Timestamp,
}

const ALLOCATE: StepKey<Allocated> = StepKey::new("allocate");
const ADD_META: StepKey<()> = StepKey::new("add_meta");
const COMMIT: StepKey<()> = StepKey::new("commit");

/// Reads a request.
///
/// # Errors
/// Milvus's codes and texts for what is wrong with it.
pub fn parse(
    database: DatabaseId,
    request: CreateCollectionRequest,
    max_partitions: usize,
) -> Result<CreateCollectionParams> {
    name::check_collection(&request.collection_name)?;
    let shards = check_shards(request.shards_num)?;
    let client = convert::decode_client(request.schema)?;
    let schema = client.schema.prepare()?;
    let mut properties: Vec<(String, String)> = request
        .properties
        .into_iter()
        .map(|pair| (pair.key, pair.value))
        .collect();
    properties.extend(client.properties);
    check_properties(&properties)?;
    isolation::check(&properties, &request.collection_name, &schema)?;
    let type_params = schema.fields.iter().flat_map(|field| &field.type_params);
    for (_, value) in type_params.filter(|(key, _)| key == MMAP_ENABLED) {
        check_mmap(value)?;
    }
    let partition_key_partitions =
        check_num_partitions(request.num_partitions, &schema, max_partitions)?;
    let partitions = if schema.partition_key().is_some() {
        (0..partition_key_partitions)
            .map(|slot| format!("{}_{slot}", limits::DEFAULT_PARTITION))
            .collect()
    } else {
        vec![limits::DEFAULT_PARTITION.to_owned()]
    };
    Ok(CreateCollectionParams {
        database,
        name: request.collection_name,
        schema,
        shards,
        consistency: convert::consistency_from_proto(request.consistency_level)?,
        properties,
        partitions,
        partition_key_partitions,
    })
}

fn check_shards(shards: i32) -> Result<usize> {
    match shards {
        0 => Ok(1),
        1..=limits::MAX_SHARDS => Ok(shards.unsigned_abs() as usize),
        _ => Err(Error::invalid_parameter(format!(
            "maximum shards's number should be limited to {}, but got {shards}",
            limits::MAX_SHARDS
        ))),
    }
}

fn check_num_partitions(
    asked: i64,
    schema: &CollectionSchema,
    max_partitions: usize,
) -> Result<i64> {
    if schema.partition_key().is_none() {
        if asked != 0 {
            return Err(Error::invalid_parameter(
                "num_partitions should only be specified with partition key field enabled",
            ));
        }
        return Ok(0);
    }
    let partitions = if asked == 0 {
        limits::DEFAULT_PARTITION_KEY_PARTITIONS
    } else {
        asked
    };
    if partitions < 1 || partitions > max_partitions as i64 {
        return Err(Error::invalid_parameter(format!(
            "partition number ({partitions}) exceeds max configuration ({max_partitions})"
        )));
    }
    Ok(partitions)
}

/// allocate → add_meta (creating) → sync_querycoord (channels get their owners) → **commit** →
/// expire_proxy_caches.
pub struct CreateCollection(pub Arc<DdlContext>);

impl Saga for CreateCollection {
    const KIND: &'static str = "create_collection";
    const VERSION: u32 = 1;
    type Params = CreateCollectionParams;
    type Output = ();

    fn locks(&self, params: &Self::Params) -> Vec<LockKey> {
        vec![
            steps::share_database(params.database),
            steps::take_name(params.database, &params.name),
        ]
    }

    fn steps(&self) -> Vec<Step<Self::Params>> {
        let context = self.0.clone();
        vec![
            Step::<Self::Params>::allocate(ALLOCATE, move |cx| {
                let context = context.clone();
                async move {
                    let count = 1 + cx.params.partitions.len() as u32;
                    let first = context.ids.alloc(count).await?;
                    Ok(Allocated {
                        collection: CollectionId(first),
                        first_partition: first + 1,
                        timestamp: context.timestamp().await?,
                    })
                }
            }),
            Step::<Self::Params>::meta(ADD_META, |cx| {
                Ok(add_meta(
                    &cx.params,
                    &cx.get(ALLOCATE)?,
                    ObjectState::Creating,
                ))
            })
            .undo_meta(|cx| {
                Ok(cx.find(ALLOCATE)?.map_or_else(Txn::new, |made| {
                    remove_meta(cx.params.database, made.collection)
                }))
            }),
            steps::sync_querycoord(&self.0, |cx: &StepCx<Self::Params>| {
                Ok(cx.get(ALLOCATE)?.collection)
            }),
            Step::<Self::Params>::meta(COMMIT, |cx| {
                let made = cx.get(ALLOCATE)?;
                Ok(Txn::new().then(steps::put_collection(&record(
                    &cx.params,
                    &made,
                    ObjectState::Created,
                ))))
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
        let database = view
            .database_by_id(params.database)
            .ok_or_else(|| Error::database_not_found(&params.database.to_string()))?;
        if let Some(found) = view.collection_by_name(params.database, &params.name) {
            if is_same(found, params) {
                return Ok(Check::Already(()));
            }
            return Err(duplicate(&params.name));
        }
        check_room(&self.0, &view, database, &params.name)?;
        Ok(Check::Proceed)
    }
}

/// Checks that a collection of a name can be made anew.
///
/// # Errors
/// Code 65535 when there is one, 1601 when it is an alias, 102 when there are too many.
pub(super) fn check_new_name(
    context: &DdlContext,
    view: &CatalogView,
    database: DatabaseId,
    name: &str,
) -> Result<()> {
    let found = view
        .database_by_id(database)
        .ok_or_else(|| Error::database_not_found(&database.to_string()))?;
    if view.collection_by_name(database, name).is_some() {
        return Err(duplicate(name));
    }
    check_room(context, view, found, name)
}

fn duplicate(name: &str) -> Error {
    Error::input(
        ErrorCode::Unexpected,
        format!("create duplicate collection with different parameters, collection: {name}"),
    )
}

fn check_room(
    context: &DdlContext,
    view: &CatalogView,
    database: &DatabaseInfo,
    name: &str,
) -> Result<()> {
    if view.alias(DatabaseId(database.id), name).is_some() {
        return Err(Error::input(
            ErrorCode::AliasCollectionNameConflict,
            format!(
                "collection name [{name}] conflicts with an existing alias, please choose a unique \
                 name: alias and collection name conflict[database={}][alias={name}]",
                database.name
            ),
        ));
    }
    let limit = context.options.max_collection_num;
    if view.collection_count() >= limit {
        return Err(Error::new(
            ErrorCode::CollectionLimit,
            format!("exceeded the limit number of collections[limit={limit}]"),
        ));
    }
    Ok(())
}

fn is_same(found: &CollectionEntry, params: &CreateCollectionParams) -> bool {
    let Some(info) = found.info() else {
        return false;
    };
    let same_fields = found.schema().fields == params.schema.fields
        && found.schema().enable_dynamic_field == params.schema.enable_dynamic_field
        && found.schema().description == params.schema.description;
    same_fields
        && info.channels.len() == params.shards
        && info.consistency_level() == convert::consistency_to_proto(params.consistency)
        && info.partition_key_partitions == params.partition_key_partitions
        && info.properties == kv::from_iter(params.properties.clone())
}

fn record(params: &CreateCollectionParams, made: &Allocated, state: ObjectState) -> CollectionInfo {
    CollectionInfo {
        id: made.collection.0,
        database_id: params.database.0,
        name: params.name.clone(),
        description: params.schema.description.clone(),
        enable_dynamic_field: params.schema.enable_dynamic_field,
        schema_version: params.schema.version,
        properties: kv::from_iter(params.properties.clone()),
        consistency_level: convert::consistency_to_proto(params.consistency).into(),
        channels: (0..params.shards)
            .map(|shard| keys::channel_name(made.collection, shard))
            .collect(),
        partition_key_partitions: params.partition_key_partitions,
        created_ts: made.timestamp.0,
        updated_ts: made.timestamp.0,
        state: state.into(),
        borrows_from: Vec::new(),
    }
}

fn add_meta(params: &CreateCollectionParams, made: &Allocated, state: ObjectState) -> Txn {
    let mut txn = Txn::new().then(steps::put_collection(&record(params, made, state)));
    for (position, field) in (0..).zip(&params.schema.fields) {
        let info = FieldInfo {
            collection_id: made.collection.0,
            position,
            schema: Some(convert::field_to_proto(field)),
        };
        txn = txn.then(steps::put(
            keys::field(made.collection, FieldId(field.id.0)),
            &info,
        ));
    }
    for (offset, name) in (0..).zip(&params.partitions) {
        let info = PartitionInfo {
            id: made.first_partition + offset,
            name: name.clone(),
            created_ts: made.timestamp.0,
            collection_id: made.collection.0,
            state: ObjectState::Created.into(),
            ..PartitionInfo::default()
        };
        txn = txn.then(steps::put(
            keys::partition(made.collection, PartitionId(info.id)),
            &info,
        ));
    }
    txn
}

/// Removes everything that rootcoord keeps of a collection.
pub(super) fn remove_meta(database: DatabaseId, collection: CollectionId) -> Txn {
    let channels = format!("{collection}v");
    Txn::new()
        .then(Op::DeletePrefix {
            prefix: keys::fields(collection),
        })
        .then(Op::DeletePrefix {
            prefix: keys::partitions(collection),
        })
        .then(Op::DeletePrefix {
            prefix: keys::indexes(collection),
        })
        .then(Op::DeletePrefix {
            prefix: keys::channel_owner(&channels),
        })
        .then(Op::delete(keys::collection(database, collection)))
}

/// Parses with the database resolved by name.
///
/// # Errors
/// As [`parse`], and code 800.
pub async fn params(
    context: &DdlContext,
    database: &str,
    request: CreateCollectionRequest,
) -> Result<CreateCollectionParams> {
    let view = context.fresh_view().await?;
    let id = DatabaseId(resolve::database(&view, database)?.id);
    parse(id, request, context.options.max_partition_num)
}
