//! Users, roles, privileges and their groups.

use super::*;

fn user(name: &str) -> PutUser {
    PutUser {
        username: name.into(),
        encrypted_password: Some("$2b$10$hash".into()),
        description: None,
    }
}

fn create_role(name: &str) -> Command {
    Command::CreateRole(CreateRoleRequest {
        entity: Some(RoleEntity {
            name: name.into(),
            ..RoleEntity::default()
        }),
        ..CreateRoleRequest::default()
    })
}

fn role_of_ann(revoke: bool) -> OperateUserRoleRequest {
    OperateUserRoleRequest {
        username: "ann".into(),
        role_name: "reader".into(),
        r#type: revoke.into(),
        ..OperateUserRoleRequest::default()
    }
}

/// On a collection of the default database, given or taken by level.
fn privilege(name: &str, collection: &str, revoke: bool) -> OperatePrivilegeRequest {
    OperatePrivilegeRequest {
        entity: Some(GrantEntity {
            role: Some(RoleEntity {
                name: "reader".into(),
                ..RoleEntity::default()
            }),
            object_name: collection.into(),
            grantor: Some(GrantorEntity {
                user: Some(UserEntity {
                    name: "root".into(),
                }),
                privilege: Some(PrivilegeEntity { name: name.into() }),
            }),
            ..GrantEntity::default()
        }),
        r#type: revoke.into(),
        version: "v2".into(),
        ..OperatePrivilegeRequest::default()
    }
}

fn create_group() -> CreatePrivilegeGroupRequest {
    CreatePrivilegeGroupRequest {
        group_name: "g".into(),
        ..CreatePrivilegeGroupRequest::default()
    }
}

fn alter_group(names: &[&str], remove: bool) -> OperatePrivilegeGroupRequest {
    let entity = |name: &&str| PrivilegeEntity {
        name: (*name).into(),
    };
    OperatePrivilegeGroupRequest {
        group_name: "g".into(),
        privileges: names.iter().map(entity).collect(),
        r#type: remove.into(),
        ..OperatePrivilegeGroupRequest::default()
    }
}

/// Ann, who has the role `reader`, which may search `books`; and the group `g`.
fn with_ann() -> Vec<Command> {
    vec![
        Command::CreateUser(user("ann")),
        create_role("reader"),
        Command::OperateUserRole(role_of_ann(false)),
        Command::OperatePrivilege(privilege("Search", "books", false)),
        Command::CreatePrivilegeGroup(create_group()),
    ]
}

/// Runs a change of this kind through all suites.
async fn change_suites<C: rbac::Change>(setup: Vec<Command>, change: C) {
    suites(setup, rbac::Rbac::<C>::new, move |_| {
        let change = change.clone();
        async move { change }
    })
    .await;
}

#[tokio::test]
async fn users_and_their_roles_are_one_step() {
    use rbac::users::{CreateUser, DropUser, GrantRole, RevokeRole, UpdateUser};
    change_suites(vec![], CreateUser::from(user("ann"))).await;
    let described = PutUser {
        description: Some("reads".into()),
        ..user("ann")
    };
    change_suites(with_ann(), UpdateUser::from(described)).await;
    let drop = DeleteCredentialRequest {
        username: "ann".into(),
        ..DeleteCredentialRequest::default()
    };
    change_suites(with_ann(), DropUser::from(drop)).await;
    let before = vec![Command::CreateUser(user("ann")), create_role("reader")];
    change_suites(before, GrantRole::from(role_of_ann(false))).await;
    change_suites(with_ann(), RevokeRole::from(role_of_ann(true))).await;
}

#[tokio::test]
async fn roles_and_their_grants_are_one_step() {
    use rbac::roles::{AlterRole, CreateRole, DropRole, Grant, GrantPrivilege, RevokePrivilege};
    let Command::CreateRole(create) = create_role("reader") else {
        unreachable!()
    };
    change_suites(vec![], CreateRole::from(create)).await;
    let alter = AlterRoleRequest {
        role_name: "reader".into(),
        description: "reads".into(),
        ..AlterRoleRequest::default()
    };
    change_suites(with_ann(), AlterRole::from(alter)).await;
    let drop = DropRoleRequest {
        role_name: "reader".into(),
        force_drop: true,
        ..DropRoleRequest::default()
    };
    change_suites(with_ann(), DropRole::from(drop)).await;
    let query = Grant::read(privilege("Query", "books", false)).unwrap();
    change_suites(with_ann(), GrantPrivilege(query)).await;
    let search = Grant::read(privilege("Search", "books", true)).unwrap();
    change_suites(with_ann(), RevokePrivilege(search)).await;
}

