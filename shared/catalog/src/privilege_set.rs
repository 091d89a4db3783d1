//! Privileges as numbers and sets of them as bits, for quick decisions.

use crate::privileges::{GLOBAL, OBJECT_TYPES, ON_COLLECTIONS, ON_USERS};

/// A privilege by its number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Privilege(u8);

impl Privilege {
    /// The privilege of a name, in constants: a name that there is not does not compile there.
    ///
    /// # Panics
    /// For a name that there is not.
    pub const fn named(name: &str) -> Self {
        match Self::find(name) {
            Some(privilege) => privilege,
            None => panic!("there is no such privilege"),
        }
    }

    /// The privilege of a name.
    pub const fn find(name: &str) -> Option<Self> {
        let lists = [ON_COLLECTIONS, GLOBAL, ON_USERS];
        let (mut list, mut number) = (0, 0);
        while list < lists.len() {
            let mut at = 0;
            while at < lists[list].len() {
                if same(lists[list][at], name) {
                    return Some(Self(number));
                }
                at += 1;
                number += 1;
            }
            list += 1;
        }
        None
    }

    /// As grants and groups name it.
    pub fn name(self) -> &'static str {
        let at = usize::from(self.0);
        let mut all = [ON_COLLECTIONS, GLOBAL, ON_USERS].into_iter().flatten();
        all.nth(at).expect("it was found by its name")
    }
}

impl std::fmt::Debug for Privilege {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

const fn same(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    if left.len() != right.len() {
        return false;
    }
    let mut at = 0;
    while at < left.len() {
        if left[at] != right[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// Privileges, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrivilegeSet(u128);

/// The bit that no privilege has.
const SIGHT: u128 = 1 << 127;

impl PrivilegeSet {
    /// No privilege.
    pub const NONE: Self = Self(0);
    /// Not a privilege but what some of them bring along: to see that a collection is there.
    pub const SIGHT: Self = Self(SIGHT);

    /// All privileges.
    pub fn all() -> Self {
        OBJECT_TYPES
            .into_iter()
            .map(Self::on)
            .fold(Self::NONE, Self::union)
    }

    /// All privileges of an object type.
    pub fn on(object_type: &str) -> Self {
        let [collection, global, user] = OBJECT_TYPES;
        let names = match object_type {
            name if name == collection => ON_COLLECTIONS,
            name if name == global => GLOBAL,
            name if name == user => ON_USERS,
            _ => &[],
        };
        Self::named(names.iter().copied())
    }

    /// The privileges of some names; other names are left out.
    pub fn named<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        names
            .filter_map(Privilege::find)
            .fold(Self::NONE, Self::with)
    }

    /// With one privilege more.
    #[must_use]
    pub fn with(self, privilege: Privilege) -> Self {
        Self(self.0 | 1 << privilege.0)
    }

    /// Whether a privilege is among them.
    pub fn contains(self, privilege: Privilege) -> bool {
        self.0 & (1 << privilege.0) != 0
    }

    /// Those that are in either.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are in both.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those that are not in the other.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_each_privilege_by_its_name() {
        let all = [ON_COLLECTIONS, GLOBAL, ON_USERS].concat();
        assert!(all.len() < 127, "they fit beside the bit of sight");
        let mut set = PrivilegeSet::NONE;
        for name in &all {
            let privilege = Privilege::find(name).unwrap();
            assert_eq!(privilege.name(), *name);
            assert!(!set.contains(privilege), "{name}");
            set = set.with(privilege);
            assert!(set.contains(privilege), "{name}");
        }
        assert_eq!(set, PrivilegeSet::all());
        assert!(set.intersection(PrivilegeSet::SIGHT).is_empty());
        assert_eq!(Privilege::find("Nothing"), None);
    }
}
