//! Who a caller is, and what callers may do.
//!
//! Where authorization is switched on, every call passes here before its handler: first whose
//! password came with it, then whether that user has the privilege that the request needs.
//!
//! # Source
//! Texts, gRPC statuses and which request needs what are facts of Milvus's access control.
//!
//! - [`passwords`]: whether a password is a user's, at a bounded cost
//! - [`guarded`]: what each request needs
//! - [`caller`]: whose call it is

pub(crate) mod caller;
pub(crate) mod guarded;
pub(crate) mod passwords;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use redkite_catalog::{Catalog, CatalogView, Privilege, Rights, privileges::ANY};
use redkite_config::Secret;
use redkite_runtime::{Deadline, Random};
use redkite_types::DatabaseId;
use tonic::Status;

pub use self::caller::Caller;
use self::{
    guarded::{Guarded, Object},
    passwords::Passwords,
};
use crate::options::SecurityOptions;

/// Metadata that a call's user and password come in.
pub(crate) const HEADER: &str = "authorization";

/// Lets calls in, or refuses them.
pub(crate) struct Guard {
    is_on: bool,
    passwords: Passwords,
}

/// Why a call is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It came without a user.
    MissingHeader,
    /// What came is not in base64.
    InvalidToken,
    /// There is no such user, or the password is not theirs.
    WrongPassword,
    /// There is no such key.
    WrongApiKey,
    /// Too many passwords are waiting to be checked; worth a retry.
    Busy,
    /// The user lacks a privilege.
    Denied {
        privilege: Privilege,
        user: String,
        database: String,
    },
}

impl Refusal {
    /// For measurements.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::MissingHeader => "missing_header",
            Self::InvalidToken => "invalid_token",
            Self::WrongPassword => "wrong_password",
            Self::WrongApiKey => "wrong_api_key",
            Self::Busy => "busy",
            Self::Denied { .. } => "denied",
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::MissingHeader => f.write_str("missing authorization in header"),
            Self::InvalidToken => f.write_str("invalid token format"),
            Self::WrongPassword => {
                f.write_str("auth check failure, please check username and password are correct")
            }
            Self::WrongApiKey => f.write_str("auth check failure, please check api key is correct"),
            Self::Busy => f.write_str("too many passwords are waiting to be checked, try again"),
            Self::Denied {
                privilege,
                user,
                database,
            } => write!(
                f,
                "Privilege{}: permission deny to {user} in the `{database}` database",
                privilege.name()
            ),
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            Refusal::MissingHeader
            | Refusal::InvalidToken
            | Refusal::WrongPassword
            | Refusal::WrongApiKey => Self::unauthenticated(text),
            Refusal::Busy => Self::unavailable(text),
            Refusal::Denied { .. } => Self::permission_denied(text),
        }
    }
}

impl Guard {
    /// A guard; `random` must not be predictable.
    pub(crate) fn new(options: &SecurityOptions, random: &Random) -> Self {
        Self {
            is_on: options.authorization,
            passwords: Passwords::new(random),
        }
    }

    /// Whether calls are checked at all.
    pub(crate) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Hashes and checks passwords.
    pub(crate) fn passwords(&self) -> &Passwords {
        &self.passwords
    }

    /// Whose call it is, by what came in [`HEADER`].
    ///
    /// # Errors
    /// Every [`Refusal`] but that of a privilege.
    pub(crate) async fn authenticate(
        &self,
        catalog: &Catalog,
        header: Option<&[u8]>,
        deadline: Deadline,
    ) -> Result<Caller, Refusal> {
        let header = header.ok_or(Refusal::MissingHeader)?;
        let token = BASE64_STANDARD.decode(header).ok();
        let token = token.and_then(|token| String::from_utf8(token).ok());
        let token = token.ok_or(Refusal::InvalidToken)?;
        // A token without a colon is an API key, of which there are none.
        let (user, password) = token.split_once(':').ok_or(Refusal::WrongApiKey)?;
        self.login(catalog, user, password.into(), deadline).await
    }

    /// The user of a name and a password.
    ///
    /// # Errors
    /// [`Refusal::WrongPassword`], [`Refusal::Busy`].
    pub(crate) async fn login(
        &self,
        catalog: &Catalog,
        user: &str,
        password: Secret,
        deadline: Deadline,
    ) -> Result<Caller, Refusal> {
        let record = catalog.view().access().user(user).cloned();
        let is_right = match &record {
            Some(record) => self.passwords.verify(record, password, deadline).await,
            None => self.passwords.verify_nobody(user, password, deadline).await,
        }
        .map_err(|_| Refusal::Busy)?;
        let record = record.filter(|_| is_right).ok_or(Refusal::WrongPassword)?;
        // Checking takes time, in which the user may have gone or got another password.
        let view = catalog.view();
        let now = view.access().user(user);
        match now.filter(|now| now.encrypted_password == record.encrypted_password) {
            Some(now) => Ok(Caller::user(now.clone())),
            None => Err(Refusal::WrongPassword),
        }
    }

    /// Whether a caller may have a request carried out that is about a database.
    ///
    /// # Errors
    /// [`Refusal::Denied`]; [`Refusal::WrongPassword`] for a user that has gone meanwhile.
    pub(crate) fn authorize<M: Guarded>(
        view: &CatalogView,
        caller: &Caller,
        database: &str,
        message: &M,
    ) -> Result<(), Refusal> {
        let (Some(privilege), Some(user)) = (M::NEEDS, caller.name()) else {
            return Ok(());
        };
        let access = view.access();
        let rights = access.rights(user).ok_or(Refusal::WrongPassword)?;
        if rights.is_everything() || message.is_own(user, access) {
            return Ok(());
        }
        let database = message.database().unwrap_or(database);
        let denied = |privilege, database: &str| Refusal::Denied {
            privilege,
            user: user.to_owned(),
            database: database.to_owned(),
        };
        if !has(view, rights, privilege, database, message.object()) {
            return Err(denied(privilege, database));
        }
        match message.also() {
            Some((privilege, other))
                if other != database && !rights.allows(privilege, other, ANY) =>
            {
                Err(denied(privilege, other))
            }
            _ => Ok(()),
        }
    }
}

/// Whether somebody has a privilege on what a request is about.
pub(crate) fn has(
    view: &CatalogView,
    rights: &Rights,
    privilege: Privilege,
    database: &str,
    object: Object<'_>,
) -> bool {
    if rights.allows(privilege, database, ANY) {
        return true;
    }
    let on_collection = |name: &str| {
        let id = view.database(database).map(|found| DatabaseId(found.id));
        let entry = id.and_then(|id| view.collection(id, name));
        // What was granted on an alias's name is not granted on its collection.
        let name = entry.map_or(name, |entry| entry.name());
        rights.allows(privilege, database, name)
    };
    match object {
        Object::Any => false,
        Object::Collection(name) => on_collection(name),
        Object::CollectionOrId("", id) => view
            .collection_by_id(id)
            .and_then(|entry| Some((view.database_by_id(entry.database_id())?, entry)))
            .is_some_and(|(database, entry)| {
                rights.allows(privilege, &database.name, entry.name())
            }),
        Object::CollectionOrId(name, _) => on_collection(name),
        Object::Collections(names) => {
            !names.is_empty() && names.iter().all(|name| on_collection(name))
        }
        Object::User(name) => rights.allows(privilege, database, name),
    }
}

#[cfg(test)]
mod tests;
