//! Sparse vectors as they travel: pairs of a little-endian u32 index and a little-endian f32 value,
//! by index.

use bytes::Bytes;

/// Bytes of one pair.
const PAIR_BYTES: usize = 8;

/// The pairs of a vector. Bytes that are no whole pair at the end are left out.
pub fn pairs(row: &[u8]) -> impl Iterator<Item = (u32, f32)> + '_ {
    let (pairs, _) = row.as_chunks::<PAIR_BYTES>();
    pairs.iter().map(|pair| {
        let [a, b, c, d, e, f, g, h] = *pair;
        (
            u32::from_le_bytes([a, b, c, d]),
            f32::from_le_bytes([e, f, g, h]),
        )
    })
}

/// Checks one vector, as Milvus does. An empty one is all zeros, and near to nothing.
///
/// # Errors
/// Milvus's text of what is wrong.
pub fn check(row: &[u8]) -> Result<(), String> {
    if !row.len().is_multiple_of(PAIR_BYTES) {
        return Err(format!(
            "invalid data length in sparse float vector: {}",
            row.len()
        ));
    }
    let mut last = None;
    for (index, value) in pairs(row) {
        if index == u32::MAX {
            return Err(
                "invalid index in sparse float vector: must be less than 2^32-1".to_owned(),
            );
        }
        if last.is_some_and(|last| index <= last) {
            return Err("unsorted or same indices in sparse float vector".to_owned());
        }
        if !value.is_finite() {
            return Err(format!("value '{value}' is not a number or infinity"));
        }
        if value < 0.0 {
            return Err("negative value in sparse float vector".to_owned());
        }
        last = Some(index);
    }
    Ok(())
}

/// Dimensions of the space that vectors lie in, as messages say it: the largest index and one.
pub fn dim(rows: &[Bytes]) -> i64 {
    let last = |row: &Bytes| pairs(row).last().map(|(index, _)| i64::from(index) + 1);
    rows.iter().filter_map(last).max().unwrap_or(0)
}

/// Encodes pairs, which must be by index.
pub fn encode(pairs: &[(u32, f32)]) -> Bytes {
    let mut row = Vec::with_capacity(pairs.len() * PAIR_BYTES);
    for (index, value) in pairs {
        row.extend_from_slice(&index.to_le_bytes());
        row.extend_from_slice(&value.to_le_bytes());
    }
    row.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_come_back_and_bad_ones_are_refused() {
        let good = [(0, 0.5), (7, 0.0), (u32::MAX - 1, 3.25)];
        let row = encode(&good);
        assert_eq!(pairs(&row).collect::<Vec<_>>(), good);
        assert_eq!(check(&row), Ok(()));
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(dim(&[row.clone(), Bytes::new()]), i64::from(u32::MAX));
        assert_eq!(dim(&[]), 0);
        let bad: [(&[(u32, f32)], &str); 6] = [
            (&[(u32::MAX, 1.0)], "must be less than 2^32-1"),
            (&[(3, 1.0), (3, 1.0)], "unsorted or same indices"),
            (&[(3, 1.0), (2, 1.0)], "unsorted or same indices"),
            (&[(3, f32::NAN)], "not a number"),
            (&[(3, f32::INFINITY)], "infinity"),
            (&[(3, -1.0)], "negative value"),
        ];
        for (pairs, want) in bad {
            let why = check(&encode(pairs)).unwrap_err();
            assert!(why.contains(want), "{why} does not contain {want}");
        }
        let why = check(&row[..row.len() - 1]).unwrap_err();
        assert!(why.contains("invalid data length"), "{why}");
    }
}
