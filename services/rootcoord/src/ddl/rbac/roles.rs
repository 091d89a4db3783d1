//! Roles and what they are granted.

use redkite_catalog::{
    Access, keys,
    privileges::{self, ADMIN, ANY, Level, OBJECT_TYPES, PUBLIC},
};
use redkite_metastore::{Op, Txn};
use redkite_proto::{
    milvus::milvus::{
        AlterRoleRequest, CreateRoleRequest, DropRoleRequest, GrantEntity, OperatePrivilegeRequest,
    },
    redkite::meta::{GrantInfo, RoleInfo},
};
use redkite_saga::Check;
use redkite_types::{Error, Result, Timestamp, limits};
use serde::{Deserialize, Serialize};

use super::{Change, not_permitted, refused, role_not_found};
use crate::ddl::{resolve, steps};

/// A new role.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreateRole {
    name: String,
    description: String,
}

impl From<CreateRoleRequest> for CreateRole {
    fn from(request: CreateRoleRequest) -> Self {
        let entity = request.entity.unwrap_or_default();
        Self {
            name: entity.name,
            description: entity.description,
        }
    }
}

impl Change for CreateRole {
    const KIND: &'static str = "create_role";

    fn check(&self, access: &Access) -> Result<Check<()>> {
        if access.role(&self.name).is_some() {
            return Err(refused(format!(
                "role [name:\"{}\"] already exists",
                self.name
            )));
        }
        if access.roles().count() >= limits::MAX_ROLES {
            return Err(refused(
                "unable to create role because the number of roles has reached the limit",
            ));
        }
        Ok(Check::Proceed)
    }

    fn txn(&self, _: &Access, now: Timestamp) -> Txn {
        let info = RoleInfo {
            name: self.name.clone(),
            description: self.description.clone(),
            created_ts: now.0,
        };
        Txn::new().then(steps::put(keys::role(&self.name), &info))
    }
}

/// A role's new description.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AlterRole {
    name: String,
    description: String,
}

impl From<AlterRoleRequest> for AlterRole {
    fn from(request: AlterRoleRequest) -> Self {
        Self {
            name: request.role_name,
            description: request.description,
        }
    }
}

impl Change for AlterRole {
    const KIND: &'static str = "alter_role";

    fn check(&self, access: &Access) -> Result<Check<()>> {
        if [ADMIN, PUBLIC].contains(&self.name.as_str()) {
            return Err(not_permitted(&format!(
                "the role[{}] is a builtin role, which can't be altered",
                self.name
            )));
        }
        match access.role(&self.name) {
            Some(_) => Ok(Check::Proceed),
            None => Err(role_not_found()),
        }
    }

    fn txn(&self, access: &Access, _: Timestamp) -> Txn {
        let Some(found) = access.role(&self.name) else {
            return Txn::new();
        };
        let mut info = found.as_ref().clone();
        info.description.clone_from(&self.description);
        Txn::new().then(steps::put(keys::role(&self.name), &info))
    }
}

/// A role that is to go, from all users; with its grants only when `force` says so.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DropRole {
    name: String,
    force: bool,
}

impl From<DropRoleRequest> for DropRole {
    fn from(request: DropRoleRequest) -> Self {
        Self {
            name: request.role_name,
            force: request.force_drop,
        }
    }
}

impl Change for DropRole {
    const KIND: &'static str = "drop_role";
    const STEP: &'static str = "remove_meta";

    fn check(&self, access: &Access) -> Result<Check<()>> {
        if [ADMIN, PUBLIC].contains(&self.name.as_str()) {
            return Err(not_permitted(&format!(
                "the role[{}] is a default role, which can't be dropped",
                self.name
            )));
        }
        if access.role(&self.name).is_none() {
            return Err(role_not_found());
        }
        if !self.force && access.grants_of(&self.name).next().is_some() {
            return Err(refused(
                "fail to drop the role that it has privileges. Use REVOKE API to revoke privileges",
            ));
        }
        Ok(Check::Proceed)
    }

    fn txn(&self, access: &Access, _: Timestamp) -> Txn {
        let txn = Txn::new()
            .then(Op::delete(keys::role(&self.name)))
            .then(Op::DeletePrefix {
                prefix: keys::grants(&self.name),
            });
        access.users_of(&self.name).fold(txn, |txn, user| {
            txn.then(Op::delete(keys::user_role(user, &self.name)))
        })
    }
}

/// A privilege of a role on an object.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Grant {
    role: String,
    object_type: String,
    database: String,
    object: String,
    privilege: String,
    grantor: String,
    /// Whether it came without an object type, by level.
    by_level: bool,
}

