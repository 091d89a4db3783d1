//! No text, no tree and no bytes make it panic, and a printed tree parses to itself.

mod common;

use common::generate::filters;
use proptest::prelude::*;
use redkite_expr::{Plan, compile, parse};

fn words() -> impl Strategy<Value = String> {
    let word = prop::sample::select(
        &[
            "a",
            "id",
            "text",
            "meta",
            "$meta",
            "[\"k\"]",
            "[0]",
            "[",
            "]",
            "(",
            ")",
            "{",
            "}",
            "{x}",
            ",",
            "==",
            "!=",
            "<",
            "<=",
            ">",
            ">=",
            "and",
            "or",
            "not",
            "!",
            "&&",
            "||",
            "in",
            "like",
            "is",
            "null",
            "exists",
            "json_contains",
            "1",
            "0x1f",
            "1.5",
            "9e999",
            "'a%'",
            "\"",
            "'",
            "\\",
            "true",
            "+",
            "-",
            "*",
            "**",
            "/",
            "%",
            "é",
            "\u{0}",
        ][..],
    );
    prop::collection::vec(word, 0..30).prop_map(|words| words.join(" "))
}

proptest! {
    #![proptest_config(common::config(600))]

    #[test]
    fn random_text_is_survived(text in prop_oneof![any::<String>(), words(), words().prop_map(|w| w.replace(' ', ""))]) {
        let _ = compile(&text, &Default::default(), &common::schema());
    }

    #[test]
    fn a_printed_tree_parses_to_itself(filter in filters()) {
        let printed = filter.to_string();
        let parsed = parse(&printed).unwrap().unwrap();
        prop_assert_eq!(parsed.to_string(), printed.clone());
        let schema = common::schema();
        // The position is another one, the plan or the problem must not be.
        let again = compile(&parsed.to_string(), &Default::default(), &schema);
        prop_assert_eq!(compile(&printed, &Default::default(), &schema), again);
    }

    #[test]
    fn broken_bytes_are_refused_or_evaluated(
        filter in filters(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let schema = common::schema();
        let Ok(plan) = compile(&filter.to_string(), &Default::default(), &schema) else {
            return Ok(());
        };
        let mut bytes = plan.encode().unwrap();
        for (place, byte) in &damage {
            let place = place.index(bytes.len());
            bytes[place] = *byte;
        }
        if damage.len() % 2 == 1 {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(plan) = Plan::decode(&bytes) {
            let batch = common::rows(1, 70);
            let _ = redkite_expr::eval(&plan, &batch, 70);
        }
    }
}

#[test]
fn deep_filters_compile_and_evaluate_on_a_small_stack() {
    let check = || {
        let schema = common::schema();
        let batch = common::rows(1, 70);
        for text in [
            "(".repeat(490) + "id > 1" + &")".repeat(490),
            "not (flag or ".repeat(160) + "id > 1" + &")".repeat(160),
            "-".repeat(490) + "id > 1",
            "id".to_owned() + &" + 1".repeat(490) + " > 1",
            "((".repeat(120) + "(id > 1)" + &" == false) == true)".repeat(120),
        ] {
            let plan = compile(&text, &Default::default(), &schema).unwrap();
            let decoded = Plan::decode(&plan.encode().unwrap()).unwrap();
            assert_eq!(plan, decoded);
            redkite_expr::eval(&decoded, &batch, 70).unwrap();
            assert!(!parse(&text).unwrap().unwrap().to_string().is_empty());
        }
        // A chain of nots as bytes: the decoder must not follow it down.
        let mut bytes = Plan::all().encode().unwrap();
        bytes.splice(2..3, [0xa1, 0x8d, 0x06]);
        bytes.extend([2; 100_000]);
        assert!(Plan::decode(&bytes).is_err());
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(check);
    thread.unwrap().join().unwrap();
}
