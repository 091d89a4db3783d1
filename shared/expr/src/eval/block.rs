//! Comparisons between computed numbers, 64 rows at a time: the operator is chosen once per block,
//! and the loops below it are plain.

use redkite_types::{BitSet, ColumnData};

use super::operand::Bound;
use crate::{
    ast::{ArithOp, CompareOp},
    plan::Number,
};

/// Rows of a block: one word of a bit set.
const WIDTH: usize = 64;

/// One value for each row of a block.
enum Lane {
    Int([i64; WIDTH]),
    Float([f64; WIDTH]),
}

/// Whether all steps are numbers whose kind does not depend on the row. A power of integers is one
/// only if the exponent is not negative.
pub(super) fn is_supported(steps: &[Bound<'_>]) -> bool {
    steps.iter().all(|step| match step {
        Bound::Column(data) => data.data_type().is_integer() || data.data_type().is_floating(),
        Bound::Constant(_) | Bound::Negate => true,
        Bound::Arith(op) => *op != ArithOp::Pow,
        Bound::Json(..) => false,
    })
}

/// The rows of `among` for which the comparison is known and is `wanted`.
pub(super) fn compare(
    op: CompareOp,
    left: &[Bound<'_>],
    right: &[Bound<'_>],
    wanted: bool,
    among: &BitSet,
) -> BitSet {
    let mut words = vec![0u64; among.words().len()];
    let mut stack = Vec::new();
    for (block, word) in words.iter_mut().enumerate() {
        let mut known = among.words()[block];
        if known == 0 {
            continue;
        }
        let (Some(a), Some(b)) = (
            compute(left, block, &mut stack, &mut known),
            compute(right, block, &mut stack, &mut known),
        ) else {
            continue;
        };
        let holds = compare_lanes(op, &a, &b);
        *word = known & if wanted { holds } else { !holds };
    }
    BitSet::from_fn(among.len(), |row| {
        words[row / WIDTH] >> (row % WIDTH) & 1 == 1
    })
}

/// Runs the steps for a block, and takes rows without a result out of `known`.
fn compute(
    steps: &[Bound<'_>],
    block: usize,
    stack: &mut Vec<Lane>,
    known: &mut u64,
) -> Option<Lane> {
    stack.clear();
    for step in steps {
        let lane = match step {
            Bound::Column(data) => load(data, block)?,
            Bound::Constant(Number::Int(number)) => Lane::Int([*number; WIDTH]),
            Bound::Constant(Number::Float(number)) => Lane::Float([*number; WIDTH]),
            Bound::Negate => negate(stack.pop()?, known),
            Bound::Arith(op) => {
                let right = stack.pop()?;
                let left = stack.pop()?;
                match (left, right) {
                    (Lane::Int(left), Lane::Int(right)) => arith_int(*op, &left, &right, known),
                    (left, right) => arith_float(*op, &floats(left), &floats(right), known),
                }
            }
            Bound::Json(..) => return None,
        };
        stack.push(lane);
    }
    stack.pop()
}

fn load(data: &ColumnData, block: usize) -> Option<Lane> {
    macro_rules! lane {
        ($values:expr, $kind:ident, $type:ty) => {{
            let mut lane = [<$type>::default(); WIDTH];
            for (slot, value) in lane.iter_mut().zip($values.get(block * WIDTH..)?) {
                *slot = <$type>::from(*value);
            }
            Some(Lane::$kind(lane))
        }};
    }
    match data {
        ColumnData::Int8(values) => lane!(values, Int, i64),
        ColumnData::Int16(values) => lane!(values, Int, i64),
        ColumnData::Int32(values) => lane!(values, Int, i64),
        ColumnData::Int64(values) => lane!(values, Int, i64),
        ColumnData::Float(values) => lane!(values, Float, f64),
        ColumnData::Double(values) => lane!(values, Float, f64),
        ColumnData::Bool(_)
        | ColumnData::VarChar(_)
        | ColumnData::Json(_)
        | ColumnData::FloatVector { .. }
        | ColumnData::PackedVector { .. }
        | ColumnData::SparseVector(_) => None,
    }
}

fn floats(lane: Lane) -> [f64; WIDTH] {
    match lane {
        Lane::Int(values) => values.map(|value| value as f64),
        Lane::Float(values) => values,
    }
}

fn negate(lane: Lane, known: &mut u64) -> Lane {
    match lane {
        Lane::Int(values) => int_lane(&[0; WIDTH], &values, known, i64::overflowing_sub),
        Lane::Float(values) => Lane::Float(values.map(|value| -value)),
    }
}

/// Applies an operation that says whether it overflowed.
fn int_lane(
    left: &[i64; WIDTH],
    right: &[i64; WIDTH],
    known: &mut u64,
    operation: impl Fn(i64, i64) -> (i64, bool),
) -> Lane {
    let mut lane = [0; WIDTH];
    let mut overflown = 0u64;
    for row in 0..WIDTH {
        let (result, overflow) = operation(left[row], right[row]);
        lane[row] = result;
        overflown |= u64::from(overflow) << row;
    }
    *known &= !overflown;
    Lane::Int(lane)
}

fn arith_int(op: ArithOp, left: &[i64; WIDTH], right: &[i64; WIDTH], known: &mut u64) -> Lane {
    let none_as_overflow = |result: Option<i64>| (result.unwrap_or(0), result.is_none());
    match op {
        ArithOp::Add => int_lane(left, right, known, i64::overflowing_add),
        ArithOp::Sub => int_lane(left, right, known, i64::overflowing_sub),
        ArithOp::Mul => int_lane(left, right, known, i64::overflowing_mul),
        ArithOp::Div => int_lane(left, right, known, |a, b| {
            none_as_overflow(a.checked_div(b))
        }),
        ArithOp::Mod => int_lane(left, right, known, |a, b| {
            none_as_overflow(a.checked_rem(b))
        }),
        // Not supported here, see `is_supported`.
        ArithOp::Pow => no_result(known),
    }
}

fn arith_float(op: ArithOp, left: &[f64; WIDTH], right: &[f64; WIDTH], known: &mut u64) -> Lane {
    let each = |operation: fn(f64, f64) -> f64| {
        Lane::Float(std::array::from_fn(|row| operation(left[row], right[row])))
    };
    match op {
        ArithOp::Add => each(|a, b| a + b),
        ArithOp::Sub => each(|a, b| a - b),
        ArithOp::Mul => each(|a, b| a * b),
        ArithOp::Div => {
            *known &= !bits(|row| right[row] == 0.0);
            each(|a, b| a / b)
        }
        ArithOp::Mod | ArithOp::Pow => no_result(known),
    }
}

fn no_result(known: &mut u64) -> Lane {
    *known = 0;
    Lane::Int([0; WIDTH])
}

fn bits(is_set: impl Fn(usize) -> bool) -> u64 {
    (0..WIDTH).fold(0, |word, row| word | u64::from(is_set(row)) << row)
}

fn compare_lanes(op: CompareOp, left: &Lane, right: &Lane) -> u64 {
    macro_rules! typed {
        ($a:expr, $b:expr) => {
            match op {
                CompareOp::Eq => bits(|row| $a[row] == $b[row]),
                CompareOp::Ne => bits(|row| $a[row] != $b[row]),
                CompareOp::Lt => bits(|row| $a[row] < $b[row]),
                CompareOp::Le => bits(|row| $a[row] <= $b[row]),
                CompareOp::Gt => bits(|row| $a[row] > $b[row]),
                CompareOp::Ge => bits(|row| $a[row] >= $b[row]),
            }
        };
    }
    let mixed = |int: i64, float: f64| Number::Int(int).compare(Number::Float(float));
    match (left, right) {
        (Lane::Int(a), Lane::Int(b)) => typed!(a, b),
        (Lane::Float(a), Lane::Float(b)) => typed!(a, b),
        (Lane::Int(a), Lane::Float(b)) => bits(|row| op.accepts(mixed(a[row], b[row]))),
        (Lane::Float(a), Lane::Int(b)) => bits(|row| op.mirrored().accepts(mixed(b[row], a[row]))),
    }
}
