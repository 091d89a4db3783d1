//! Users, roles, grants and groups of privileges.
//!
//! Every change is one metadata step, alone under one lock: a change looks at the others' records.
//!
//! - [`users`]: users and the roles that they have
//! - [`roles`]: roles and what they are granted
//! - [`groups`]: groups of privileges
//! - [`collections`]: grants of a collection that is dropped or renamed

pub mod collections;
pub mod groups;
pub mod roles;
pub mod users;

use std::{marker::PhantomData, sync::Arc};

use redkite_catalog::Access;
use redkite_metastore::Txn;
use redkite_proto::redkite::rootcoord::ddl_request::Command;
use redkite_saga::{Check, LockKey, Outputs, Registry, Saga, Step, StepKey};
use redkite_types::{Error, ErrorCode, Result, Timestamp};
use serde::{Serialize, de::DeserializeOwned};

use super::{DdlGate, context::DdlContext, steps};

/// A change of who may do what; its parameters are the value itself.
pub trait Change: Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Kind of its saga.
    const KIND: &'static str;
    /// Name of its metadata step.
    const STEP: &'static str = "put_meta";

    /// Refuses it, or finds that there is nothing to do.
    ///
    /// # Errors
    /// Milvus's code and text.
    fn check(&self, access: &Access) -> Result<Check<()>>;

    /// What it writes.
    fn txn(&self, access: &Access, now: Timestamp) -> Txn;
}

/// **put_meta** or **remove_meta** → expire_proxy_caches.
pub struct Rbac<C>(Arc<DdlContext>, PhantomData<fn() -> C>);

impl<C> Rbac<C> {
    /// The saga of a change.
    pub fn new(context: Arc<DdlContext>) -> Self {
        Self(context, PhantomData)
    }
}

impl<C: Change> Saga for Rbac<C> {
    const KIND: &'static str = C::KIND;
    const VERSION: u32 = 1;
    type Params = C;
    type Output = ();

    fn locks(&self, _: &Self::Params) -> Vec<LockKey> {
        vec![LockKey::write("rbac".to_owned())]
    }

    fn steps(&self) -> Vec<Step<Self::Params>> {
        let context = self.0.clone();
        let key: StepKey<()> = StepKey::new(C::STEP);
        vec![
            Step::<Self::Params>::meta_async(key, move |cx| {
                let context = context.clone();
                async move {
                    let view = context.fresh_view().await?;
                    let now = context.timestamp().await?;
                    Ok(cx.params.txn(view.access(), now))
                }
            })
            .pivot(),
            steps::expire_proxy_caches(&self.0),
        ]
    }

    fn output(&self, _: &Self::Params, _: &Outputs) -> Result<()> {
        Ok(())
    }

    async fn check(&self, params: &Self::Params) -> Result<Check<()>> {
        let view = self.0.fresh_view().await?;
        params.check(view.access())
    }
}

/// Adds the sagas of this family.
///
/// # Errors
/// As [`Registry::register`].
pub fn register(registry: &mut Registry, context: &Arc<DdlContext>) -> redkite_saga::Result<()> {
    registry.register(Rbac::<users::CreateUser>::new(context.clone()))?;
    registry.register(Rbac::<users::UpdateUser>::new(context.clone()))?;
    registry.register(Rbac::<users::DropUser>::new(context.clone()))?;
    registry.register(Rbac::<users::GrantRole>::new(context.clone()))?;
    registry.register(Rbac::<users::RevokeRole>::new(context.clone()))?;
    registry.register(Rbac::<roles::CreateRole>::new(context.clone()))?;
    registry.register(Rbac::<roles::AlterRole>::new(context.clone()))?;
    registry.register(Rbac::<roles::DropRole>::new(context.clone()))?;
    registry.register(Rbac::<roles::GrantPrivilege>::new(context.clone()))?;
    registry.register(Rbac::<roles::RevokePrivilege>::new(context.clone()))?;
    registry.register(Rbac::<groups::CreateGroup>::new(context.clone()))?;
    registry.register(Rbac::<groups::DropGroup>::new(context.clone()))?;
    registry.register(Rbac::<groups::AlterGroup>::new(context.clone()))
}

/// Runs the change that a command asks for; gives back a command that is not of this family.
///
/// # Errors
/// Milvus's code and text of what is wrong; code 2 when it may or may not happen.
pub async fn submit(
    gate: &DdlGate,
    command: Command,
    id: &str,
) -> Result<Result<redkite_types::Revision, Box<Command>>> {
    let revision = match command {
        Command::CreateUser(user) => gate.run::<Rbac<users::CreateUser>>(user.into(), id).await?,
        Command::UpdateUser(user) => gate.run::<Rbac<users::UpdateUser>>(user.into(), id).await?,
        Command::DropUser(user) => gate.run::<Rbac<users::DropUser>>(user.into(), id).await?,
        Command::OperateUserRole(request) => match request.r#type {
            0 => {
                gate.run::<Rbac<users::GrantRole>>(request.into(), id)
                    .await?
            }
            1 => {
                gate.run::<Rbac<users::RevokeRole>>(request.into(), id)
                    .await?
            }
            _ => return Err(Error::invalid_parameter("invalid operate user role type")),
        },
        Command::CreateRole(role) => gate.run::<Rbac<roles::CreateRole>>(role.into(), id).await?,
        Command::AlterRole(role) => gate.run::<Rbac<roles::AlterRole>>(role.into(), id).await?,
        Command::DropRole(role) => gate.run::<Rbac<roles::DropRole>>(role.into(), id).await?,
        Command::OperatePrivilege(request) => {
            let kind = request.r#type;
            let grant = roles::Grant::read(request)?;
            match kind {
                0 => {
                    gate.run::<Rbac<roles::GrantPrivilege>>(roles::GrantPrivilege(grant), id)
                        .await?
                }
                1 => {
                    gate.run::<Rbac<roles::RevokePrivilege>>(roles::RevokePrivilege(grant), id)
                        .await?
                }
                _ => return Err(Error::invalid_parameter("invalid operate privilege type")),
            }
        }
        Command::CreatePrivilegeGroup(group) => {
            gate.run::<Rbac<groups::CreateGroup>>(group.into(), id)
                .await?
        }
        Command::DropPrivilegeGroup(group) => {
            gate.run::<Rbac<groups::DropGroup>>(group.into(), id)
                .await?
        }
        Command::OperatePrivilegeGroup(group) => {
            gate.run::<Rbac<groups::AlterGroup>>(groups::AlterGroup::read(group)?, id)
                .await?
        }
        other => return Ok(Err(Box::new(other))),
    };
    Ok(Ok(revision))
}

/// A plain error of Milvus, code 65535.
fn refused(message: impl Into<String>) -> Error {
    Error::input(ErrorCode::Unexpected, message)
}

/// Something that nobody may do, code 1401.
fn not_permitted(message: &str) -> Error {
    let text = ErrorCode::PrivilegeNotPermitted.text();
    Error::input(
        ErrorCode::PrivilegeNotPermitted,
        format!("{message}: {text}"),
    )
}

/// Milvus's text for an absent role.
fn role_not_found() -> Error {
    refused("not found the role, maybe the role isn't existed or internal system error")
}

/// Milvus's text for an absent user.
fn user_not_found() -> Error {
    refused("not found the user, maybe the user isn't existed or internal system error")
}
