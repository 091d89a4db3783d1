use std::sync::Arc;

use redkite_proto::redkite::meta::{CredentialInfo, PrivilegeGroupInfo};

use super::*;

/// A user `bob` with the role `reader`, which has some grants; `public` has others.
/// Each is object type, database, object, privilege.
type Grants<'a> = &'a [(&'a str, &'a str, &'a str, &'a str)];

fn access(own: Grants<'_>, public: Grants<'_>) -> Access {
    let mut access = Access::default();
    for user in ["bob", "ann", ROOT] {
        let info = CredentialInfo {
            username: user.to_owned(),
            ..CredentialInfo::default()
        };
        access.users.insert(user.to_owned(), Arc::new(info));
    }
    let pair = |user: &str, role: &str| (user.to_owned(), role.to_owned());
    access.user_roles.insert(pair("bob", "reader"));
    access.user_roles.insert(pair("ann", ADMIN));
    let group = PrivilegeGroupInfo {
        name: "mine".to_owned(),
        privileges: vec!["Search".to_owned(), "Flush".to_owned()],
    };
    access.groups.insert("mine".to_owned(), Arc::new(group));
    for (role, grants) in [("reader", own), (PUBLIC, public)] {
        for (object_type, database, object, privilege) in grants {
            let grant = GrantInfo {
                role_name: role.to_owned(),
                object_type: (*object_type).to_owned(),
                db_name: (*database).to_owned(),
                object_name: (*object).to_owned(),
                privilege: (*privilege).to_owned(),
                grantor: ROOT.to_owned(),
            };
            let key = format!("{role}/{object_type}/{database}/{object}/{privilege}");
            access.grants.insert(key, Arc::new(grant));
        }
    }
    access
}

/// The first public grants of a deployment.
const FIRST: Grants<'_> = &[
    ("Global", "*", "*", "DescribeCollection"),
    ("Collection", "*", "*", "IndexDetail"),
];

/// Whether bob may do each of some things: privilege, database, object.
#[track_caller]
fn check(own: Grants<'_>, cases: &[(&str, &str, &str, bool)]) {
    let access = access(own, FIRST);
    let rights = access.rights("bob").unwrap();
    for (privilege, database, object, wanted) in cases {
        let allowed = rights.allows(Privilege::named(privilege), database, object);
        assert_eq!(allowed, *wanted, "{privilege} on {database}.{object}");
    }
}

#[test]
fn a_grant_on_a_collection_counts_for_that_one() {
    check(
        &[("Collection", "default", "books", "Search")],
        &[
            ("Search", "default", "books", true),
            ("Search", "default", "films", false),
            ("Search", "default", "*", false),
            ("Search", "shop", "books", false),
            ("Query", "default", "books", false),
            // From the role `public`.
            ("DescribeCollection", "shop", "*", true),
            ("IndexDetail", "shop", "films", true),
        ],
    );
}

#[test]
fn stars_count_for_all_objects_and_all_databases() {
    check(
        &[
            ("Collection", "shop", "*", "Insert"),
            ("Collection", "*", "books", "Delete"),
            ("Collection", "*", "*", "Query"),
            ("Collection", "default", "films", "*"),
            ("User", "default", "ann", "SelectUser"),
        ],
        &[
            ("Insert", "shop", "books", true),
            ("Insert", "shop", "*", true),
            ("Insert", "default", "books", false),
            ("Delete", "default", "books", true),
            ("Delete", "default", "films", true),
            ("Delete", "shop", "films", false),
            ("Query", "shop", "*", true),
            ("Upsert", "default", "films", true),
            ("CreateCollection", "default", "films", false),
            ("CreateCollection", "default", "*", false),
            ("SelectUser", "default", "ann", true),
            ("SelectUser", "default", "bob", false),
            ("Search", "default", "ann", false),
        ],
    );
}

#[test]
fn global_privileges_count_for_their_database() {
    check(
        &[
            ("Global", "shop", "*", "CreateCollection"),
            ("Global", "shop", "books", "CreateAlias"),
        ],
        &[
            ("CreateCollection", "shop", "*", true),
            ("CreateCollection", "shop", "books", true),
            ("CreateCollection", "default", "*", false),
            ("CreateAlias", "shop", "*", true),
        ],
    );
}

