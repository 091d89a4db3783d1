//! Ids as newtypes: a collection's id can never be passed where a partition's is wanted.

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$inner> for $name {
            fn from(id: $inner) -> Self {
                Self(id)
            }
        }
    };
}

id!(
    /// A database.
    DatabaseId(i64)
);
id!(
    /// A collection; unique over all databases and never used again.
    CollectionId(i64)
);
id!(
    /// A partition; unique over all collections and never used again.
    PartitionId(i64)
);
id!(
    /// A segment; unique over all collections and never used again.
    SegmentId(i64)
);
id!(
    /// A field of one collection; the user's fields start at [`FieldId::FIRST_USER`].
    FieldId(i64)
);
id!(
    /// An index definition on a field.
    IndexId(i64)
);
id!(
    /// One build of one index over one segment.
    BuildId(i64)
);
id!(
    /// A row, given at insert; also the primary key where that is automatic.
    RowId(i64)
);
id!(
    /// A running process of the cluster; a restarted process gets a new one.
    NodeId(u64)
);
id!(
    /// A saga (a multi-step DDL).
    SagaId(i64)
);
id!(
    /// The metastore's revision: the number of the write transaction, strictly increasing.
    Revision(u64)
);

/// A collection alias that was checked by [`crate::name`].
pub type AliasName = String;

impl FieldId {
    /// The hidden row id column.
    pub const ROW_ID: Self = Self(0);
    /// The hidden timestamp column.
    pub const TIMESTAMP: Self = Self(1);
    /// The first id that a user's field gets.
    pub const FIRST_USER: Self = Self(100);
}

impl DatabaseId {
    /// The database `default`, which always exists.
    pub const DEFAULT: Self = Self(1);
}
