//! CreateAlias, AlterAlias and DropAlias.

use std::sync::Arc;

use redkite_catalog::{CatalogView, keys};
use redkite_metastore::{Op, Txn};
use redkite_proto::redkite::meta::AliasInfo;
use redkite_saga::{Check, LockKey, Outputs, Saga, Step, StepKey};
use redkite_types::{CollectionId, DatabaseId, Error, ErrorCode, Result, name};
use serde::{Deserialize, Serialize};

use super::{context::DdlContext, resolve, steps};

/// An alias and the collection that it is to name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PutAliasParams {
    database: DatabaseId,
    alias: String,
    collection: CollectionId,
    collection_name: String,
    /// Whether the alias must exist (AlterAlias) or must not (CreateAlias).
    alter: bool,
}

/// Reads a request to create or alter.
///
/// # Errors
/// Codes 800, 100 for what is absent; 1100 for a bad name.
pub async fn put_params(
    context: &DdlContext,
    database: &str,
    collection: &str,
    alias: &str,
    alter: bool,
) -> Result<PutAliasParams> {
    name::check_alias(alias)?;
    let view = context.fresh_view().await?;
    let id = DatabaseId(resolve::database(&view, database)?.id);
    let entry = resolve::collection(&view, database, collection)?;
    Ok(PutAliasParams {
        database: id,
        alias: alias.to_owned(),
        collection: entry.id(),
        collection_name: collection.to_owned(),
        alter,
    })
}

const PUT_META: StepKey<()> = StepKey::new("put_meta");

/// **put_meta** → expire_proxy_caches.
pub struct PutAlias(pub Arc<DdlContext>);

impl Saga for PutAlias {
    const KIND: &'static str = "put_alias";
    const VERSION: u32 = 1;
    type Params = PutAliasParams;
    type Output = ();

    fn locks(&self, params: &Self::Params) -> Vec<LockKey> {
        vec![
            steps::share_database(params.database),
            steps::take_name(params.database, &params.alias),
            steps::take_collection(params.collection),
        ]
    }

    fn steps(&self) -> Vec<Step<Self::Params>> {
        let context = self.0.clone();
        vec![
            Step::<Self::Params>::meta_async(PUT_META, move |cx| {
                let context = context.clone();
                async move {
                    let params = &cx.params;
                    let info = AliasInfo {
                        alias: params.alias.clone(),
                        database_id: params.database.0,
                        collection_id: params.collection.0,
                        created_ts: context.timestamp().await?.0,
                    };
                    let key = keys::alias(params.database, &params.alias);
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

    async fn check(&self, params: &Self::Params) -> Result<Check<()>> {
        let view = self.0.fresh_view().await?;
        resolve::collection_by_id(&view, params.collection, &params.collection_name)?;
        check_put(&view, params)
    }
}

fn check_put(view: &CatalogView, params: &PutAliasParams) -> Result<Check<()>> {
    let database = view
        .database_by_id(params.database)
        .map(|found| found.name.as_str())
        .unwrap_or_default();
    let alias = &params.alias;
    if view.collection_by_name(params.database, alias).is_some() {
        return Err(Error::input(
            ErrorCode::AliasCollectionNameConflict,
            format!(
                "collection name [{alias}] conflicts with an existing collection: alias and \
                 collection name conflict[database={database}][alias={alias}]"
            ),
        ));
    }
    match view.alias(params.database, alias) {
        Some(found) if found.collection_id == params.collection.0 => Ok(Check::Already(())),
        Some(_) if params.alter => Ok(Check::Proceed),
        Some(found) => {
            let owner = view
                .collection_by_id(CollectionId(found.collection_id))
                .map(|entry| entry.name().to_owned())
                .unwrap_or_default();
            Err(Error::input(
                ErrorCode::AliasAlreadyExists,
                format!(
                    "{alias} is alias to another collection: {owner}: alias already \
                     exist[database={database}][alias={alias}]"
                ),
            ))
        }
        None if params.alter => Err(Error::input(
            ErrorCode::AliasNotFound,
            format!("alias not found[database={database}][alias={alias}]"),
        )),
        None => Ok(Check::Proceed),
    }
}

/// An alias that is to go.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DropAliasParams {
    database: DatabaseId,
    alias: String,
}

/// Reads a request to drop.
///
/// # Errors
/// Code 800 for an absent database; 1100 for a bad name.
pub async fn drop_params(
    context: &DdlContext,
    database: &str,
    alias: &str,
) -> Result<DropAliasParams> {
    name::check_alias(alias)?;
    let view = context.fresh_view().await?;
    let id = DatabaseId(resolve::database(&view, database)?.id);
    Ok(DropAliasParams {
        database: id,
        alias: alias.to_owned(),
    })
}

const REMOVE_META: StepKey<()> = StepKey::new("remove_meta");

/// **remove_meta** → expire_proxy_caches.
pub struct DropAlias(pub Arc<DdlContext>);

impl Saga for DropAlias {
    const KIND: &'static str = "drop_alias";
    const VERSION: u32 = 1;
    type Params = DropAliasParams;
    type Output = ();

    fn locks(&self, params: &Self::Params) -> Vec<LockKey> {
        vec![
            steps::share_database(params.database),
            steps::take_name(params.database, &params.alias),
        ]
    }

    fn steps(&self) -> Vec<Step<Self::Params>> {
        vec![
            Step::<Self::Params>::meta(REMOVE_META, |cx| {
                let key = keys::alias(cx.params.database, &cx.params.alias);
                Ok(Txn::new().then(Op::delete(key)))
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
        match view.alias(params.database, &params.alias) {
            Some(_) => Ok(Check::Proceed),
            None => Ok(Check::Already(())),
        }
    }
}
