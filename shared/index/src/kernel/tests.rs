//! Every kernel this processor can run, against its scalar twin.

use super::{Kernels, LINE_BYTES, available, scalar};
use crate::testing::Rng;

/// Rounding differs with the order of the sum: bounded by the sum of the magnitudes.
fn assert_close(kernels: &Kernels, what: &str, actual: f32, expected: f32, magnitude: f64) {
    let tolerance = magnitude * 1e-5 + 1e-30;
    let error = (f64::from(actual) - f64::from(expected)).abs();
    assert!(
        error <= tolerance || actual == expected,
        "{} {what}: {actual} instead of {expected}",
        kernels.name
    );
}

fn check_f32(a: &[f32], b: &[f32]) {
    let pairs = || a.iter().zip(b).map(|(x, y)| (f64::from(*x), f64::from(*y)));
    let l2_magnitude: f64 = pairs().map(|(x, y)| (x - y) * (x - y)).sum();
    let ip_magnitude: f64 = pairs().map(|(x, y)| (x * y).abs()).sum();
    for kernels in available() {
        let what = format!("dim {}", a.len());
        assert_close(
            kernels,
            &what,
            (kernels.l2_f32)(a, b),
            (scalar_l2())(a, b),
            l2_magnitude,
        );
        assert_close(
            kernels,
            &what,
            (kernels.ip_f32)(a, b),
            (scalar_ip())(a, b),
            ip_magnitude,
        );
    }
}

fn scalar_l2() -> fn(&[f32], &[f32]) -> f32 {
    scalar::KERNELS.l2_f32
}

fn scalar_ip() -> fn(&[f32], &[f32]) -> f32 {
    scalar::KERNELS.ip_f32
}

#[test]
fn f32_kernels_agree_with_the_scalar_twin_in_every_dimension_and_alignment() {
    let mut rng = Rng::from_env();
    let a: Vec<f32> = (0..4200).map(|_| rng.gaussian()).collect();
    let b: Vec<f32> = (0..4200).map(|_| rng.gaussian()).collect();
    for dim in (0..=1030).chain([1536, 2047, 3072, 4095, 4096]) {
        let (a_shift, b_shift) = (rng.below(17), rng.below(17));
        check_f32(&a[a_shift..a_shift + dim], &b[b_shift..b_shift + dim]);
    }
}

#[test]
fn f32_kernels_survive_extreme_values() {
    let extremes = [
        0.0,
        -0.0,
        1e-38,
        -1e-38,
        1e18,
        -1e18,
        1.0,
        f32::MIN_POSITIVE,
        3.5,
    ];
    let mut rng = Rng::from_env();
    for dim in [1, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 255, 1000] {
        let mut pick = || extremes[rng.below(extremes.len())];
        let a: Vec<f32> = (0..dim).map(|_| pick()).collect();
        let b: Vec<f32> = (0..dim).map(|_| pick()).collect();
        check_f32(&a, &b);
    }
}

#[test]
fn the_scalar_twin_agrees_with_the_definition() {
    let a = [1.0, -2.0, 3.0, 0.5, 4.0, 1.0, 1.0, 1.0, 2.0];
    let b = [0.0, 1.0, 3.0, 1.5, 2.0, 1.0, 0.0, 2.0, -1.0];
    assert_eq!(
        (scalar_l2())(&a, &b),
        1.0 + 9.0 + 0.0 + 1.0 + 4.0 + 0.0 + 1.0 + 1.0 + 9.0
    );
    assert_eq!(
        (scalar_ip())(&a, &b),
        0.0 - 2.0 + 9.0 + 0.75 + 8.0 + 1.0 + 0.0 + 2.0 - 2.0
    );
}

#[test]
fn row_kernels_agree_with_the_definition() {
    let mut rng = Rng::from_env();
    for lines in [1, 2, 3, 6, 7, 17, 64] {
        let stride = lines * LINE_BYTES;
        let rows = 9;
        for extreme in [false, true] {
            let codes: Vec<u8> = (0..rows * stride + 1)
                .map(|_| if extreme { 255 } else { rng.below(256) as u8 })
                .collect();
            let query: Vec<i8> = (0..stride)
                .map(|_| {
                    if extreme {
                        -128
                    } else {
                        rng.below(256) as u8 as i8
                    }
                })
                .collect();
            // An odd start: rows need not be aligned for the result to be right.
            let codes = &codes[1..];
            for count in 0..=rows {
                let ids: Vec<u32> = (0..count).map(|_| rng.below(rows) as u32).collect();
                let expected: Vec<i32> = ids
                    .iter()
                    .map(|id| {
                        codes[*id as usize * stride..][..stride]
                            .iter()
                            .zip(&query)
                            .map(|(c, q)| i32::from(*c) * i32::from(*q))
                            .sum()
                    })
                    .collect();
                for kernels in available() {
                    let mut out = vec![0; count];
                    (kernels.dot_rows)(codes, stride, &ids, &query, &mut out);
                    assert_eq!(out, expected, "{} lines {lines}", kernels.name);
                }
            }
        }
    }
}

#[test]
fn code_kernels_agree_with_the_definition_in_every_length_and_alignment() {
    let mut rng = Rng::from_env();
    let a: Vec<u8> = (0..2100).map(|_| rng.below(256) as u8).collect();
    let b: Vec<u8> = (0..2100).map(|_| rng.below(256) as u8).collect();
    let (zeros, full) = (vec![0u8; 2100], vec![255u8; 2100]);
    for len in (0..=1030).chain([1536, 2048]) {
        let (a_shift, b_shift) = (rng.below(65), rng.below(65));
        for (x, y) in [(&a, &b), (&zeros, &full), (&full, &zeros), (&full, &full)] {
            if x.len() < len + 65 {
                continue;
            }
            let (x, y) = (&x[a_shift.min(51)..][..len], &y[b_shift.min(51)..][..len]);
            let expected: i32 = x
                .iter()
                .zip(y)
                .map(|(p, q)| i32::from(*p) * (i32::from(*q) - 128))
                .sum();
            for kernels in available() {
                assert_eq!(
                    (kernels.dot_codes)(x, y),
                    expected,
                    "{} len {len}",
                    kernels.name
                );
            }
        }
    }
}

#[test]
#[should_panic]
fn a_row_past_the_end_is_refused() {
    (available()[0].dot_rows)(&[0; 128], 64, &[3], &[0; 64], &mut [0]);
}
