//! Names as Milvus checks them: first a letter or `_`, then letters, digits, `_` (and `$`).

use crate::{
    error::{Error, ErrorCode, Result},
    limits::{MAX_NAME_LENGTH, MAX_USERNAME_LENGTH},
};

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'
}

/// Why a name is refused, in Milvus's words with `{kind}` filled in.
fn problem(kind: &str, name: &str) -> Option<String> {
    let bytes = name.as_bytes();
    let Some(&first) = bytes.first() else {
        return Some(format!("{kind} should not be empty"));
    };
    if bytes.len() > MAX_NAME_LENGTH {
        return Some(format!(
            "the length of {} {kind} must be less than {MAX_NAME_LENGTH} characters",
            if kind.starts_with(['a', 'i']) {
                "an"
            } else {
                "a"
            }
        ));
    }
    if !(first.is_ascii_alphabetic() || first == b'_') {
        return Some(format!(
            "the first character of {} {kind} must be an underscore or letter",
            if kind.starts_with(['a', 'i']) {
                "an"
            } else {
                "a"
            }
        ));
    }
    if !bytes.iter().all(|&byte| is_name_byte(byte)) {
        return Some(format!(
            "{kind} can only contain numbers, letters and underscores"
        ));
    }
    None
}

/// Checks a collection's name.
///
/// # Errors
/// Code 1100 with Milvus's text; never worth a retry.
pub fn check_collection(name: &str) -> Result<()> {
    match problem("collection name", name) {
        None => Ok(()),
        Some(_) if name.is_empty() => Err(Error::invalid_parameter(
            "collection name should not be empty",
        )),
        Some(why) => Err(Error::invalid_parameter(format!(
            "Invalid collection name: {name}. {why}"
        ))),
    }
}

/// Checks an alias.
///
/// # Errors
/// Code 1100 with Milvus's text; never worth a retry.
pub fn check_alias(name: &str) -> Result<()> {
    match problem("collection alias", name) {
        None => Ok(()),
        Some(_) if name.is_empty() => Err(Error::invalid_parameter(
            "collection alias should not be empty",
        )),
        Some(why) => Err(Error::invalid_parameter(format!(
            "Invalid collection alias: {name}. {why}"
        ))),
    }
}

/// Checks a database's name.
///
/// # Errors
/// Code 802 with Milvus's text; never worth a retry.
pub fn check_database(name: &str) -> Result<()> {
    let invalid = |why: &str| {
        Error::input(
            ErrorCode::DatabaseInvalidName,
            format!("{why}: invalid database name[database={name}]"),
        )
    };
    match problem("database name", name) {
        None => Ok(()),
        Some(_) if name.is_empty() => Err(invalid("database name couldn't be empty")),
        Some(why) => Err(invalid(&why)),
    }
}

/// Checks a field's name.
///
/// # Errors
/// Code 1701 with Milvus's text; never worth a retry.
pub fn check_field(name: &str) -> Result<()> {
    let invalid = |why: &str| {
        Error::input(
            ErrorCode::FieldInvalidName,
            format!("Invalid field name: {name}. {why}: field name invalid[field={name}]"),
        )
    };
    match problem("field name", name) {
        None if is_reserved_word(name) => Err(invalid("it is a key word of the filter language")),
        None => Ok(()),
        Some(_) if name.is_empty() => Err(invalid("field name should not be empty")),
        Some(why) => Err(invalid(&why)),
    }
}

/// Words of the filter language that cannot name a field.
fn is_reserved_word(name: &str) -> bool {
    matches!(
        name.to_ascii_lowercase().as_str(),
        "and" | "or" | "not" | "in" | "like" | "true" | "false" | "is" | "null" | "exists"
    )
}

/// Checks a user's name: letters, digits and `_`.
///
/// # Errors
/// Code 1100; never worth a retry.
pub fn check_user(name: &str) -> Result<()> {
    let invalid = |why: &str| {
        Err(Error::invalid_parameter(format!(
            "invalid username {name}: {why}"
        )))
    };
    let bytes = name.as_bytes();
    let Some(first) = bytes.first() else {
        return invalid("username must be not empty");
    };
    if bytes.len() > MAX_USERNAME_LENGTH {
        return invalid("the length of username must be at most 32 characters");
    }
    if !first.is_ascii_alphabetic() {
        return invalid("the first character of username must be a letter");
    }
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    if !bytes.iter().all(is_allowed) {
        return invalid("username should only contain numbers, letters and underscores");
    }
    Ok(())
}

