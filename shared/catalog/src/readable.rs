//! Records as people read them.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use redkite_metastore::{
    KeyValue,
    versions::{TOMBSTONE, VERSIONS},
};
use redkite_proto::FILE_DESCRIPTOR_SET;
use serde_json::Value;

use crate::keys::{self, Key};

/// What stands for a secret.
const HIDDEN: &str = "***";
/// Fields that hold secrets.
const SECRETS: [&str; 2] = ["encrypted_password", "secret_key"];

static MESSAGES: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).ok());

/// A record as JSON, with the names of its protobuf message's fields; fields that are not set are left
/// out, and passwords and secret keys are hidden. A version of a record is read as the record, that of a deletion is
/// `null`. `None` for what is no record, or cannot be decoded.
pub fn describe(pair: &KeyValue) -> Option<String> {
    let key = match pair.key.strip_prefix(VERSIONS) {
        Some(_) if pair.value[..] == TOMBSTONE => return Some(Value::Null.to_string()),
        Some(version) => version.rsplit_once("_ts")?.0,
        None => &pair.key,
    };
    let mut record = match message_of(key) {
        Some(message) => decode(message, pair)?,
        // Sagas are JSON already.
        None => {
            let record: Value = serde_json::from_slice(&pair.value).ok()?;
            record.is_object().then_some(record)?
        }
    };
    hide_secrets(&mut record);
    serde_json::to_string_pretty(&record).ok()
}

/// Whether a record may have a secret in it, which must not be shown as it is.
pub fn is_secret(pair: &KeyValue) -> bool {
    let key = pair.key.strip_prefix(VERSIONS).unwrap_or(&pair.key);
    let holds = |name: &str| {
        let mut windows = pair.value.windows(name.len());
        windows.any(|text| text == name.as_bytes())
    };
    matches!(Key::parse(key), Key::User(_) | Key::SnapshotExport(_))
        || SECRETS.into_iter().any(holds)
}

/// The name of the message that a key holds, in package `redkite.meta`.
fn message_of(key: &str) -> Option<&'static str> {
    Some(match Key::parse(key) {
        Key::Database(_) => "DatabaseInfo",
        Key::Collection(_) => "CollectionInfo",
        Key::Field(..) => "FieldInfo",
        Key::Partition(..) => "PartitionInfo",
        Key::Alias(..) => "AliasInfo",
        Key::Index(..) => "IndexInfo",
        Key::SegmentIndex(..) => "SegmentIndexInfo",
        Key::Segment(..) => "SegmentInfo",
        Key::Delta(..) => "DeltaInfo",
        Key::Compaction(..) => "CompactionInfo",
        Key::Snapshot(..) => "SnapshotInfo",
        Key::RestoreJob(_) => "RestoreJobInfo",
        Key::SnapshotExport(_) => "SnapshotExportInfo",
        Key::Export(..) => "ExportInfo",
        Key::Checkpoint(_) => "ChannelCheckpoint",
        Key::Load(_) => "LoadInfo",
        Key::PartitionLoad(..) => "PartitionLoadInfo",
        Key::ChannelOwner(_) => "ChannelOwner",
        Key::Session(_) => "Session",
        Key::Office(_) => "OfficeInfo",
        Key::User(_) => "CredentialInfo",
        Key::Role(_) => "RoleInfo",
        Key::UserRole(_) => "UserRoleInfo",
        Key::Grant(_) => "GrantInfo",
        Key::PrivilegeGroup(_) => "PrivilegeGroupInfo",
        Key::Other if key == keys::TSO_WINDOW || key == keys::ID_WINDOW => "AllocatorWindow",
        Key::Other => return None,
    })
}

fn decode(message: &str, pair: &KeyValue) -> Option<Value> {
    let pool = MESSAGES.as_ref()?;
    let message = pool.get_message_by_name(&format!("redkite.meta.{message}"))?;
    let record = DynamicMessage::decode(message, pair.value.clone()).ok()?;
    let options = SerializeOptions::new()
        .stringify_64_bit_integers(false)
        .use_proto_field_name(true);
    record
        .serialize_with_options(serde_json::value::Serializer, &options)
        .ok()
}

fn hide_secrets(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match SECRETS.contains(&name.as_str()) {
                    true => *field = HIDDEN.into(),
                    false => hide_secrets(field),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide_secrets),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use redkite_proto::redkite::meta::{
        BundlePlace, CredentialInfo, ObjectState, PartitionInfo, SnapshotExportInfo,
    };
    use redkite_types::{CollectionId, PartitionId, Revision, Timestamp};

    use super::*;

    fn pair(key: String, value: Vec<u8>) -> KeyValue {
        KeyValue {
            key,
            value: value.into(),
            revision: Revision(1),
            lease: 0,
        }
    }

    fn json(pair: &KeyValue) -> Value {
        serde_json::from_str(&describe(pair).unwrap()).unwrap()
    }

    #[test]
    fn a_record_and_its_versions_are_read_alike() {
        let info = PartitionInfo {
            id: 8,
            name: "early".to_owned(),
            collection_id: 7,
            state: ObjectState::Creating.into(),
            ..PartitionInfo::default()
        };
        let key = keys::partition(CollectionId(7), PartitionId(8));
        let version = redkite_metastore::versions::version_key(&key, Timestamp(55));
        for key in [key, version.clone()] {
            let shown = json(&pair(key, info.encode_to_vec()));
            assert_eq!(shown["name"], "early");
            assert_eq!(shown["collection_id"], 7);
        }
        assert_eq!(json(&pair(version, TOMBSTONE.to_vec())), Value::Null);
        let key = keys::partition(CollectionId(7), PartitionId(8));
        assert!(describe(&pair(key, vec![0xff])).is_none());
    }

    #[test]
    fn every_kind_of_record_has_its_message() {
        let pool = MESSAGES.as_ref().unwrap();
        for (key, _) in keys::tests::examples() {
            if let Some(message) = message_of(&key) {
                let name = format!("redkite.meta.{message}");
                assert!(pool.get_message_by_name(&name).is_some(), "{name}");
            }
        }
    }

    #[test]
    fn passwords_are_hidden_in_users_and_sagas() {
        let user = CredentialInfo {
            username: "ann".to_owned(),
            encrypted_password: "hunter2".to_owned(),
            ..CredentialInfo::default()
        };
        let user = pair(keys::user("ann"), user.encode_to_vec());
        let export = SnapshotExportInfo {
            place: Some(BundlePlace {
                secret_key: "hunter2".to_owned(),
                ..BundlePlace::default()
            }),
            ..SnapshotExportInfo::default()
        };
        let export = pair(keys::snapshot_export(3), export.encode_to_vec());
        let saga = r#"{"params": {"users": [{"encrypted_password": "hunter2"}]}}"#;
        let saga = pair("root-coord/saga/1".to_owned(), saga.into());
        for pair in [user, export, saga] {
            assert!(is_secret(&pair));
            let shown = describe(&pair).unwrap();
            assert!(
                shown.contains(HIDDEN) && !shown.contains("hunter2"),
                "{shown}"
            );
        }
    }
}
