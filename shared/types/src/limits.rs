//! Milvus's limits, as its documentation and error texts state them.

/// Largest `topk`, `nq`, and `offset + limit` of one search or query.
pub const MAX_RESULT_WINDOW: i64 = 16_384;
/// Dimensions of a dense vector.
pub const DIM_RANGE: std::ops::RangeInclusive<i64> = 2..=32_768;
/// Dimensions of a binary vector, a multiple of 8.
pub const BINARY_DIM_RANGE: std::ops::RangeInclusive<i64> = 8..=262_144;
/// `max_length` of a VarChar field, in bytes.
pub const VARCHAR_MAX_LENGTH: i64 = 65_535;
/// Bytes of one JSON value.
pub const JSON_MAX_BYTES: usize = 65_536;
/// Fields of one collection, the hidden ones not counted.
pub const MAX_FIELDS: usize = 64;
/// Vector fields of one collection.
pub const MAX_VECTOR_FIELDS: usize = 10;
/// Shards of one collection.
pub const MAX_SHARDS: i32 = 16;
/// Seconds for which a snapshot may keep its segments from being compacted: 7 days.
pub const MAX_SNAPSHOT_PROTECTION_SECONDS: i64 = 604_800;
/// Seconds after which a pin of a snapshot may expire, if it does: 30 days.
pub const MAX_PIN_SECONDS: i64 = 2_592_000;
/// Bytes of a name.
pub const MAX_NAME_LENGTH: usize = 255;
/// Bytes of a collection's description.
pub const MAX_DESCRIPTION_LENGTH: usize = 1_024;
/// Collections of one deployment.
pub const MAX_COLLECTIONS: usize = 65_536;
/// Databases of one deployment.
pub const MAX_DATABASES: usize = 64;
/// Partitions of one collection unless configured otherwise.
pub const DEFAULT_MAX_PARTITIONS: usize = 1_024;
/// Partitions that a partition key hashes into unless the client says otherwise.
pub const DEFAULT_PARTITION_KEY_PARTITIONS: i64 = 16;
/// Bytes of an index's parameters.
pub const MAX_INDEX_PARAMS_BYTES: usize = 100 * 1_024;
/// Users of one deployment.
pub const MAX_USERS: usize = 100;
/// Roles of one deployment.
pub const MAX_ROLES: usize = 10;
/// Bytes of a password; bcrypt looks at no more than the upper one.
pub const PASSWORD_LENGTH: std::ops::RangeInclusive<usize> = 6..=72;
/// Rounds of bcrypt for a password, as a power of two.
pub const BCRYPT_COST: u32 = 10;
/// Bytes of a user's name.
pub const MAX_USERNAME_LENGTH: usize = 32;
/// Name of the partition that every collection has.
pub const DEFAULT_PARTITION: &str = "_default";
/// Name of the database that always exists.
pub const DEFAULT_DATABASE: &str = "default";
/// Name of the hidden JSON field that holds dynamic keys.
pub const DYNAMIC_FIELD: &str = "$meta";