/// Checks a role's name.
///
/// # Errors
/// Code 1100; never worth a retry.
pub fn check_role(name: &str) -> Result<()> {
    match problem("role name", name) {
        None => Ok(()),
        Some(why) => Err(Error::invalid_parameter(format!(
            "invalid role name {name}: {why}"
        ))),
    }
}

/// Checks the name of a group of privileges.
///
/// # Errors
/// Code 1100 with Milvus's text; never worth a retry.
pub fn check_privilege_group(name: &str) -> Result<()> {
    match problem("privilege group name", name) {
        None => Ok(()),
        Some(why) if why.ends_with("can only contain numbers, letters and underscores") => {
            Err(Error::invalid_parameter(format!(
                "privilege group name {name} can only contain numbers, letters and underscores"
            )))
        }
        Some(why) => Err(Error::invalid_parameter(format!(
            "invalid privilege group name {name}: {why}"
        ))),
    }
}

/// Checks a partition's name; the first character may be a digit, and `-` is allowed inside.
///
/// # Errors
/// Code 65535 with Milvus's text; never worth a retry.
pub fn check_partition(name: &str) -> Result<()> {
    let invalid = |why: &str| {
        Error::input(
            ErrorCode::Unexpected,
            format!("Invalid partition name: {name}. {why}"),
        )
    };
    let bytes = name.as_bytes();
    let Some(&first) = bytes.first() else {
        return Err(invalid("Partition name should not be empty."));
    };
    if bytes.len() > MAX_NAME_LENGTH {
        return Err(invalid(&format!(
            "The length of a partition name must be less than {MAX_NAME_LENGTH} characters."
        )));
    }
    if !(first.is_ascii_alphanumeric() || first == b'_') {
        return Err(invalid(
            "The first character of a partition name must be an underscore or letter.",
        ));
    }
    if !bytes.iter().all(|&byte| is_name_byte(byte) || byte == b'-') {
        return Err(invalid(
            "Partition name can only contain numbers, letters and underscores.",
        ));
    }
    Ok(())
}

/// Checks an index's name.
///
/// # Errors
/// Code 1100 with Milvus's text; never worth a retry.
pub fn check_index(name: &str) -> Result<()> {
    match problem("index name", name) {
        None => Ok(()),
        Some(why) => Err(Error::invalid_parameter(format!(
            "Invalid index name: {name}. {why}"
        ))),
    }
}

