//! What each user may do, worked out from roles, grants and groups of privileges.
//!
//! # Source
//! What a grant covers is a fact of Milvus's access control: a privilege of the object type `Global`
//! counts for its whole database, whatever object the grant names; the privileges of a group count
//! each for its own object type.

use std::collections::HashMap;

use redkite_proto::redkite::meta::GrantInfo;

use crate::{
    access::Access,
    privilege_set::{Privilege, PrivilegeSet},
    privileges::{self, ADMIN, ANY, Level, OBJECT_TYPES, PUBLIC, ROOT, object_type},
};

/// What a user may do.
#[derive(Clone, Debug, Default)]
pub struct Rights {
    /// The user is `root` or has the role `admin`.
    everything: bool,
    /// What was granted in every database.
    anywhere: Scope,
    databases: HashMap<String, Scope>,
}

/// What was granted in a database.
#[derive(Clone, Debug, Default)]
struct Scope {
    /// On every object.
    all: PrivilegeSet,
    /// By collection or user. A privilege belongs to one object type, so that a user of the same
    /// name as a collection does not get its privileges.
    objects: HashMap<String, PrivilegeSet>,
    /// Whether the user is told that the database is there.
    is_seen: bool,
}

impl Scope {
    fn covers(&self, wanted: PrivilegeSet, object: &str) -> bool {
        let lacks = wanted.without(self.all);
        if lacks.is_empty() {
            return true;
        }
        let here = self.objects.get(object);
        here.is_some_and(|here| lacks.without(*here).is_empty())
    }
}

impl Rights {
    /// Whether the user may do anything at all.
    pub fn is_everything(&self) -> bool {
        self.everything
    }

    /// Whether the user has a privilege on an object of a database; `*` for all of them.
    pub fn allows(&self, privilege: Privilege, database: &str, object: &str) -> bool {
        self.covers(PrivilegeSet::NONE.with(privilege), database, object)
    }

    /// Whether the user is told that a collection is there.
    pub fn sees(&self, database: &str, collection: &str) -> bool {
        self.covers(PrivilegeSet::SIGHT, database, collection)
    }

    /// Whether the user is told that a database is there.
    pub fn sees_database(&self, database: &str) -> bool {
        let here = self.databases.get(database);
        self.everything || self.anywhere.is_seen || here.is_some_and(|here| here.is_seen)
    }

    fn covers(&self, wanted: PrivilegeSet, database: &str, object: &str) -> bool {
        if self.everything || self.anywhere.covers(wanted, object) {
            return true;
        }
        let here = self.databases.get(database);
        here.is_some_and(|here| here.covers(wanted, object))
    }

    /// `is_own` tells the grants of the user's own roles from those of the role `public`, which show
    /// nothing that they do not name.
    fn add(&mut self, access: &Access, grant: &GrantInfo, is_own: bool) {
        let scope = if grant.db_name == ANY {
            &mut self.anywhere
        } else {
            self.databases.entry(grant.db_name.clone()).or_default()
        };
        scope.is_seen |= is_own || grant.db_name != ANY;

        let (granted, is_group) = expand(access, grant);
        let [collection, global, _] = OBJECT_TYPES;
        let of_database = granted.intersection(PrivilegeSet::on(global));
        let mut of_object = granted.without(of_database);
        let on_any = grant.object_name == ANY;
        let shows_collections = {
            let on_collections = granted.intersection(PrivilegeSet::on(collection));
            // Describing and the like are `Global`, but belong to a collection where one is named.
            let by_level = grant.object_type != "User"
                && (is_group || !on_any)
                && !granted.intersection(collection_level()).is_empty();
            !on_collections.is_empty() || by_level
        };
        if shows_collections && (is_own || !on_any) {
            of_object = of_object.union(PrivilegeSet::SIGHT);
        }
        scope.all = scope.all.union(of_database);
        if on_any {
            scope.all = scope.all.union(of_object);
        } else {
            let object = scope.objects.entry(grant.object_name.clone());
            let object = object.or_default();
            *object = object.union(of_object);
        }
    }
}

/// What all users may do, by name.
pub(crate) fn of_all(access: &Access) -> HashMap<String, Rights> {
    let users = access.users().map(|user| user.username.as_str());
    // Whoever has logged in as root has a record; keys of other interfaces may name it without.
    users
        .chain([ROOT])
        .map(|user| (user.to_owned(), of_user(access, user)))
        .collect()
}

fn of_user(access: &Access, user: &str) -> Rights {
    let mut rights = Rights {
        everything: user == ROOT || access.roles_of(user).any(|role| role == ADMIN),
        ..Rights::default()
    };
    let own = access.roles_of(user).filter(|role| *role != PUBLIC);
    for (role, is_own) in own.map(|role| (role, true)).chain([(PUBLIC, false)]) {
        for grant in access.grants_of(role) {
            rights.add(access, grant, is_own);
        }
    }
    rights
}

/// The privileges that a grant gives, and whether by the name of a group.
fn expand(access: &Access, grant: &GrantInfo) -> (PrivilegeSet, bool) {
    let name = grant.privilege.as_str();
    if name == ANY {
        return (PrivilegeSet::on(&grant.object_type), false);
    }
    if name == "All" {
        return (PrivilegeSet::all(), true);
    }
    if let Some(group) = access.group(name) {
        return (
            with_related(group.privileges.iter().map(String::as_str)),
            true,
        );
    }
    if privileges::is_builtin_group(name) {
        return (with_related(privileges::members(name)), true);
    }
    (with_related([name].into_iter()), false)
}

fn with_related<'a>(names: impl Iterator<Item = &'a str>) -> PrivilegeSet {
    PrivilegeSet::named(names.flat_map(|name| {
        let related = privileges::related(name).iter().copied();
        related.chain([name])
    }))
}

/// The `Global` privileges of the level of collections.
fn collection_level() -> PrivilegeSet {
    let groups = privileges::builtin_groups();
    let members = groups.flat_map(|(_, members)| members);
    PrivilegeSet::named(members.filter(|name| {
        object_type(name) == "Global" && privileges::level(name) == Some(Level::Collection)
    }))
}

#[cfg(test)]
mod tests;
