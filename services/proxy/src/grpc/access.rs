//! Users, roles, grants and groups of privileges: changed by the root coordinator, shown from the
//! view of the metadata.

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use redkite_catalog::{Access, privileges};
use redkite_config::Secret;
use redkite_proto::{
    milvus::{common::Status, milvus::*},
    redkite::{
        meta::GrantInfo,
        rootcoord::{PutUser, ddl_request::Command},
    },
    status,
};
use redkite_types::{Error, ErrorCode, Result, limits, name};

use super::ddl::{ddl, submit};
use crate::context::{ProxyContext, RequestContext};

pub(crate) async fn create_credential(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: CreateCredentialRequest,
) -> Result<Status> {
    name::check_user(&message.username)?;
    let password = checked_password(&message.password)?;
    let user = PutUser {
        username: message.username,
        encrypted_password: Some(
            context
                .guard
                .passwords()
                .hash(password, meta.deadline)
                .await?,
        ),
        description: message.description,
    };
    submit(context, &meta, Command::CreateUser(user)).await
}

/// A new password needs the old one; with neither only the description is changed.
pub(crate) async fn update_credential(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: UpdateCredentialRequest,
) -> Result<Status> {
    let mut user = PutUser {
        username: message.username,
        encrypted_password: None,
        description: message.description,
    };
    let only_describes = message.new_password.is_empty() && message.old_password.is_empty();
    if !only_describes || user.description.is_none() {
        let old = decoded(&message.old_password)?;
        let new = checked_password(&message.new_password)?;
        let passwords = context.guard.passwords();
        let found = context.view().access().user(&user.username).cloned();
        let is_right = match found {
            Some(record) => passwords.verify(&record, old, meta.deadline).await?,
            None => false,
        };
        if !is_right {
            return Err(Error::input(
                ErrorCode::NotAuthenticated,
                format!(
                    "old password not correct for {}: {}",
                    user.username,
                    ErrorCode::NotAuthenticated.text()
                ),
            ));
        }
        user.encrypted_password = Some(passwords.hash(new, meta.deadline).await?);
    }
    submit(context, &meta, Command::UpdateUser(user)).await
}

/// Passwords come in base64.
fn decoded(password: &str) -> Result<Secret> {
    let bytes = BASE64_STANDARD.decode(password).ok();
    match bytes.and_then(|bytes| String::from_utf8(bytes).ok()) {
        Some(text) => Ok(text.into()),
        None => Err(Error::invalid_parameter("decode password failed")),
    }
}

fn checked_password(password: &str) -> Result<Secret> {
    let password = decoded(password)?;
    let (length, allowed) = (password.expose().len(), limits::PASSWORD_LENGTH);
    if !allowed.contains(&length) {
        return Err(Error::invalid_parameter(format!(
            "invalid password length: {length} is out of range {} <= value <= {}",
            allowed.start(),
            allowed.end()
        )));
    }
    Ok(password)
}

ddl! {
    delete_credential(message: DeleteCredentialRequest) as DropUser {
        if message.username.is_empty() {
            return Err(Error::invalid_parameter("username is empty"));
        }
    }
    create_role(message: CreateRoleRequest) as CreateRole {
        name::check_role(message.entity.as_ref().map_or("", |role| role.name.as_str()))?;
    }
    alter_role(message: AlterRoleRequest) as AlterRole {
        name::check_role(&message.role_name)?;
    }
    drop_role(message: DropRoleRequest) as DropRole {
        name::check_role(&message.role_name)?;
    }
    operate_user_role(message: OperateUserRoleRequest) as OperateUserRole {
        name::check_user(&message.username)?;
        name::check_role(&message.role_name)?;
    }
    create_privilege_group(message: CreatePrivilegeGroupRequest) as CreatePrivilegeGroup {
        name::check_privilege_group(&message.group_name)?;
    }
    drop_privilege_group(message: DropPrivilegeGroupRequest) as DropPrivilegeGroup {
        name::check_privilege_group(&message.group_name)?;
    }
    operate_privilege_group(message: OperatePrivilegeGroupRequest) as OperatePrivilegeGroup {
        name::check_privilege_group(&message.group_name)?;
    }
}

pub(crate) async fn operate_privilege(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: OperatePrivilegeRequest,
) -> Result<Status> {
    let mut message = message;
    if let Some(entity) = &mut message.entity {
        name::check_role(entity.role.as_ref().map_or("", |role| role.name.as_str()))?;
        check_scope(&entity.db_name, &entity.object_name)?;
        if let Some(grantor) = &mut entity.grantor {
            grantor.user = Some(user_named(meta.caller.grantor()));
        }
    }
    submit(context, &meta, Command::OperatePrivilege(message)).await
}

/// As [`operate_privilege`], with the object type left to the privilege.
pub(crate) async fn operate_privilege_v2(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    message: OperatePrivilegeV2Request,
) -> Result<Status> {
    let entity = GrantEntity {
        role: message.role,
        object: None,
        object_name: message.collection_name,
        grantor: message.grantor,
        db_name: message.db_name,
    };
    let message = OperatePrivilegeRequest {
        base: message.base,
        entity: Some(entity),
        r#type: message.r#type,
        version: "v2".to_owned(),
    };
    operate_privilege(context, meta, message).await
}

/// Names of what a grant is about become part of a key, so that they must be names.
fn check_scope(database: &str, object: &str) -> Result<()> {
    if !database.is_empty() && database != privileges::ANY {
        name::check_database(database)?;
    }
    if !object.is_empty() && object != privileges::ANY {
        name::check_collection(object)?;
    }
    Ok(())
}

