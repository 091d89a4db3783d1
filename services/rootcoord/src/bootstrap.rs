//! What a new deployment starts with.

use prost::Message;
use redkite_catalog::{
    keys,
    privileges::{ADMIN, ANY, PUBLIC, ROOT},
};
use redkite_config::Secret;
use redkite_metastore::{Compare, MetaKv, Op, Txn};
use redkite_proto::redkite::meta::{
    CredentialInfo, DatabaseInfo, GrantInfo, ObjectState, RoleInfo, UserRoleInfo,
};
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

/// What the role `public` starts with: object type and privilege.
const PUBLIC_PRIVILEGES: [(&str, &str); 2] = [
    ("Global", "DescribeCollection"),
    ("Collection", "IndexDetail"),
];

/// Makes the user `root` and the roles `admin` and `public` where there is no `root` yet. Later starts
/// leave what became of them alone.
///
/// # Errors
/// Code 2 when the metastore does not answer; retry.
pub async fn bootstrap_access(kv: &dyn MetaKv, now: Timestamp, password: &Secret) -> Result<()> {
    let key = keys::user(ROOT);
    let coded = |error| Error::from_coded(&error);
    let page = kv.range(&key, None, 1).await.map_err(coded)?;
    if page.pairs.iter().any(|pair| pair.key == key) {
        return Ok(());
    }
    let hashed = bcrypt::hash(password.expose(), limits::BCRYPT_COST)
        .map_err(|error| Error::internal(format!("hashing a password: {error}")))?;
    let root = CredentialInfo {
        username: ROOT.to_owned(),
        encrypted_password: hashed,
        description: String::new(),
        created_ts: now.0,
    };
    let mut txn = Txn::new()
        .when(Compare::Absent { key: key.clone() })
        .then(Op::put(key, root.encode_to_vec()));
    for name in [ADMIN, PUBLIC] {
        let role = RoleInfo {
            name: name.to_owned(),
            description: String::new(),
            created_ts: now.0,
        };
        let given = UserRoleInfo {
            username: ROOT.to_owned(),
            role_name: name.to_owned(),
        };
        txn = txn
            .then(Op::put(keys::role(name), role.encode_to_vec()))
            .then(Op::put(keys::user_role(ROOT, name), given.encode_to_vec()));
    }
    for (object_type, privilege) in PUBLIC_PRIVILEGES {
        let grant = GrantInfo {
            role_name: PUBLIC.to_owned(),
            object_type: object_type.to_owned(),
            db_name: ANY.to_owned(),
            object_name: ANY.to_owned(),
            privilege: privilege.to_owned(),
            grantor: ROOT.to_owned(),
        };
        let key = keys::grant(PUBLIC, object_type, ANY, ANY, privilege);
        txn = txn.then(Op::put(key, grant.encode_to_vec()));
    }
    // Refused means that somebody else was first.
    kv.txn(txn).await.map_err(coded)?;
    Ok(())
}
