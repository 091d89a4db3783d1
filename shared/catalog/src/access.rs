//! Users, roles and grants in the view.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use imbl::{OrdMap, OrdSet};
use redkite_proto::redkite::meta::{CredentialInfo, GrantInfo, PrivilegeGroupInfo, RoleInfo};

use crate::rights::{self, Rights};

/// Who there is and what they may do.
#[derive(Clone, Debug, Default)]
pub struct Access {
    pub(crate) users: OrdMap<String, Arc<CredentialInfo>>,
    pub(crate) roles: OrdMap<String, Arc<RoleInfo>>,
    /// Pairs of user and role.
    pub(crate) user_roles: OrdSet<(String, String)>,
    /// By key behind the prefix, which begins with the role.
    pub(crate) grants: OrdMap<String, Arc<GrantInfo>>,
    pub(crate) groups: OrdMap<String, Arc<PrivilegeGroupInfo>>,
    /// What each user may do, worked out when it is first asked for after a change.
    rights: Arc<OnceLock<HashMap<String, Rights>>>,
}

impl Access {
    /// The users, by name.
    pub fn users(&self) -> impl Iterator<Item = &Arc<CredentialInfo>> {
        self.users.values()
    }

    /// The user of a name.
    pub fn user(&self, name: &str) -> Option<&Arc<CredentialInfo>> {
        self.users.get(name)
    }

    /// The roles, by name.
    pub fn roles(&self) -> impl Iterator<Item = &Arc<RoleInfo>> {
        self.roles.values()
    }

    /// The role of a name.
    pub fn role(&self, name: &str) -> Option<&Arc<RoleInfo>> {
        self.roles.get(name)
    }

    /// Names of the roles that a user was given.
    pub fn roles_of(&self, user: &str) -> impl Iterator<Item = &str> {
        let user = user.to_owned();
        self.user_roles
            .range((user.clone(), String::new())..)
            .take_while(move |(owner, _)| *owner == user)
            .map(|(_, role)| role.as_str())
    }

    /// Names of the users that have a role.
    pub fn users_of(&self, role: &str) -> impl Iterator<Item = &str> {
        let role = role.to_owned();
        self.user_roles
            .iter()
            .filter(move |(_, given)| *given == role)
            .map(|(user, _)| user.as_str())
    }

    /// What a role was granted, by key.
    pub fn grants_of(&self, role: &str) -> impl Iterator<Item = &Arc<GrantInfo>> {
        let prefix = format!("{role}/");
        self.grants
            .range(prefix.clone()..)
            .take_while(move |(key, _)| key.starts_with(&prefix))
            .map(|(_, grant)| grant)
    }

    /// What all roles were granted.
    pub fn grants(&self) -> impl Iterator<Item = &Arc<GrantInfo>> {
        self.grants.values()
    }

    /// The groups of privileges that users have made, by name.
    pub fn groups(&self) -> impl Iterator<Item = &Arc<PrivilegeGroupInfo>> {
        self.groups.values()
    }

    /// What a user may do; `None` for a name that nobody has.
    pub fn rights(&self, user: &str) -> Option<&Rights> {
        self.rights.get_or_init(|| rights::of_all(self)).get(user)
    }

    /// To be called with every change, which the views before it must not see.
    pub(crate) fn changed(&mut self) {
        self.rights = Arc::default();
    }

    /// The group of a name that a user has made.
    pub fn group(&self, name: &str) -> Option<&Arc<PrivilegeGroupInfo>> {
        self.groups.get(name)
    }
}
