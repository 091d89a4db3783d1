//! What a new deployment starts with.

use prost::Message;
use redkite_catalog::keys;
use redkite_metastore::{Compare, MetaKv, Op, Txn};
use redkite_proto::redkite::meta::{DatabaseInfo, ObjectState};
use redkite_types::{DatabaseId, Error, Result, Timestamp, limits};

/// Makes the default database where there is none yet.
///
/// # Errors
/// Code 2 when the metastore does not answer; retry.
pub async fn bootstrap(kv: &dyn MetaKv, now: Timestamp) -> Result<()> {
    let info = DatabaseInfo {
        id: DatabaseId::DEFAULT.0,
        name: limits::DEFAULT_DATABASE.to_owned(),
        created_ts: now.0,
        properties: Vec::new(),
        state: ObjectState::Created.into(),
    };
    let key = keys::database(DatabaseId::DEFAULT);
    let txn = Txn::new()
        .when(Compare::Absent { key: key.clone() })
        .then(Op::put(key, info.encode_to_vec()));
    // Refused means that it is there already.
    kv.txn(txn)
        .await
        .map_err(|error| Error::from_coded(&error))?;
    Ok(())
}
