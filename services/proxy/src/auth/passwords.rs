//! Whether a password is a user's, at a bounded cost.
//!
//! Hashes of passwords are slow by design, tens of milliseconds of a core, and every call brings a
//! password. So what was checked is remembered, by a keyed hash of user, record and password that
//! means nothing outside of this process. A user's new password is a new record, and with it what
//! was remembered counts no longer, without anybody having to forget it.
//!
//! The slow checks run on threads of their own, a few at a time, and only so many wait for each user:
//! whoever tries passwords keeps neither the calls of those who are known nor the first call of
//! another user waiting for long.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    num::NonZero,
    sync::Arc,
    thread::available_parallelism,
    time::Duration,
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use parking_lot::Mutex;
use redkite_config::Secret;
use redkite_proto::redkite::meta::CredentialInfo;
use redkite_runtime::{Admission, Deadline, Random};
use redkite_types::{Error, Result, limits};
use sha2::Sha256;

/// Checks that may wait for one user, and together for all names that nobody has.
const WAITING: usize = 16;
/// Wrong passwords that are remembered, so that a client that goes on trying one costs little.
const WRONG: usize = 1_024;
const RETRY: Duration = Duration::from_millis(100);
/// The hash of nothing that anybody knows. A password of a user that there is not is compared with
/// it, so that time does not tell who there is.
const NOBODY: &str = "$2b$10$j2kOzC2pPV7LxAXUdjfzWeC02.15rTEAc8jWXMlAINPAoRKqfFnVq";

type Digest = [u8; 32];

/// Hashes and checks passwords.
pub(crate) struct Passwords {
    key: Digest,
    known: Arc<Mutex<Known>>,
    waiting: Arc<Mutex<HashMap<String, usize>>>,
    lanes: Admission,
}

/// What was checked.
#[derive(Default)]
struct Known {
    /// By user.
    right: HashMap<String, Digest>,
    wrong: HashSet<Digest>,
    /// The same, oldest first.
    wrong_in_order: VecDeque<Digest>,
}

impl Known {
    fn remember(&mut self, user: String, digest: Digest, is_right: bool) {
        if is_right {
            // Users who have gone are in it too, so that it could grow with time.
            if self.right.len() >= 2 * limits::MAX_USERS {
                self.right.clear();
            }
            self.right.insert(user, digest);
        } else if self.wrong.insert(digest) {
            self.wrong_in_order.push_back(digest);
            if self.wrong.len() > WRONG
                && let Some(oldest) = self.wrong_in_order.pop_front()
            {
                self.wrong.remove(&oldest);
            }
        }
    }
}

/// A place among those who wait for a user's check.
struct Place {
    waiting: Arc<Mutex<HashMap<String, usize>>>,
    user: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.waiting.lock();
        if let Some(count) = waiting.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.user);
            }
        }
    }
}

impl Passwords {
    /// Nothing is remembered yet; `random` must not be predictable.
    pub(crate) fn new(random: &Random) -> Self {
        let mut key = Digest::default();
        for part in key.chunks_mut(8) {
            part.copy_from_slice(&random.next_u64().to_le_bytes());
        }
        let cores = available_parallelism().map_or(1, NonZero::get);
        let lanes = u32::try_from(cores / 2).unwrap_or(u32::MAX);
        Self {
            key,
            known: Arc::default(),
            waiting: Arc::default(),
            lanes: Admission::new("checks of passwords", lanes.max(1), RETRY),
        }
    }

