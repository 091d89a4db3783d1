//! Groups of privileges.

use std::collections::BTreeSet;

use redkite_catalog::{Access, keys, privileges};
use redkite_metastore::{Op, Txn};
use redkite_proto::{
    milvus::milvus::{
        CreatePrivilegeGroupRequest, DropPrivilegeGroupRequest, OperatePrivilegeGroupRequest,
    },
    redkite::meta::PrivilegeGroupInfo,
};
use redkite_saga::Check;
use redkite_types::{Error, Result, Timestamp};
use serde::{Deserialize, Serialize};

use super::Change;
use crate::ddl::steps;

/// A new group without privileges.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreateGroup {
    name: String,
}

impl From<CreatePrivilegeGroupRequest> for CreateGroup {
    fn from(request: CreatePrivilegeGroupRequest) -> Self {
        Self {
            name: request.group_name,
        }
    }
}

impl Change for CreateGroup {
    const KIND: &'static str = "create_privilege_group";

    fn check(&self, access: &Access) -> Result<Check<()>> {
        let name = &self.name;
        if access.group(name).is_some() {
            return Err(Error::invalid_parameter(format!(
                "privilege group name [{name}] is defined by users"
            )));
        }
        if privileges::is_defined(name) {
            return Err(Error::invalid_parameter(format!(
                "privilege group name [{name}] is defined by built in privileges or privilege \
                 groups in system"
            )));
        }
        Ok(Check::Proceed)
    }

    fn txn(&self, _: &Access, _: Timestamp) -> Txn {
        put(&self.name, BTreeSet::new())
    }
}

/// A group that is to go.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DropGroup {
    name: String,
}

impl From<DropPrivilegeGroupRequest> for DropGroup {
    fn from(request: DropPrivilegeGroupRequest) -> Self {
        Self {
            name: request.group_name,
        }
    }
}

impl Change for DropGroup {
    const KIND: &'static str = "drop_privilege_group";
    const STEP: &'static str = "remove_meta";

    fn check(&self, access: &Access) -> Result<Check<()>> {
        let name = &self.name;
        if access.group(name).is_none() {
            return Ok(Check::Already(()));
        }
        match access.grants().find(|grant| grant.privilege == *name) {
            Some(grant) => Err(Error::invalid_parameter(format!(
                "privilege group [{name}] is used by role [{}], Use REVOKE API to revoke it first",
                grant.role_name
            ))),
            None => Ok(Check::Proceed),
        }
    }

    fn txn(&self, _: &Access, _: Timestamp) -> Txn {
        Txn::new().then(Op::delete(keys::privilege_group(&self.name)))
    }
}

/// Privileges that a group is to have, or to have no longer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AlterGroup {
    name: String,
    privileges: Vec<String>,
    add: bool,
}

impl AlterGroup {
    /// Reads a request.
    ///
    /// # Errors
    /// Code 1100 for an unknown type of change, or no privileges.
    pub fn read(request: OperatePrivilegeGroupRequest) -> Result<Self> {
        let add = match request.r#type {
            0 => true,
            1 => false,
            _ => {
                return Err(Error::invalid_parameter(
                    "invalid operate privilege group type",
                ));
            }
        };
        if request.privileges.is_empty() {
            return Err(Error::invalid_parameter(
                "privileges is empty when alter the privilege group",
            ));
        }
        let privileges = request.privileges.into_iter();
        Ok(Self {
            name: request.group_name,
            privileges: privileges.map(|privilege| privilege.name).collect(),
            add,
        })
    }

    fn members(&self, access: &Access) -> BTreeSet<String> {
        let group = access.group(&self.name);
        let now = group.map_or(&[][..], |group| group.privileges.as_slice());
        let mut members: BTreeSet<String> = now.iter().cloned().collect();
        for privilege in &self.privileges {
            if self.add {
                members.insert(privilege.clone());
            } else {
                members.remove(privilege);
            }
        }
        members
    }
}

impl Change for AlterGroup {
    const KIND: &'static str = "alter_privilege_group";

    fn check(&self, access: &Access) -> Result<Check<()>> {
        if access.group(&self.name).is_none() {
            return Err(Error::invalid_parameter(format!(
                "there is no privilege group name [{}] defined in system to operate",
                self.name
            )));
        }
        for privilege in &self.privileges {
            // Milvus takes the name of another group too, but never looks into it.
            if !privileges::is_defined(privilege) {
                return Err(Error::invalid_parameter(format!(
                    "there is no privilege name or privilege group name [{privilege}] defined in \
                     system to operate"
                )));
            }
        }
        let members = self.members(access);
        let levels: Vec<_> = members.iter().map(|name| privileges::level(name)).collect();
        if self.add && levels.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err(Error::invalid_parameter(
                "privileges are not the same privilege level",
            ));
        }
        Ok(Check::Proceed)
    }

    fn txn(&self, access: &Access, _: Timestamp) -> Txn {
        put(&self.name, self.members(access))
    }
}

fn put(name: &str, members: BTreeSet<String>) -> Txn {
    let info = PrivilegeGroupInfo {
        name: name.to_owned(),
        privileges: members.into_iter().collect(),
    };
    Txn::new().then(steps::put(keys::privilege_group(name), &info))
}
