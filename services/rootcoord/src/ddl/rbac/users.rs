//! Users and the roles that they have.

use redkite_catalog::{Access, keys, privileges::ROOT};
use redkite_metastore::{Op, Txn};
use redkite_proto::{
    milvus::milvus::{DeleteCredentialRequest, OperateUserRoleRequest},
    redkite::{
        meta::{CredentialInfo, UserRoleInfo},
        rootcoord::PutUser,
    },
};
use redkite_saga::Check;
use redkite_types::{Result, Timestamp, limits};
use serde::{Deserialize, Serialize};

use super::{Change, not_permitted, refused, role_not_found, user_not_found};
use crate::ddl::steps;

/// A new user; the password is hashed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreateUser {
    name: String,
    encrypted_password: String,
    description: String,
}

impl From<PutUser> for CreateUser {
    fn from(user: PutUser) -> Self {
        Self {
            name: user.username,
            encrypted_password: user.encrypted_password.unwrap_or_default(),
            description: user.description.unwrap_or_default(),
        }
    }
}

impl Change for CreateUser {
    const KIND: &'static str = "create_user";

    fn check(&self, access: &Access) -> Result<Check<()>> {
        if access.user(&self.name).is_some() {
            return Err(refused(format!("user already exists: {}", self.name)));
        }
        if access.users().count() >= limits::MAX_USERS {
            return Err(refused(
                "unable to add user because the number of users has reached the limit",
            ));
        }
        Ok(Check::Proceed)
    }

    fn txn(&self, _: &Access, now: Timestamp) -> Txn {
        let info = CredentialInfo {
            username: self.name.clone(),
            encrypted_password: self.encrypted_password.clone(),
            description: self.description.clone(),
            created_ts: now.0,
        };
        Txn::new().then(steps::put(keys::user(&self.name), &info))
    }
}

/// A new password or description; what is absent stays.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UpdateUser {
    name: String,
    encrypted_password: Option<String>,
    description: Option<String>,
}

impl From<PutUser> for UpdateUser {
    fn from(user: PutUser) -> Self {
        Self {
            name: user.username,
            encrypted_password: user.encrypted_password,
            description: user.description,
        }
    }
}

impl Change for UpdateUser {
    const KIND: &'static str = "update_user";

    fn check(&self, access: &Access) -> Result<Check<()>> {
        match access.user(&self.name) {
            Some(_) => Ok(Check::Proceed),
            None => Err(user_not_found()),
        }
    }

    fn txn(&self, access: &Access, _: Timestamp) -> Txn {
        let Some(found) = access.user(&self.name) else {
            return Txn::new();
        };
        let mut info = found.as_ref().clone();
        if let Some(password) = &self.encrypted_password {
            info.encrypted_password.clone_from(password);
        }
        if let Some(description) = &self.description {
            info.description.clone_from(description);
        }
        Txn::new().then(steps::put(keys::user(&self.name), &info))
    }
}

/// A user who is to go; their roles are taken first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DropUser {
    name: String,
}

impl From<DeleteCredentialRequest> for DropUser {
    fn from(request: DeleteCredentialRequest) -> Self {
        Self {
            name: request.username,
        }
    }
}

impl Change for DropUser {
    const KIND: &'static str = "drop_user";
    const STEP: &'static str = "remove_meta";

    fn check(&self, access: &Access) -> Result<Check<()>> {
        if self.name == ROOT {
            return Err(not_permitted("root user cannot be deleted"));
        }
        Ok(match access.user(&self.name) {
            Some(_) => Check::Proceed,
            None => Check::Already(()),
        })
    }

    fn txn(&self, _: &Access, _: Timestamp) -> Txn {
        Txn::new()
            .then(Op::delete(keys::user(&self.name)))
            .then(Op::DeletePrefix {
                prefix: keys::user_roles(&self.name),
            })
    }
}

/// A role for a user.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GrantRole {
    user: String,
    role: String,
}

impl From<OperateUserRoleRequest> for GrantRole {
    fn from(request: OperateUserRoleRequest) -> Self {
        Self {
            user: request.username,
            role: request.role_name,
        }
    }
}

impl Change for GrantRole {
    const KIND: &'static str = "grant_role";

    fn check(&self, access: &Access) -> Result<Check<()>> {
        if access.role(&self.role).is_none() {
            return Err(role_not_found());
        }
        if access.user(&self.user).is_none() {
            return Err(user_not_found());
        }
        Ok(has_role(access, &self.user, &self.role, true))
    }

    fn txn(&self, _: &Access, _: Timestamp) -> Txn {
        let info = UserRoleInfo {
            username: self.user.clone(),
            role_name: self.role.clone(),
        };
        Txn::new().then(steps::put(keys::user_role(&self.user, &self.role), &info))
    }
}

/// A role that a user is to have no longer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RevokeRole {
    user: String,
    role: String,
}

impl From<OperateUserRoleRequest> for RevokeRole {
    fn from(request: OperateUserRoleRequest) -> Self {
        Self {
            user: request.username,
            role: request.role_name,
        }
    }
}

impl Change for RevokeRole {
    const KIND: &'static str = "revoke_role";
    const STEP: &'static str = "remove_meta";

    fn check(&self, access: &Access) -> Result<Check<()>> {
        if access.role(&self.role).is_none() {
            return Err(role_not_found());
        }
        Ok(has_role(access, &self.user, &self.role, false))
    }

    fn txn(&self, _: &Access, _: Timestamp) -> Txn {
        Txn::new().then(Op::delete(keys::user_role(&self.user, &self.role)))
    }
}

fn has_role(access: &Access, user: &str, role: &str, wanted: bool) -> Check<()> {
    if access.roles_of(user).any(|given| given == role) == wanted {
        Check::Already(())
    } else {
        Check::Proceed
    }
}
