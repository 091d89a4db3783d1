//! The vectorised evaluation against the plain meaning, on random filters and rows with nulls.

mod common;

use common::{generate::filters, naive::Row};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use redkite_expr::{Plan, compile, eval, eval_among};
use redkite_types::BitSet;

#[test]
fn evaluation_agrees_with_the_naive_one() {
    let schema = common::schema();
    let templates = Default::default();
    let compiled = std::cell::Cell::new(0);
    let config = common::config(800);
    let cases = (filters(), any::<u64>(), 0usize..150, any::<u64>());
    let result = TestRunner::new(config.clone()).run(&cases, |(filter, seed, rows, mask)| {
        let text = filter.to_string();
        // Random arithmetic overflows or divides by zero now and then; that is an error by design.
        let Ok(plan) = compile(&text, &templates, &schema) else {
            return Ok(());
        };
        compiled.set(compiled.get() + 1);
        let batch = common::rows(seed, rows);
        let want = BitSet::from_fn(rows, |row| {
            let (schema, batch) = (&schema, &batch);
            Row { schema, batch, row }.answer(&filter) == Some(true)
        });
        let found = eval(&plan, &batch, rows).unwrap();
        for row in 0..rows {
            let cells: Vec<_> = batch.columns().iter().map(|c| c.value(row)).collect();
            prop_assert_eq!(
                found.get(row),
                want.get(row),
                "{} on {:?}\n{:?}",
                text,
                cells,
                plan
            );
        }

        let among = BitSet::from_fn(rows, |row| mask >> (row % 64) & 1 == 1);
        let mut want_among = want.clone();
        want_among.and(&among);
        prop_assert_eq!(eval_among(&plan, &batch, &among).unwrap(), want_among);

        let decoded = Plan::decode(&plan.encode().unwrap()).unwrap();
        prop_assert_eq!(&decoded, &plan);
        Ok(())
    });
    result.unwrap();
    let (compiled, cases) = (compiled.get(), config.cases);
    assert!(
        compiled > cases / 2,
        "only {compiled} of {cases} filters fit the schema"
    );
}