/// Checks a snapshot's name, without blanks around it.
///
/// # Errors
/// Code 1100 with Milvus's text; never worth a retry.
pub fn check_snapshot(name: &str) -> Result<()> {
    let Some(first) = name.bytes().next() else {
        return Err(Error::invalid_parameter(
            "snapshot name should be not empty",
        ));
    };
    let invalid =
        |why: &str| Error::invalid_parameter(format!("Invalid snapshot name: {name}. {why}"));
    if name.len() > MAX_NAME_LENGTH {
        return Err(invalid(
            "the length of snapshot name must be not greater than limit",
        ));
    }
    if !(first.is_ascii_alphabetic() || first == b'_') {
        return Err(invalid(
            "the first character of snapshot name must be an underscore or letter",
        ));
    }
    if !name.bytes().all(is_name_byte) {
        return Err(invalid(
            "snapshot name can only contain numbers, letters, underscores, and allowed characters \
             ($)",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_and_bad_names() {
        for good in ["a", "_a", "A9_", "x$y", &"n".repeat(255)] {
            check_collection(good).unwrap();
            check_partition(good).unwrap();
            check_database(good).unwrap();
            check_snapshot(good).unwrap();
        }
        for bad in ["", "9a", "-a", "a-b", "a b", "ü", "$a", &"n".repeat(256)] {
            assert_eq!(
                check_collection(bad).unwrap_err().code.number(),
                1100,
                "{bad}"
            );
            assert_eq!(check_database(bad).unwrap_err().code.number(), 802, "{bad}");
            assert_eq!(
                check_snapshot(bad).unwrap_err().code.number(),
                1100,
                "{bad}"
            );
        }
        for good in ["2024-01", "9", "a-b"] {
            check_partition(good).unwrap();
        }
        for bad in ["", "-a", "a b", "a.b", "$a"] {
            assert_eq!(
                check_partition(bad).unwrap_err().code.number(),
                65_535,
                "{bad}"
            );
        }
        assert!(check_field("and").is_err());
        check_field("android").unwrap();
    }

    #[test]
    fn texts_are_the_ones_that_clients_match() {
        let text = check_collection("1x").unwrap_err().message;
        assert_eq!(
            text,
            "Invalid collection name: 1x. the first character of a collection name must be an \
             underscore or letter: invalid parameter"
        );
        let text = check_collection(&"n".repeat(256)).unwrap_err().message;
        assert!(text.contains("the length of a collection name must be less than 255 characters"));
        let text = check_database("1x").unwrap_err().message;
        assert!(text.contains(
            "the first character of a database name must be an underscore or letter: invalid \
             database name[database=1x]"
        ));
        let text = check_partition("").unwrap_err().message;
        assert_eq!(
            text,
            "Invalid partition name: . Partition name should not be empty."
        );
    }

    #[test]
    fn sixty_partition_names_good_and_bad() {
        const EMPTY: &str = "Partition name should not be empty.";
        const LONG: &str = "The length of a partition name must be less than 255 characters.";
        const FIRST: &str =
            "The first character of a partition name must be an underscore or letter.";
        const INSIDE: &str = "Partition name can only contain numbers, letters and underscores.";
        let (longest, too_long) = ("n".repeat(255), "n".repeat(256));
        // 254 bytes in 127 characters, and 256 in 128: bytes count.
        let (wide, too_wide) = ("é".repeat(127), "é".repeat(128));
        let long_and_bad = format!("-{}", "n".repeat(255));
        let good = [
            "a",
            "A",
            "z",
            "Z",
            "_",
            "__",
            "_a",
            "a_",
            "_default",
            "_default_0",
            "_default_15",
            "0",
            "9",
            "9lives",
            "2026",
            "20_26",
            "a1",
            "A1_b2",
            "camelCase",
            "UPPER_CASE",
            "with-dash",
            "a-",
            "a--b",
            "9-",
            "_-",
            "select",
            "null",
            "true",
            "in",
            "partition",
            "a$",
            &longest,
        ];
        let bad = [
            ("", EMPTY),
            ("-", FIRST),
            ("-a", FIRST),
            (" ", FIRST),
            (" a", FIRST),
            ("$meta", FIRST),
            (".", FIRST),
            ("..", FIRST),
            ("/a", FIRST),
            ("*", FIRST),
            ("%", FIRST),
            ("\0", FIRST),
            ("é", FIRST),
            ("分区", FIRST),
            ("🙂", FIRST),
            (wide.as_str(), FIRST),
            ("a ", INSIDE),
            ("a b", INSIDE),
            ("a.b", INSIDE),
            ("a/b", INSIDE),
            ("a#", INSIDE),
            ("a%20", INSIDE),
            ("a+b", INSIDE),
            ("a\tb", INSIDE),
            ("a\n", INSIDE),
            ("né", INSIDE),
            ("p分区", INSIDE),
            (too_long.as_str(), LONG),
            (too_wide.as_str(), LONG),
            (long_and_bad.as_str(), LONG),
        ];
        assert!(good.len() + bad.len() >= 60);
        for name in good {
            check_partition(name).unwrap();
        }
        for (name, why) in bad {
            let error = check_partition(name).unwrap_err();
            assert_eq!(error.code.number(), 65_535, "{name:?}");
            assert_eq!(
                error.message,
                format!("Invalid partition name: {name}. {why}")
            );
            assert!(!error.retriable, "{name:?}");
        }
    }
}