#[tokio::test]
async fn privilege_groups_are_one_step() {
    use rbac::groups::{AlterGroup, CreateGroup, DropGroup};
    change_suites(vec![], CreateGroup::from(create_group())).await;
    let alter = AlterGroup::read(alter_group(&["Search", "Query"], false)).unwrap();
    change_suites(with_ann(), alter).await;
    let drop = DropPrivilegeGroupRequest {
        group_name: "g".into(),
        ..DropPrivilegeGroupRequest::default()
    };
    change_suites(with_ann(), DropGroup::from(drop)).await;
}

#[tokio::test]
async fn grants_follow_a_renamed_collection_and_go_with_a_dropped_one() {
    let deployment = Deployment::with(with_ann()).await;
    let gate = deployment.gate().await;
    let granted_on = async || {
        let view = deployment.context.fresh_view().await.unwrap();
        let access = view.access();
        let names = access.grants_of("reader");
        names
            .map(|grant| grant.object_name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(granted_on().await, ["books"]);
    let rename = Command::RenameCollection(RenameCollectionRequest {
        old_name: "books".into(),
        new_name: "tomes".into(),
        ..RenameCollectionRequest::default()
    });
    submit(&gate, rename).await.unwrap();
    assert_eq!(granted_on().await, ["tomes"]);
    let drop = Command::DropCollection(DropCollectionRequest {
        collection_name: "tomes".into(),
        ..DropCollectionRequest::default()
    });
    submit(&gate, drop).await.unwrap();
    assert!(granted_on().await.is_empty());
}

#[tokio::test]
async fn the_first_user_is_made_once() {
    let deployment = Deployment::new().await;
    let kv = deployment.kv.as_ref();
    let now = Timestamp::new(1, 0);
    bootstrap_access(kv, now, &"Milvus".into()).await.unwrap();
    let first = deployment.context.fresh_view().await.unwrap();
    bootstrap_access(kv, now, &"other".into()).await.unwrap();
    let second = deployment.context.fresh_view().await.unwrap();
    assert_eq!(first.revision(), second.revision());
    let root = second.access().user("root").unwrap();
    assert!(bcrypt::verify("Milvus", &root.encrypted_password).unwrap());
    let roles: Vec<&str> = second.access().roles_of("root").collect();
    assert_eq!(roles, ["admin", "public"]);
}

#[tokio::test]
async fn changes_of_access_that_make_no_sense_are_refused() {
    let deployment = Deployment::with(with_ann()).await;
    bootstrap_access(
        deployment.kv.as_ref(),
        Timestamp::new(1, 0),
        &"Milvus".into(),
    )
    .await
    .unwrap();
    let gate = deployment.gate().await;
    let drop_user = |name: &str| {
        Command::DropUser(DeleteCredentialRequest {
            username: name.into(),
            ..DeleteCredentialRequest::default()
        })
    };
    let drop_role = |name: &str| {
        Command::DropRole(DropRoleRequest {
            role_name: name.into(),
            ..DropRoleRequest::default()
        })
    };
    let give = |name: &str, collection: &str| {
        Command::OperatePrivilege(privilege(name, collection, false))
    };
    submit(
        &gate,
        Command::OperatePrivilegeGroup(alter_group(&["Search"], false)),
    )
    .await
    .unwrap();
    submit(&gate, give("g", "books")).await.unwrap();
    let cases = [
        (
            Command::CreateUser(user("ann")),
            65_535,
            "user already exists: ann",
        ),
        (
            Command::UpdateUser(user("bob")),
            65_535,
            "not found the user",
        ),
        (drop_user("root"), 1401, "root user cannot be deleted"),
        (create_role("reader"), 65_535, "already exists"),
        (
            drop_role("admin"),
            1401,
            "is a default role, which can't be dropped",
        ),
        (drop_role("nobody"), 65_535, "not found the role"),
        (
            drop_role("reader"),
            65_535,
            "fail to drop the role that it has privileges",
        ),
        (
            give("Nothing", "books"),
            65_535,
            "not found the privilege name",
        ),
        (
            give("ClusterAdmin", "books"),
            1100,
            "should be * for the cluster level",
        ),
        (
            give("DatabaseAdmin", "books"),
            1100,
            "should be * for the database level",
        ),
        (
            Command::OperatePrivilegeGroup(alter_group(&["ListDatabases"], false)),
            1100,
            "privileges are not the same privilege level",
        ),
        (
            Command::DropPrivilegeGroup(DropPrivilegeGroupRequest {
                group_name: "g".into(),
                ..DropPrivilegeGroupRequest::default()
            }),
            1100,
            "privilege group [g] is used by role [reader]",
        ),
    ];
    for (command, code, text) in cases {
        let error = submit(&gate, command.clone()).await.unwrap_err();
        assert_eq!(error.code.number(), code, "{command:?}: {error}");
        assert!(error.message.contains(text), "{command:?}: {error}");
    }
    // Dropping who is not there, and giving what is given, succeeds.
    for command in [drop_user("nobody"), give("Search", "books")] {
        submit(&gate, command).await.unwrap();
    }
}
