//! Every kernel this processor can run, against its scalar twin.

use half::{bf16, f16};

use super::{BLOCK_ROWS, BlockQuery, Half, Kernels, LINE_BYTES, available, scalar};
use crate::testing::Rng;

/// Every dimension up to this one is tried.
const MAX_DIM: usize = 4096;

/// Values or bytes that leave room for any alignment.
const ROOM: usize = MAX_DIM + 104;

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
            &kernels,
            &what,
            (kernels.l2_f32)(a, b),
            (scalar_l2())(a, b),
            l2_magnitude,
        );
        assert_close(
            &kernels,
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
    let a: Vec<f32> = (0..ROOM).map(|_| rng.gaussian()).collect();
    let b: Vec<f32> = (0..ROOM).map(|_| rng.gaussian()).collect();
    for dim in 0..=MAX_DIM {
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
        // Below the smallest normal number.
        1e-40,
        -f32::from_bits(1),
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
fn what_is_too_large_for_a_float_is_infinite() {
    for dim in 1..=130 {
        let (most, least) = (vec![f32::MAX; dim], vec![f32::MIN; dim]);
        for kernels in available() {
            assert_eq!((kernels.l2_f32)(&most, &least), f32::INFINITY);
            assert_eq!((kernels.l2_f32)(&most, &most), 0.0);
            assert_eq!((kernels.ip_f32)(&most, &most), f32::INFINITY);
            assert_eq!((kernels.ip_f32)(&most, &least), f32::NEG_INFINITY);
        }
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
    for lines in 1..=MAX_DIM / LINE_BYTES {
        let stride = lines * LINE_BYTES;
        let rows = 9;
        for extreme in [false, true] {
            let codes: Vec<u8> = (0..rows * stride + LINE_BYTES)
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
            // Rows need not be aligned for the result to be right.
            let codes = &codes[rng.below(LINE_BYTES)..];
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
                let square = |id: &u32| {
                    let row = &codes[*id as usize * stride..][..stride];
                    row.iter().map(|c| (i32::from(*c) - 128).pow(2)).sum()
                };
                let expected_squares: Vec<i32> = ids.iter().map(square).collect();
                for kernels in available() {
                    let mut out = vec![0; count];
                    (kernels.dot_rows)(codes, stride, &ids, &query, &mut out);
                    assert_eq!(out, expected, "{} lines {lines}", kernels.name);
                    if let Some(dots_and_squares) = kernels.dots_and_squares {
                        let mut squares = vec![0; count];
                        out.fill(0);
                        dots_and_squares(codes, stride, &ids, &query, &mut out, &mut squares);
                        assert_eq!(out, expected, "{} lines {lines}", kernels.name);
                        assert_eq!(squares, expected_squares, "{} {lines}", kernels.name);
                    }
                }
            }
        }
    }
}

#[test]
fn half_kernels_agree_with_the_definition() {
    let mut rng = Rng::from_env();
    for lines in 1..=MAX_DIM / LINE_BYTES {
        let stride = lines * LINE_BYTES;
        let rows = 9;
        for extreme in [None, Some(i8::MIN), Some(i8::MAX)] {
            let codes: Vec<u8> = (0..rows * stride + LINE_BYTES)
                .map(|_| extreme.map_or(rng.below(256) as u8, |_| 255))
                .collect();
            let query: Vec<i8> = (0..stride)
                .map(|_| extreme.unwrap_or(rng.below(256) as u8 as i8))
                .collect();
            let codes = &codes[rng.below(LINE_BYTES)..];
            for (half, count) in (0..=rows).flat_map(|n| [(Half::High, n), (Half::Low, n)]) {
                let ids: Vec<u32> = (0..count).map(|_| rng.below(rows) as u32).collect();
                let code = |id: u32, dim: usize| {
                    let (group, within) = (dim / 64, dim % 64);
                    let at = id as usize * stride + half.offset(stride) + group * 32 + within % 32;
                    i32::from(if within < 32 {
                        codes[at] & 15
                    } else {
                        codes[at] >> 4
                    })
                };
                let dot = |id: &u32| {
                    let products = query.iter().enumerate();
                    products
                        .map(|(dim, q)| code(*id, dim) * i32::from(*q))
                        .sum()
                };
                let expected: Vec<i32> = ids.iter().map(dot).collect();
                for kernels in available() {
                    let mut out = vec![0; count];
                    (kernels.dot_halves)(codes, stride, half, &ids, &query, &mut out);
                    assert_eq!(out, expected, "{} {half:?} lines {lines}", kernels.name);
                }
            }
        }
    }
}

#[test]
#[should_panic]
fn a_half_of_a_row_past_the_end_is_refused() {
    (available()[0].dot_halves)(&[0; 128], 64, Half::Low, &[2], &[0; 64], &mut [0]);
}

#[test]
fn code_kernels_agree_with_the_definition_in_every_length_and_alignment() {
    let mut rng = Rng::from_env();
    let a: Vec<u8> = (0..ROOM).map(|_| rng.below(256) as u8).collect();
    let b: Vec<u8> = (0..ROOM).map(|_| rng.below(256) as u8).collect();
    let (zeros, full) = (vec![0u8; ROOM], vec![255u8; ROOM]);
    for len in 0..=MAX_DIM {
        let (a_shift, b_shift) = (rng.below(65), rng.below(65));
        for (x, y) in [(&a, &b), (&zeros, &full), (&full, &zeros), (&full, &full)] {
            let (x, y) = (&x[a_shift..][..len], &y[b_shift..][..len]);
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

/// Values as f32 and the same rounded to a half type.
fn halves<T: From16>(values: &[f32]) -> Vec<T> {
    values.iter().map(|value| T::round(*value)).collect()
}

trait From16: Copy + Into<f32> {
    fn round(value: f32) -> Self;
}

impl From16 for f16 {
    fn round(value: f32) -> Self {
        f16::from_f32(value)
    }
}

impl From16 for bf16 {
    fn round(value: f32) -> Self {
        bf16::from_f32(value)
    }
}

type Pair<T> = fn(&[T], &[T]) -> f32;

fn check_halves<T: From16>(
    a: &[T],
    b: &[T],
    l2: impl Fn(&Kernels) -> Pair<T>,
    ip: impl Fn(&Kernels) -> Pair<T>,
) {
    let pairs = || {
        a.iter().zip(b).map(|(x, y)| {
            let (x, y): (f32, f32) = ((*x).into(), (*y).into());
            (f64::from(x), f64::from(y))
        })
    };
    let exact_l2: f64 = pairs().map(|(x, y)| (x - y) * (x - y)).sum();
    let exact_ip: f64 = pairs().map(|(x, y)| x * y).sum();
    let magnitude: f64 = pairs().map(|(x, y)| (x * y).abs()).sum();
    for kernels in available() {
        let what = format!("{} of {}", std::any::type_name::<T>(), a.len());
        let (l2, ip) = (l2(&kernels)(a, b), ip(&kernels)(a, b));
        assert_close(&kernels, &what, l2, exact_l2 as f32, exact_l2);
        assert_close(&kernels, &what, ip, exact_ip as f32, magnitude);
    }
}

#[test]
fn half_kernels_agree_with_the_definition_in_every_dimension_and_alignment() {
    let mut rng = Rng::from_env();
    // The largest finite f16 is 65504; the smallest normal one 6.1e-5.
    let extremes = [0.0, -0.0, 65504.0, -65504.0, 6.2e-5, -6.2e-5, 1.0];
    for extreme in [false, true] {
        let mut draw = || -> Vec<f32> {
            (0..ROOM)
                .map(|_| match extreme {
                    true => extremes[rng.below(extremes.len())],
                    false => rng.gaussian(),
                })
                .collect()
        };
        let (a, b) = (draw(), draw());
        let (a16, b16): (Vec<f16>, Vec<f16>) = (halves(&a), halves(&b));
        let (ab16, bb16): (Vec<bf16>, Vec<bf16>) = (halves(&a), halves(&b));
        for dim in 0..=MAX_DIM {
            let (p, q) = (rng.below(33), rng.below(33));
            check_halves(
                &a16[p..][..dim],
                &b16[q..][..dim],
                |k| k.l2_f16,
                |k| k.ip_f16,
            );
            check_halves(
                &ab16[p..][..dim],
                &bb16[q..][..dim],
                |k| k.l2_bf16,
                |k| k.ip_bf16,
            );
        }
    }
}

#[test]
fn int8_kernels_are_exact_in_every_dimension_and_alignment() {
    let mut rng = Rng::from_env();
    let random =
        |rng: &mut Rng| -> Vec<i8> { (0..33_000).map(|_| rng.below(256) as u8 as i8).collect() };
    let (a, b) = (random(&mut rng), random(&mut rng));
    let (low, high) = (vec![i8::MIN; 33_000], vec![i8::MAX; 33_000]);
    for (x, y) in [(&a, &b), (&low, &high), (&low, &low), (&high, &high)] {
        for dim in (0..=MAX_DIM).chain([32_768]) {
            let (x, y) = (&x[rng.below(65)..][..dim], &y[rng.below(65)..][..dim]);
            let pairs = || x.iter().zip(y).map(|(p, q)| (i64::from(*p), i64::from(*q)));
            let l2: i64 = pairs().map(|(p, q)| (p - q) * (p - q)).sum();
            let ip: i64 = pairs().map(|(p, q)| p * q).sum();
            for kernels in available() {
                let found = ((kernels.l2_i8)(x, y), (kernels.ip_i8)(x, y));
                let expected = (l2 as i32, ip as i32);
                assert_eq!(found, expected, "{} of {dim}", kernels.name);
            }
        }
    }
}

#[test]
fn bit_kernels_are_exact_in_every_length_and_alignment() {
    let mut rng = Rng::from_env();
    let random = |rng: &mut Rng| -> Vec<u8> { (0..ROOM).map(|_| rng.below(256) as u8).collect() };
    let (a, b) = (random(&mut rng), random(&mut rng));
    let (none, all) = (vec![0u8; ROOM], vec![255u8; ROOM]);
    for (x, y) in [(&a, &b), (&none, &all), (&all, &all), (&none, &none)] {
        // Bits of every dimension, and some beyond.
        for bytes in (0..=MAX_DIM / 8).chain([1023, 1025, 2047, 4095, 4096]) {
            let (x, y) = (&x[rng.below(65)..][..bytes], &y[rng.below(65)..][..bytes]);
            let bit = |row: &[u8], at: usize| row[at / 8] >> (at % 8) & 1 == 1;
            let (mut differ, mut both, mut either) = (0, 0, 0);
            for at in 0..bytes * 8 {
                let (p, q) = (bit(x, at), bit(y, at));
                differ += u32::from(p != q);
                both += u32::from(p && q);
                either += u32::from(p || q);
            }
            for kernels in available() {
                assert_eq!(
                    (kernels.hamming)(x, y),
                    differ,
                    "{} of {bytes}",
                    kernels.name
                );
                let common = (kernels.common_bits)(x, y);
                assert_eq!(common, (both, either), "{} of {bytes}", kernels.name);
            }
        }
    }
}

#[test]
fn blocks_of_codes_give_the_same_bits_on_every_kernel() {
    let mut rng = Rng::from_env();
    // 257 parts of the largest entry fill 16 bits; more wrap around, alike everywhere.
    for parts in (4..=260).step_by(4).chain([512, 1024]) {
        for round in 0..6 {
            let mut draw = |fixed: Option<u8>| -> Vec<u8> {
                let byte = |_| fixed.unwrap_or_else(|| rng.below(256) as u8);
                (0..parts * 16 + 1).map(byte).collect()
            };
            let block = draw((round == 1).then_some(255));
            let tables = draw((round < 2).then_some(255));
            let shift = round % 2;
            let mut add: [f32; BLOCK_ROWS] = std::array::from_fn(|_| rng.gaussian() * 50.0);
            if round == 3 {
                (add[5], add[31]) = (f32::NAN, f32::INFINITY);
            }
            let mut query = BlockQuery {
                tables: &tables[shift..][..parts * 16],
                base: rng.gaussian() * 10.0,
                step: rng.unit() as f32,
                limit: f32::INFINITY,
            };
            let block = &block[shift..][..parts * 16];
            let mut expected = [0f32; BLOCK_ROWS];
            let all = (scalar::KERNELS.score_block)(block, &query, &add, &mut expected);
            assert_eq!(all, u32::MAX, "nothing lies above no limit");
            // A key itself, so that one row lies on the limit.
            for limit in [f32::INFINITY, f32::NEG_INFINITY, expected[rng.below(32)]] {
                query.limit = limit;
                let wanted = (scalar::KERNELS.score_block)(block, &query, &add, &mut expected);
                for kernels in available() {
                    let mut keys = [7f32; BLOCK_ROWS];
                    let found = (kernels.score_block)(block, &query, &add, &mut keys);
                    assert_eq!(found, wanted, "{} {parts} parts {limit}", kernels.name);
                    for (key, expected) in keys.iter().zip(&expected) {
                        let is_same = key.to_bits() == expected.to_bits();
                        assert!(
                            is_same || key.is_nan() && expected.is_nan(),
                            "{}",
                            kernels.name
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn the_scalar_block_agrees_with_the_definition() {
    let mut rng = Rng::from_env();
    let parts = 8;
    let codes: Vec<[u8; BLOCK_ROWS]> = (0..parts)
        .map(|_| std::array::from_fn(|_| rng.below(16) as u8))
        .collect();
    let tables: Vec<u8> = (0..parts * 16).map(|_| rng.below(256) as u8).collect();
    let block: Vec<u8> = codes
        .iter()
        .flat_map(|part| (0..16).map(|i| part[i] | part[16 + i] << 4))
        .collect();
    let query = BlockQuery {
        tables: &tables,
        base: 1.0,
        step: 0.5,
        limit: 400.0,
    };
    let mut keys = [0f32; BLOCK_ROWS];
    let wanted = (scalar::KERNELS.score_block)(&block, &query, &[3.0; BLOCK_ROWS], &mut keys);
    for (row, key) in keys.iter().enumerate() {
        let found = codes
            .iter()
            .enumerate()
            .map(|(part, codes)| u32::from(tables[part * 16 + usize::from(codes[row])]));
        assert_eq!(*key, 4.0 + 0.5 * found.sum::<u32>() as f32);
        assert_eq!(wanted >> row & 1 == 1, *key <= 400.0);
    }
}
