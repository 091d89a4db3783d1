//! Whose call it is.

use std::sync::Arc;

use redkite_catalog::{CatalogView, CollectionEntry, privileges::ROOT};
use redkite_proto::redkite::meta::CredentialInfo;
use redkite_types::{Error, ErrorCode, Result};

/// The user of a call; nobody in particular where authorization is switched off.
#[derive(Clone, Default)]
pub struct Caller(Option<Arc<CredentialInfo>>);

impl Caller {
    /// Somebody who may do everything, because nothing is checked.
    pub const fn anybody() -> Self {
        Self(None)
    }

    pub(super) fn user(record: Arc<CredentialInfo>) -> Self {
        Self(Some(record))
    }

    /// The user's name, where there is one.
    pub fn name(&self) -> Option<&str> {
        self.0.as_ref().map(|record| record.username.as_str())
    }

    /// Whose name stands under what the caller grants.
    pub fn grantor(&self) -> &str {
        self.name().unwrap_or(ROOT)
    }

    /// Whether the caller is told that a database is there.
    pub fn sees_database(&self, view: &CatalogView, database: &str) -> bool {
        let Some(name) = self.name() else { return true };
        let rights = view.access().rights(name);
        rights.is_some_and(|rights| rights.sees_database(database))
    }

    /// Whether the caller is told that a collection is there.
    pub fn sees(&self, view: &CatalogView, entry: &CollectionEntry) -> bool {
        let Some(name) = self.name() else { return true };
        let database = view.database_by_id(entry.database_id());
        let rights = view.access().rights(name);
        database
            .zip(rights)
            .is_some_and(|(database, rights)| rights.sees(&database.name, entry.name()))
    }

    /// As [`sees`](Self::sees), for one that was asked for.
    ///
    /// # Errors
    /// Code 1401.
    pub fn must_see(&self, view: &CatalogView, entry: &CollectionEntry) -> Result<()> {
        if self.sees(view, entry) {
            return Ok(());
        }
        let text = ErrorCode::PrivilegeNotPermitted.text();
        // Without the collection's name, which an alias or an id would give away.
        Err(Error::input(
            ErrorCode::PrivilegeNotPermitted,
            format!("not allowed to access collection: {text}"),
        ))
    }
}

/// Never what the record holds beside the name.
impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Caller").field(&self.name()).finish()
    }
}