pub(crate) fn list_cred_users(
    context: &ProxyContext,
    _: RequestContext,
    _: ListCredUsersRequest,
) -> Result<ListCredUsersResponse> {
    let view = context.view();
    Ok(ListCredUsersResponse {
        status: Some(status::success()),
        usernames: view
            .access()
            .users()
            .map(|user| user.username.clone())
            .collect(),
    })
}

/// All users, or one; a name that nobody has gives none.
pub(crate) fn select_user(
    context: &ProxyContext,
    _: RequestContext,
    message: SelectUserRequest,
) -> Result<SelectUserResponse> {
    let view = context.view();
    let access = view.access();
    let wanted = message.user.map(|user| user.name);
    let results = access
        .users()
        .filter(|user| wanted.as_ref().is_none_or(|name| *name == user.username))
        .map(|user| UserResult {
            user: Some(UserEntity {
                name: user.username.clone(),
            }),
            roles: match message.include_role_info {
                true => access.roles_of(&user.username).map(role_named).collect(),
                false => Vec::new(),
            },
            description: user.description.clone(),
        })
        .collect();
    Ok(SelectUserResponse {
        status: Some(status::success()),
        results,
    })
}

/// All roles, or one.
///
/// # Errors
/// Code 65535 for a role that there is not.
pub(crate) fn select_role(
    context: &ProxyContext,
    _: RequestContext,
    message: SelectRoleRequest,
) -> Result<SelectRoleResponse> {
    let view = context.view();
    let access = view.access();
    let wanted = message.role.map(|role| role.name);
    if let Some(name) = &wanted {
        existing_role(access, name)?;
    }
    let results = access
        .roles()
        .filter(|role| wanted.as_ref().is_none_or(|name| *name == role.name))
        .map(|role| RoleResult {
            role: Some(RoleEntity {
                name: role.name.clone(),
                description: role.description.clone(),
            }),
            users: match message.include_user_info {
                true => access.users_of(&role.name).map(user_named).collect(),
                false => Vec::new(),
            },
        })
        .collect();
    Ok(SelectRoleResponse {
        status: Some(status::success()),
        results,
    })
}

/// What a role was granted in a database, `*` for all of them, perhaps on one object.
///
/// # Errors
/// Code 65535 for a role that there is not, or an object type that there is not.
pub(crate) fn select_grant(
    context: &ProxyContext,
    _: RequestContext,
    message: SelectGrantRequest,
) -> Result<SelectGrantResponse> {
    let refused = |text: &str| Error::input(ErrorCode::Unexpected, text);
    let entity = message
        .entity
        .ok_or_else(|| refused("the grant entity in the request is nil"))?;
    let view = context.view();
    let access = view.access();
    let role = entity.role.unwrap_or_default().name;
    existing_role(access, &role)?;
    let object_type = entity.object.map(|object| object.name);
    if let Some(name) = &object_type
        && !privileges::OBJECT_TYPES.contains(&name.as_str())
    {
        return Err(refused("the object type in the object entity is invalid"));
    }
    let database = match entity.db_name.as_str() {
        "" => limits::DEFAULT_DATABASE,
        name => name,
    };
    let is_wanted = |grant: &GrantInfo| {
        let here = [database, privileges::ANY].contains(&grant.db_name.as_str());
        let object = entity.object_name.as_str();
        (database == privileges::ANY || here)
            && object_type
                .as_ref()
                .is_none_or(|kind| *kind == grant.object_type)
            && (object.is_empty() || object == grant.object_name)
    };
    let grants = access.grants_of(&role).filter(|grant| is_wanted(grant));
    Ok(SelectGrantResponse {
        status: Some(status::success()),
        entities: grants.map(|grant| grant_shown(grant)).collect(),
    })
}

fn grant_shown(grant: &GrantInfo) -> GrantEntity {
    GrantEntity {
        role: Some(role_named(&grant.role_name)),
        object: Some(ObjectEntity {
            name: grant.object_type.clone(),
        }),
        object_name: grant.object_name.clone(),
        grantor: Some(GrantorEntity {
            user: Some(user_named(&grant.grantor)),
            privilege: Some(PrivilegeEntity {
                name: grant.privilege.clone(),
            }),
        }),
        db_name: grant.db_name.clone(),
    }
}

pub(crate) fn list_privilege_groups(
    context: &ProxyContext,
    _: RequestContext,
    _: ListPrivilegeGroupsRequest,
) -> Result<ListPrivilegeGroupsResponse> {
    let view = context.view();
    let shown = |name: &str, members: Vec<&str>| PrivilegeGroupInfo {
        group_name: name.to_owned(),
        privileges: members
            .into_iter()
            .map(|name| PrivilegeEntity {
                name: name.to_owned(),
            })
            .collect(),
    };
    let own = view.access().groups().map(|group| {
        let members = group.privileges.iter().map(String::as_str);
        shown(&group.name, members.collect())
    });
    let builtin = privileges::builtin_groups().map(|(name, members)| shown(name, members));
    Ok(ListPrivilegeGroupsResponse {
        status: Some(status::success()),
        privilege_groups: own.chain(builtin).collect(),
    })
}

fn existing_role(access: &Access, name: &str) -> Result<()> {
    match access.role(name) {
        Some(_) => Ok(()),
        None => Err(Error::input(
            ErrorCode::Unexpected,
            "not found the role, maybe the role isn't existed or internal system error",
        )),
    }
}

fn role_named(name: &str) -> RoleEntity {
    RoleEntity {
        name: name.to_owned(),
        description: String::new(),
    }
}

fn user_named(name: &str) -> UserEntity {
    UserEntity {
        name: name.to_owned(),
    }
}