#[test]
fn groups_are_their_members() {
    check(
        &[
            ("Global", "default", "books", "CollectionReadOnly"),
            ("Global", "shop", "*", "DatabaseAdmin"),
            ("Global", "*", "*", "ClusterReadOnly"),
            ("Global", "default", "films", "mine"),
            ("Collection", "lib", "books", "ReadWrite"),
            ("Collection", "default", "x", "Load"),
        ],
        &[
            ("Search", "default", "books", true),
            ("Search", "default", "other", false),
            ("Insert", "default", "books", false),
            // A `Global` member counts for the whole database.
            ("ListAliases", "default", "*", true),
            ("ListAliases", "shop", "*", false),
            ("DropCollection", "shop", "*", true),
            ("DropCollection", "default", "*", false),
            ("SelectOwnership", "default", "*", true),
            ("SelectUser", "shop", "*", true),
            ("CreateOwnership", "default", "*", false),
            ("Search", "default", "films", true),
            ("Flush", "default", "films", true),
            ("GetFlushState", "default", "films", true),
            ("Query", "default", "films", false),
            ("Upsert", "lib", "books", true),
            ("Upsert", "lib", "films", false),
            ("CreateCollection", "lib", "*", true),
            ("GetLoadState", "default", "x", true),
            ("Release", "default", "x", false),
        ],
    );
    let everything = [("Global", "shop", "*", "All")];
    check(
        &everything,
        &[
            ("Search", "shop", "books", true),
            ("ManageOwnership", "shop", "*", true),
            ("UpdateUser", "shop", "ann", true),
            ("Search", "default", "books", false),
        ],
    );
}

#[test]
fn what_users_see() {
    let access = access(
        &[
            ("Collection", "default", "books", "Search"),
            ("Global", "default", "films", "CollectionReadOnly"),
            ("Global", "shop", "*", "CreateCollection"),
            ("Global", "lib", "*", "CollectionReadOnly"),
            ("User", "default", "ann", "SelectUser"),
        ],
        &[
            FIRST[0],
            FIRST[1],
            ("Collection", "open", "news", "Query"),
            ("Collection", "closed", "*", "GetStatistics"),
        ],
    );
    let bob = access.rights("bob").unwrap();
    let seen = [
        ("default", "books", true),
        ("default", "films", true),
        ("default", "ann", false),
        ("default", "other", false),
        ("shop", "books", false),
        ("lib", "anything", true),
        ("open", "news", true),
        ("open", "old", false),
        ("closed", "x", false),
    ];
    for (database, collection, wanted) in seen {
        assert_eq!(
            bob.sees(database, collection),
            wanted,
            "{database}.{collection}"
        );
    }
    for database in ["default", "shop", "lib", "open", "closed"] {
        assert!(bob.sees_database(database), "{database}");
    }
    assert!(!bob.sees_database("other"));
}

#[test]
fn root_and_admins_may_do_everything_and_strangers_nothing() {
    let access = access(&[], &[]);
    for user in [ROOT, "ann"] {
        let rights = access.rights(user).unwrap();
        assert!(rights.is_everything());
        assert!(rights.allows(Privilege::named("RestoreRBAC"), "any", "*"));
        assert!(rights.sees("any", "thing") && rights.sees_database("any"));
    }
    let bob = access.rights("bob").unwrap();
    assert!(!bob.is_everything() && !bob.sees_database("default"));
    assert!(!bob.allows(Privilege::named("Search"), "default", "books"));
    assert!(access.rights("nobody").is_none());
}

#[test]
fn a_change_does_not_reach_back_into_earlier_views() {
    let before = access(&[], &[]);
    let mut after = before.clone();
    after.changed();
    after
        .user_roles
        .insert(("bob".to_owned(), ADMIN.to_owned()));
    assert!(!before.rights("bob").unwrap().is_everything());
    assert!(after.rights("bob").unwrap().is_everything());
    let mut again = after.clone();
    again.changed();
    again.users.remove("bob");
    assert!(again.rights("bob").is_none() && after.rights("bob").is_some());
}
