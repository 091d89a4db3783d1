//! Numbers as filters see them: integers stay exact, and the two kinds compare by value.

use std::cmp::Ordering;

use crate::ast::ArithOp;

/// An integer or a floating-point number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Int(i64),
    Float(f64),
}

/// First float past the integers: 2^63, which no i64 reaches.
const PAST_INTEGERS: f64 = 9_223_372_036_854_775_808.0;

impl Number {
    pub(crate) fn to_f64(self) -> f64 {
        match self {
            Self::Int(number) => number as f64,
            Self::Float(number) => number,
        }
    }

    pub(crate) fn is_zero(self) -> bool {
        match self {
            Self::Int(number) => number == 0,
            Self::Float(number) => number == 0.0,
        }
    }

    /// The order by exact value; `None` with a NaN.
    #[inline]
    pub(crate) fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(&b)),
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(&b),
            (Self::Int(a), Self::Float(b)) => compare_mixed(a, b),
            (Self::Float(a), Self::Int(b)) => compare_mixed(b, a).map(Ordering::reverse),
        }
    }

    /// The integer of exactly this value.
    pub(crate) fn exact_int(self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(number),
            Self::Float(number) => {
                let fits = (-PAST_INTEGERS..PAST_INTEGERS).contains(&number);
                (fits && number.fract() == 0.0).then_some(number as i64)
            }
        }
    }

    pub(crate) fn negate(self) -> Option<Self> {
        match self {
            Self::Int(number) => number.checked_neg().map(Self::Int),
            Self::Float(number) => Some(Self::Float(-number)),
        }
    }

    /// The result of `self op other`; `None` where there is none: a division by zero, an integer
    /// overflow, a remainder of floats.
    #[inline]
    pub(crate) fn arith(self, op: ArithOp, other: Self) -> Option<Self> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => arith_int(op, a, b),
            _ => arith_float(op, self.to_f64(), other.to_f64()).map(Self::Float),
        }
    }
}

fn compare_mixed(int: i64, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    if float >= PAST_INTEGERS {
        return Some(Ordering::Less);
    }
    if float < -PAST_INTEGERS {
        return Some(Ordering::Greater);
    }
    // The whole part fits now; the fraction decides between equals.
    let whole = float.trunc();
    let by_whole = int.cmp(&(whole as i64));
    Some(by_whole.then_with(|| whole.total_cmp(&float)))
}

fn arith_int(op: ArithOp, a: i64, b: i64) -> Option<Number> {
    let result = match op {
        ArithOp::Add => a.checked_add(b),
        ArithOp::Sub => a.checked_sub(b),
        ArithOp::Mul => a.checked_mul(b),
        ArithOp::Div => a.checked_div(b),
        ArithOp::Mod => a.checked_rem(b),
        ArithOp::Pow if b < 0 => {
            return arith_float(op, a as f64, b as f64).map(Number::Float);
        }
        ArithOp::Pow => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
    };
    result.map(Number::Int)
}

fn arith_float(op: ArithOp, a: f64, b: f64) -> Option<f64> {
    match op {
        ArithOp::Add => Some(a + b),
        ArithOp::Sub => Some(a - b),
        ArithOp::Mul => Some(a * b),
        ArithOp::Div => (b != 0.0).then(|| a / b),
        ArithOp::Mod => None,
        ArithOp::Pow => Some(a.powf(b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_floats_compare_exactly() {
        let cases = [
            (1 << 53, 9_007_199_254_740_992.0, Ordering::Equal),
            ((1 << 53) + 1, 9_007_199_254_740_992.0, Ordering::Greater),
            (i64::MAX, PAST_INTEGERS, Ordering::Less),
            (i64::MIN, -PAST_INTEGERS, Ordering::Equal),
            (1, 1.5, Ordering::Less),
            (-1, -1.5, Ordering::Greater),
            (0, -0.0, Ordering::Equal),
            (0, -0.5, Ordering::Greater),
        ];
        for (int, float, want) in cases {
            let (int, float) = (Number::Int(int), Number::Float(float));
            assert_eq!(int.compare(float), Some(want), "{int:?} {float:?}");
            assert_eq!(
                float.compare(int),
                Some(want.reverse()),
                "{float:?} {int:?}"
            );
        }
        assert_eq!(Number::Int(0).compare(Number::Float(f64::NAN)), None);
    }

    #[test]
    fn arithmetic_without_a_result_has_none() {
        let int = Number::Int;
        assert_eq!(int(i64::MAX).arith(ArithOp::Add, int(1)), None);
        assert_eq!(int(i64::MIN).arith(ArithOp::Div, int(-1)), None);
        assert_eq!(int(i64::MIN).arith(ArithOp::Mod, int(-1)), None);
        assert_eq!(int(1).arith(ArithOp::Mod, int(0)), None);
        assert_eq!(Number::Float(1.0).arith(ArithOp::Div, int(0)), None);
        assert_eq!(int(i64::MIN).negate(), None);
        assert_eq!(int(-7).arith(ArithOp::Div, int(2)), Some(int(-3)));
        assert_eq!(int(-7).arith(ArithOp::Mod, int(2)), Some(int(-1)));
        assert_eq!(
            int(2).arith(ArithOp::Pow, int(-1)),
            Some(Number::Float(0.5))
        );
    }
}