    /// The hash of a new password, as records keep it.
    ///
    /// # Errors
    /// Code 8 when too many are waiting until the deadline.
    pub(crate) async fn hash(&self, password: Secret, deadline: Deadline) -> Result<String> {
        let permit = self.lanes.acquire_until(1, deadline).await?;
        let hashed = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            bcrypt::hash(password.expose(), limits::BCRYPT_COST)
        });
        match hashed.await {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(error)) => Err(Error::internal(format!("hashing a password: {error}"))),
            Err(error) => Err(Error::internal(format!("hashing a password: {error}"))),
        }
    }

    /// Whether a password is that of a user's record.
    ///
    /// # Errors
    /// Code 8 when too many are waiting for the same user, or until the deadline.
    pub(crate) async fn verify(
        &self,
        record: &CredentialInfo,
        password: Secret,
        deadline: Deadline,
    ) -> Result<bool> {
        let (user, hash) = (&record.username, &record.encrypted_password);
        self.compare(user, user, hash, password, deadline).await
    }

    /// Takes as long as [`verify`](Self::verify), the first time and later, and finds nobody.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn verify_nobody(
        &self,
        user: &str,
        password: Secret,
        deadline: Deadline,
    ) -> Result<bool> {
        // One line for all of them: anybody can make up names.
        self.compare(user, "", NOBODY, password, deadline).await?;
        Ok(false)
    }

    /// Those with the same `line` wait for each other.
    async fn compare(
        &self,
        user: &str,
        line: &str,
        hash: &str,
        password: Secret,
        deadline: Deadline,
    ) -> Result<bool> {
        let mac = self.mac(user, hash, &password);
        if let Some(is_right) = self.remembered(user, &mac) {
            return Ok(is_right);
        }
        let place = self.wait(line)?;
        let permit = self.lanes.acquire_until(1, deadline).await?;
        // Somebody else may have come with the same one meanwhile.
        if let Some(is_right) = self.remembered(user, &mac) {
            return Ok(is_right);
        }
        let digest: Digest = mac.finalize().into_bytes().into();
        let (known, user, hash) = (self.known.clone(), user.to_owned(), hash.to_owned());
        // Goes on when its caller leaves, so that what it found out is not lost.
        let verified = tokio::task::spawn_blocking(move || {
            let _held = (place, permit);
            // A record that is no hash matches no password.
            let is_right = bcrypt::verify(password.expose(), &hash).unwrap_or(false);
            known.lock().remember(user, digest, is_right);
            is_right
        });
        verified
            .await
            .map_err(|error| Error::internal(format!("verifying a password: {error}")))
    }

    fn mac(&self, user: &str, hash: &str, password: &Secret) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        // Lengths tell where one ends and the next begins.
        for part in [user, hash, password.expose()] {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part.as_bytes());
        }
        mac
    }

    fn remembered(&self, user: &str, mac: &Hmac<Sha256>) -> Option<bool> {
        let right = self.known.lock().right.get(user).copied();
        // In constant time.
        if right.is_some_and(|right| mac.clone().verify_slice(&right).is_ok()) {
            return Some(true);
        }
        let digest: Digest = mac.clone().finalize().into_bytes().into();
        let is_wrong = self.known.lock().wrong.contains(&digest);
        is_wrong.then_some(false)
    }

    fn wait(&self, user: &str) -> Result<Place> {
        let mut waiting = self.waiting.lock();
        let count = waiting.entry(user.to_owned()).or_default();
        if *count >= WAITING {
            return Err(Error::from(redkite_runtime::Error::RateLimited {
                what: "checks of a user's password".into(),
                retry_after: RETRY,
            }));
        }
        *count += 1;
        Ok(Place {
            waiting: self.waiting.clone(),
            user: user.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn passwords() -> Passwords {
        Passwords::new(&Random::seeded(1))
    }

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(60))
    }

    async fn user(passwords: &Passwords, name: &str, password: &str) -> CredentialInfo {
        CredentialInfo {
            username: name.to_owned(),
            encrypted_password: passwords.hash(password.into(), soon()).await.unwrap(),
            ..CredentialInfo::default()
        }
    }

    #[tokio::test]
    async fn what_was_checked_is_remembered_until_the_record_changes() {
        let passwords = passwords();
        let bob = user(&passwords, "bob", "secret").await;
        for _ in 0..2 {
            assert!(
                passwords
                    .verify(&bob, "secret".into(), soon())
                    .await
                    .unwrap()
            );
            assert!(
                !passwords
                    .verify(&bob, "guess".into(), soon())
                    .await
                    .unwrap()
            );
        }
        let remembers = |record: &CredentialInfo, password: &str| {
            let (user, hash) = (&record.username, &record.encrypted_password);
            passwords.remembered(user, &passwords.mac(user, hash, &password.into()))
        };
        assert_eq!(remembers(&bob, "secret"), Some(true));
        assert_eq!(remembers(&bob, "guess"), Some(false));
        assert_eq!(remembers(&bob, "other"), None);

        let changed = user(&passwords, "bob", "guess").await;
        assert_eq!(remembers(&changed, "secret"), None);
        assert_eq!(remembers(&changed, "guess"), None);
        assert!(
            !passwords
                .verify(&changed, "secret".into(), soon())
                .await
                .unwrap()
        );
        assert!(
            passwords
                .verify(&changed, "guess".into(), soon())
                .await
                .unwrap()
        );
        // The same password again is another record.
        let again = user(&passwords, "bob", "guess").await;
        assert_eq!(remembers(&again, "guess"), None);
    }

    #[tokio::test]
    async fn nobody_s_password_takes_as_long_and_is_wrong() {
        let passwords = passwords();
        let began = Instant::now();
        bcrypt::verify("x", NOBODY).expect("it is a hash");
        let one = began.elapsed();
        let began = Instant::now();
        assert!(
            !passwords
                .verify_nobody("eve", "x".into(), soon())
                .await
                .unwrap()
        );
        assert!(began.elapsed() > one / 100);
        let mac = passwords.mac("eve", NOBODY, &"x".into());
        assert_eq!(passwords.remembered("eve", &mac), Some(false));
        let broken = CredentialInfo::default();
        assert!(!passwords.verify(&broken, "".into(), soon()).await.unwrap());
    }

    #[tokio::test]
    async fn few_wait_for_one_user_and_others_are_let_in() {
        let passwords = passwords();
        let bob = user(&passwords, "bob", "secret").await;
        let ann = user(&passwords, "ann", "hidden").await;
        let guesses: Vec<String> = (0..WAITING + 5)
            .map(|guess| format!("guess{guess}"))
            .collect();
        let flood = futures::future::join_all(
            guesses
                .iter()
                .map(|guess| passwords.verify(&bob, guess.as_str().into(), soon())),
        );
        let other = async {
            // Behind the flood, which fills its places first.
            assert_eq!(passwords.waiting.lock().get("bob"), Some(&WAITING));
            passwords.verify(&ann, "hidden".into(), soon()).await
        };
        let (flood, other) = futures::future::join(flood, other).await;
        let refused = flood.iter().filter(|outcome| outcome.is_err()).count();
        assert_eq!(refused, 5);
        assert!(flood.into_iter().flatten().all(|is_right| !is_right));
        assert!(other.unwrap());
        assert!(passwords.waiting.lock().is_empty());
        assert!(
            passwords
                .verify(&bob, "secret".into(), soon())
                .await
                .unwrap()
        );
    }

    #[test]
    fn wrong_passwords_are_forgotten_in_order() {
        let mut known = Known::default();
        let digest = |number: usize| {
            let mut digest = Digest::default();
            digest[..8].copy_from_slice(&number.to_le_bytes());
            digest
        };
        for number in 0..=WRONG {
            known.remember("bob".to_owned(), digest(number), false);
        }
        assert!(!known.wrong.contains(&digest(0)) && known.wrong.contains(&digest(1)));
        assert_eq!(
            (known.wrong.len(), known.wrong_in_order.len()),
            (WRONG, WRONG)
        );
        for number in 0..3 * limits::MAX_USERS {
            known.remember(format!("user{number}"), digest(number), true);
        }
        assert!(known.right.len() <= 2 * limits::MAX_USERS);
    }
}
