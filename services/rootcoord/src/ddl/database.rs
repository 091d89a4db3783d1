//! CreateDatabase, AlterDatabase and DropDatabase.

use std::sync::Arc;

use redkite_catalog::keys;
use redkite_metastore::{Op, Txn};
use redkite_proto::{
    convert::kv,
    milvus::milvus::{AlterDatabaseRequest, CreateDatabaseRequest},
    redkite::meta::{DatabaseInfo, ObjectState},
};
use redkite_saga::{Check, LockKey, Outputs, Saga, Step, StepKey};
use redkite_types::{DatabaseId, Error, ErrorCode, Result, Timestamp, limits, name};
use serde::{Deserialize, Serialize};

use super::{alter_collection::altered, context::DdlContext, resolve, steps};

/// A new database.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreateDatabaseParams {
    name: String,
    properties: Vec<(String, String)>,
}

/// Reads a request to create.
///
/// # Errors
/// Code 802 for a bad name.
pub fn create_params(request: CreateDatabaseRequest) -> Result<CreateDatabaseParams> {
    name::check_database(&request.db_name)?;
    Ok(CreateDatabaseParams {
        name: request.db_name,
        properties: request
            .properties
            .into_iter()
            .map(|pair| (pair.key, pair.value))
            .collect(),
    })
}

const ALLOCATE: StepKey<(DatabaseId, Timestamp)> = StepKey::new("allocate");
const ADD_META: StepKey<()> = StepKey::new("add_meta");

/// allocate → **add_meta** → expire_proxy_caches.
pub struct CreateDatabase(pub Arc<DdlContext>);

impl Saga for CreateDatabase {
    const KIND: &'static str = "create_database";
    const VERSION: u32 = 1;
    type Params = CreateDatabaseParams;
    type Output = ();

    fn locks(&self, params: &Self::Params) -> Vec<LockKey> {
        vec![steps::take_database_name(&params.name)]
    }

    fn steps(&self) -> Vec<Step<Self::Params>> {
        let context = self.0.clone();
        vec![
            Step::<Self::Params>::allocate(ALLOCATE, move |_| {
                let context = context.clone();
                async move {
                    Ok((
                        DatabaseId(context.ids.alloc(1).await?),
                        context.timestamp().await?,
                    ))
                }
            }),
            Step::<Self::Params>::meta(ADD_META, |cx| {
                let (id, timestamp) = cx.get(ALLOCATE)?;
                let info = DatabaseInfo {
                    id: id.0,
                    name: cx.params.name.clone(),
                    created_ts: timestamp.0,
                    properties: kv::from_iter(cx.params.properties.clone()),
                    state: ObjectState::Created.into(),
                };
                Ok(Txn::new().then(steps::put(keys::database(id), &info)))
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
        if view.database(&params.name).is_some() {
            return Err(Error::input(
                ErrorCode::Unexpected,
                format!("database already exist: {}", params.name),
            ));
        }
        let limit = self.0.options.max_database_num;
        if view.databases().count() >= limit {
            return Err(Error::new(
                ErrorCode::DatabaseLimit,
                format!("exceeded the limit number of database[limit={limit}]"),
            ));
        }
        Ok(Check::Proceed)
    }
}

/// New properties of a database.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AlterDatabaseParams {
    database: DatabaseId,
    name: String,
    set: Vec<(String, String)>,
    delete: Vec<String>,
}

/// Reads a request to alter.
///
/// # Errors
/// Code 800 for an absent database; 1100 when nothing is to be changed.
pub async fn alter_params(
    context: &DdlContext,
    request: AlterDatabaseRequest,
) -> Result<AlterDatabaseParams> {
    if request.properties.is_empty() && request.delete_keys.is_empty() {
        return Err(Error::invalid_parameter(
            "alter database requires either properties or deletekeys to modify or delete keys, \
             both cannot be empty",
        ));
    }
    let view = context.fresh_view().await?;
    let database = resolve::database(&view, &request.db_name)?;
    Ok(AlterDatabaseParams {
        database: DatabaseId(database.id),
        name: database.name.clone(),
        set: request
            .properties
            .into_iter()
            .map(|pair| (pair.key, pair.value))
            .collect(),
        delete: request.delete_keys,
    })
}

const ALTER_META: StepKey<()> = StepKey::new("alter_meta");

/// **alter_meta** → expire_proxy_caches.
pub struct AlterDatabase(pub Arc<DdlContext>);

impl Saga for AlterDatabase {
    const KIND: &'static str = "alter_database";
    const VERSION: u32 = 1;
    type Params = AlterDatabaseParams;
    type Output = ();

    fn locks(&self, params: &Self::Params) -> Vec<LockKey> {
        vec![steps::take_database(params.database)]
    }

    fn steps(&self) -> Vec<Step<Self::Params>> {
        let context = self.0.clone();
        vec![
            Step::<Self::Params>::meta_async(ALTER_META, move |cx| {
                let context = context.clone();
                async move {
                    let view = context.fresh_view().await?;
                    let found = view
                        .database_by_id(cx.params.database)
                        .ok_or_else(|| Error::database_not_found(&cx.params.name))?;
                    let mut info = found.as_ref().clone();
                    info.properties = altered(info.properties, &cx.params.set, &cx.params.delete);
                    let key = keys::database(cx.params.database);
                    Ok(Txn::new().then(steps::put(key, &info)))
                }
            })
            .pivot(),
            steps::expire_proxy_caches(&self.0),
        ]
    }

    fn output(&self, _: &Self::Params, _: &Outputs) -> Result<()> {
        Ok(())
    }
}

/// A database that is to go.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DropDatabaseParams {
    database: DatabaseId,
    name: String,
}

/// Reads a request to drop; `None` when there is nothing to drop.
///
/// # Errors
/// Code 65535 for the default database.
pub async fn drop_params(context: &DdlContext, name: &str) -> Result<Option<DropDatabaseParams>> {
    if name == limits::DEFAULT_DATABASE {
        return Err(Error::input(
            ErrorCode::Unexpected,
            "can not drop default database",
        ));
    }
    name::check_database(name)?;
    let view = context.fresh_view().await?;
    Ok(view.database(name).map(|database| DropDatabaseParams {
        database: DatabaseId(database.id),
        name: name.to_owned(),
    }))
}

const REMOVE_META: StepKey<()> = StepKey::new("remove_meta");

/// **remove_meta** → expire_proxy_caches.
pub struct DropDatabase(pub Arc<DdlContext>);

impl Saga for DropDatabase {
    const KIND: &'static str = "drop_database";
    const VERSION: u32 = 1;
    type Params = DropDatabaseParams;
    type Output = ();

    fn locks(&self, params: &Self::Params) -> Vec<LockKey> {
        vec![
            steps::take_database_name(&params.name),
            steps::take_database(params.database),
        ]
    }

    fn steps(&self) -> Vec<Step<Self::Params>> {
        vec![
            Step::<Self::Params>::meta(REMOVE_META, |cx| {
                Ok(Txn::new().then(Op::delete(keys::database(cx.params.database))))
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
        if view.database_by_id(params.database).is_none() {
            return Ok(Check::Already(()));
        }
        if view.collections(params.database).next().is_some() {
            return Err(Error::input(
                ErrorCode::Unexpected,
                format!(
                    "database:{} not empty, must drop all collections before drop database",
                    params.name
                ),
            ));
        }
        Ok(Check::Proceed)
    }
}