impl Grant {
    /// Reads a request to grant or revoke; version `v2` names no object type.
    ///
    /// # Errors
    /// Code 65535 or 1100 for an entity without its parts.
    pub fn read(request: OperatePrivilegeRequest) -> Result<Self> {
        let by_level = request.version == "v2";
        let entity = request
            .entity
            .ok_or_else(|| refused("the grant entity in the request is nil"))?;
        let GrantEntity {
            role,
            object,
            object_name,
            grantor,
            db_name,
        } = entity;
        let grantor = grantor.ok_or_else(|| refused("the grantor entity is nil"))?;
        let privilege = grantor
            .privilege
            .ok_or_else(|| refused("the privilege entity in the grantor entity is nil"))?
            .name;
        let mut object_type = object.unwrap_or_default().name;
        if by_level {
            object_type = privileges::object_type(&privilege).to_owned();
        } else if !OBJECT_TYPES.contains(&object_type.as_str()) {
            return Err(refused(
                "the object entity in the request is nil or invalid",
            ));
        }
        let is_global = object_type == "Global" && !privileges::is_builtin_group(&privilege);
        let object = match object_name.as_str() {
            _ if is_global && !by_level => ANY.to_owned(),
            "" => return Err(refused("the object name in the grant entity is empty")),
            _ => object_name,
        };
        Ok(Self {
            role: role.unwrap_or_default().name,
            object_type,
            database: resolve::database_name(&db_name).to_owned(),
            object,
            privilege,
            grantor: grantor.user.unwrap_or_default().name,
            by_level,
        })
    }

    fn key(&self) -> String {
        keys::grant(
            &self.role,
            &self.object_type,
            &self.database,
            &self.object,
            &self.privilege,
        )
    }

    fn check(&self, access: &Access) -> Result<bool> {
        if access.role(&self.role).is_none() {
            return Err(role_not_found());
        }
        let name = self.privilege.as_str();
        let group = access.group(name);
        let is_known = match name {
            ANY => !self.by_level,
            _ if self.by_level => privileges::is_defined(name) || group.is_some(),
            _ => {
                let right = privileges::object_type(name) == self.object_type;
                right && (privileges::is_defined(name) || group.is_some())
            }
        };
        if !is_known {
            return Err(refused(format!(
                "not found the privilege name[{name}] in object[{}]",
                self.object_type
            )));
        }
        let members = group.map(|group| group.privileges.first());
        let level = match members {
            Some(first) => first.and_then(|first| privileges::level(first)),
            None if privileges::is_builtin_group(name) => privileges::level(name),
            None => None,
        };
        if self.by_level
            && let Some(level) = level
        {
            self.check_level(level)?;
        }
        Ok(access.grants_of(&self.role).any(|grant| {
            grant.object_type == self.object_type
                && grant.db_name == self.database
                && grant.object_name == self.object
                && grant.privilege == self.privilege
        }))
    }

    fn check_level(&self, level: Level) -> Result<()> {
        let (any_database, any_object) = (self.database == ANY, self.object == ANY);
        let name = &self.privilege;
        let problem = match level {
            Level::Cluster if !any_database || !any_object => {
                "dbName and collectionName should be * for the cluster level privilege"
            }
            Level::Database if !any_object => {
                "collectionName should be * for the database level privilege"
            }
            Level::Collection if any_database && !any_object => {
                "please specify database name for the collection level privilege"
            }
            Level::Cluster | Level::Database | Level::Collection => return Ok(()),
        };
        Err(Error::invalid_parameter(format!("{problem}: {name}")))
    }
}

/// A grant that is to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GrantPrivilege(pub Grant);

impl Change for GrantPrivilege {
    const KIND: &'static str = "grant_privilege";

    fn check(&self, access: &Access) -> Result<Check<()>> {
        let exists = self.0.check(access)?;
        Ok(if exists {
            Check::Already(())
        } else {
            Check::Proceed
        })
    }

    fn txn(&self, _: &Access, _: Timestamp) -> Txn {
        let grant = &self.0;
        let info = GrantInfo {
            role_name: grant.role.clone(),
            object_type: grant.object_type.clone(),
            db_name: grant.database.clone(),
            object_name: grant.object.clone(),
            privilege: grant.privilege.clone(),
            grantor: grant.grantor.clone(),
        };
        Txn::new().then(steps::put(grant.key(), &info))
    }
}

/// A grant that is to go.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RevokePrivilege(pub Grant);

impl Change for RevokePrivilege {
    const KIND: &'static str = "revoke_privilege";
    const STEP: &'static str = "remove_meta";

    fn check(&self, access: &Access) -> Result<Check<()>> {
        let exists = self.0.check(access)?;
        Ok(if exists {
            Check::Proceed
        } else {
            Check::Already(())
        })
    }

    fn txn(&self, _: &Access, _: Timestamp) -> Txn {
        Txn::new().then(Op::delete(self.0.key()))
    }
}
