//! Whose request it is, and whether that user may do it.

use std::sync::Arc;

use redkite_catalog::{
    CatalogView,
    privileges::{self, ADMIN, ANY, PUBLIC, ROOT},
};

use super::answer::Failure;

/// The user of a request's key.
#[derive(Clone, Debug)]
pub struct Caller<'a> {
    /// The user's name.
    pub user: &'a str,
    /// Users, roles and grants.
    pub access: Arc<CatalogView>,
}

impl Caller<'_> {
    /// Checks that the user has a privilege on a collection, or on all of the database's with `*`.
    ///
    /// # Errors
    /// 403/1000002.
    pub fn check(&self, privilege: &str, database: &str, collection: &str) -> Result<(), Failure> {
        let access = self.access.access();
        if self.user == ROOT {
            return Ok(());
        }
        let refuse = || {
            let reason = format!("user {} lacks {privilege} on {collection}", self.user);
            Err(Failure::no_permission(reason))
        };
        if access.user(self.user).is_none() {
            return refuse();
        }
        let roles = access.roles_of(self.user).chain([PUBLIC]);
        for role in roles {
            if role == ADMIN {
                return Ok(());
            }
            let granted = access.grants_of(role).any(|grant| {
                covers(&grant.db_name, database)
                    && covers(&grant.object_name, collection)
                    && self.includes(&grant.privilege, privilege)
            });
            if granted {
                return Ok(());
            }
        }
        refuse()
    }

    /// Whether a granted privilege or group includes a privilege.
    fn includes(&self, granted: &str, privilege: &str) -> bool {
        if granted == privilege || granted == ANY {
            return true;
        }
        let builtin = privileges::builtin_groups()
            .any(|(group, members)| group == granted && members.contains(&privilege));
        let own = self.access.access().group(granted);
        builtin || own.is_some_and(|group| group.privileges.iter().any(|one| one == privilege))
    }
}

fn covers(granted: &str, wanted: &str) -> bool {
    granted == ANY || granted == wanted
}
