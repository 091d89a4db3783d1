//! The order of rows by the values of fields.

use std::cmp::Ordering;

use crate::{ids::FieldId, value::Value};

/// One field to order by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderBy {
    /// The field.
    pub field: FieldId,
    /// Whether the largest value comes first.
    pub descending: bool,
    /// Whether rows without a value come first.
    pub nulls_first: bool,
}

impl OrderBy {
    /// Orders two values of the field. Values of different types, which one field never has, are
    /// ordered by type.
    pub fn compare(&self, a: &Value, b: &Value) -> Ordering {
        match (a, b) {
            (Value::Null, Value::Null) => Ordering::Equal,
            (Value::Null, _) if self.nulls_first => Ordering::Less,
            (Value::Null, _) => Ordering::Greater,
            (_, Value::Null) if self.nulls_first => Ordering::Greater,
            (_, Value::Null) => Ordering::Less,
            _ if self.descending => compare_values(b, a),
            _ => compare_values(a, b),
        }
    }
}

/// Orders the values of rows by several fields: `a` and `b` have one value for each.
pub fn compare_rows(order: &[OrderBy], a: &[Value], b: &[Value]) -> Ordering {
    let mut each = order.iter().zip(a.iter().zip(b));
    each.find_map(|(by, (a, b))| Some(by.compare(a, b)).filter(|order| order.is_ne()))
        .unwrap_or(Ordering::Equal)
}

/// Orders two values, smaller first and [`Value::Null`] before all others.
pub fn compare_values(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::Double(a), Value::Double(b)) => a.total_cmp(b),
        (Value::Str(a), Value::Str(b)) => a.cmp(b),
        (Value::List(a), Value::List(b)) => {
            let mut each = a.iter().zip(b).map(|(a, b)| compare_values(a, b));
            each.find(|order| order.is_ne())
                .unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        _ => kind(a).cmp(&kind(b)),
    }
}

const fn kind(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Int(_) => 2,
        Value::Double(_) => 3,
        Value::Str(_) => 4,
        Value::List(_) => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_stand_where_they_were_asked_for() {
        let values = [Value::Int(2), Value::Null, Value::Int(1)];
        for (descending, nulls_first, want) in [
            (false, false, [2, 0, 1]),
            (false, true, [1, 2, 0]),
            (true, true, [1, 0, 2]),
            (true, false, [0, 2, 1]),
        ] {
            let by = OrderBy {
                field: FieldId(100),
                descending,
                nulls_first,
            };
            let mut rows = [0, 1, 2];
            rows.sort_by(|&a, &b| by.compare(&values[a], &values[b]));
            assert_eq!(rows, want);
        }
    }

    #[test]
    fn later_fields_decide_where_earlier_ones_are_equal() {
        let by = |descending| OrderBy {
            field: FieldId(100),
            descending,
            nulls_first: false,
        };
        let row = |a: f64, b: &str| [Value::Double(a), Value::Str(b.to_owned())];
        let order = [by(false), by(true)];
        assert_eq!(
            compare_rows(&order, &row(1.0, "a"), &row(1.0, "b")),
            Ordering::Greater
        );
        assert_eq!(
            compare_rows(&order, &row(0.5, "a"), &row(1.0, "b")),
            Ordering::Less
        );
        assert_eq!(
            compare_rows(&order, &row(1.0, "a"), &row(1.0, "a")),
            Ordering::Equal
        );
    }
}
