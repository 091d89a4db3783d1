//! Whose request it is, and whether that user may do it.

use std::sync::Arc;

use redkite_catalog::{CatalogView, CollectionEntry, Privilege, privileges::ANY};

use super::answer::Failure;
use crate::auth::{self, guarded::Object};

/// The user of a request's key.
#[derive(Clone, Debug)]
pub struct Caller<'a> {
    /// The user's name.
    pub user: &'a str,
    /// Users, roles and grants.
    pub view: Arc<CatalogView>,
    /// Whether the user is told of no other collections than those that were granted.
    pub sees_only_granted: bool,
}

impl Caller<'_> {
    /// Checks that the user has a privilege on a collection, or on all of the database's with `*`.
    ///
    /// # Errors
    /// 403/1000002.
    pub fn check(&self, privilege: &str, database: &str, collection: &str) -> Result<(), Failure> {
        let object = match collection {
            ANY => Object::Any,
            name => Object::Collection(name),
        };
        let rights = self.view.access().rights(self.user);
        let allowed = rights
            .zip(Privilege::find(privilege))
            .is_some_and(|(rights, privilege)| {
                auth::has(&self.view, rights, privilege, database, object)
            });
        if allowed {
            return Ok(());
        }
        let reason = format!("user {} lacks {privilege} on {collection}", self.user);
        Err(Failure::no_permission(reason))
    }

    /// Whether the user is told of a collection of a database.
    pub fn sees(&self, database: &str, entry: &CollectionEntry) -> bool {
        let rights = self.view.access().rights(self.user);
        !self.sees_only_granted || rights.is_some_and(|rights| rights.sees(database, entry.name()))
    }
}
