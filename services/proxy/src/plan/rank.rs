//! How a hybrid search puts the hits of its requests in one order.

use redkite_proto::milvus::schema::{FunctionScore, FunctionType};
use redkite_types::{Error, ErrorCode, Result};
use serde_json::{Map, Value};

use super::params::Params;

const DEFAULT_RRF_K: f64 = 60.0;
const MAX_RRF_K: f64 = 16_384.0;

/// The rule by which hits get their final scores.
#[derive(Clone, Debug, PartialEq)]
pub enum Ranker {
    /// Reciprocal rank fusion: the sum of `1 / (k + rank)` over the requests, ranks from 1.
    ///
    /// # Source
    /// Cormack, Clarke, Büttcher 2009.
    Rrf {
        /// Damps the weight of the first ranks.
        k: f32,
    },
    /// The weighted sum of the requests' scores.
    Weighted {
        /// One for each request, in `[0, 1]`.
        weights: Vec<f32>,
        /// Whether scores are brought to `[0, 1]` before.
        normalize: bool,
    },
}

/// How the rows of a group make the group's score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupScorer {
    /// The best row's.
    Max,
    /// The sum of the rows'.
    Sum,
    /// The mean of the rows'.
    Avg,
}

impl Ranker {
    /// Reads the rule from a function or, without one, from `strategy` and `params`; RRF when neither
    /// says anything.
    ///
    /// # Errors
    /// Code 1100 with Milvus's text for a parameter out of range, 3000 for a function that is not
    /// served.
    pub(super) fn take(params: &mut Params, function: Option<FunctionScore>) -> Result<Self> {
        let strategy = params.take("strategy");
        let text = params.take("params");
        match function {
            Some(function) => Self::from_function(function),
            None => Self::from_strategy(strategy, text),
        }
    }

    fn from_strategy(strategy: Option<String>, text: Option<String>) -> Result<Self> {
        let params: Map<String, Value> = match &text {
            None => Map::new(),
            Some(text) => serde_json::from_str(text).map_err(|_| {
                Error::invalid_parameter(format!("rank params [{text}] is not a JSON object"))
            })?,
        };
        match strategy.as_deref() {
            None | Some("rrf") => Self::rrf(params.get("k")),
            Some("weighted") => Self::weighted(
                params.get("weights"),
                // Clients that do not say so normalize.
                params.get("norm_score").unwrap_or(&Value::Bool(true)),
            ),
            Some(other) => Err(Error::invalid_parameter(format!(
                "unsupported rank type {other}"
            ))),
        }
    }

    fn from_function(score: FunctionScore) -> Result<Self> {
        let [function] = score.functions.as_slice() else {
            return Err(Error::invalid_parameter(format!(
                "Currently only supports one rerank, but got {}",
                score.functions.len()
            )));
        };
        if function.r#type != FunctionType::Rerank as i32 {
            return Err(Error::invalid_parameter(format!(
                "{} is not rerank function.",
                function.name
            )));
        }
        if !function.output_field_names.is_empty() {
            return Err(Error::invalid_parameter(format!(
                "Rerank function should not have output field, but now is {}",
                function.output_field_names.len()
            )));
        }
        let param = |key: &str| {
            let mut params = function.params.iter();
            params
                .find(|pair| pair.key.eq_ignore_ascii_case(key))
                .map(|pair| pair.value.as_str())
        };
        // A value that is no JSON (a Python boolean) stands for its text.
        let value = |key: &str| {
            param(key).map(|text| match text.to_ascii_lowercase().as_str() {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                _ => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
            })
        };
        let name = param("reranker").unwrap_or_default().to_ascii_lowercase();
        if matches!(name.as_str(), "rrf" | "weighted") && !function.input_field_names.is_empty() {
            return Err(Error::invalid_parameter(format!(
                "The {name} function does not support input parameters, but got [{}]",
                function.input_field_names.join(" ")
            )));
        }
        match name.as_str() {
            "rrf" => Self::rrf(value("k").as_ref()),
            "weighted" => Self::weighted(
                value("weights").as_ref(),
                value("norm_score").as_ref().unwrap_or(&Value::Bool(false)),
            ),
            _ => Err(Error::input(
                ErrorCode::UnsupportedOperation,
                format!("Unsupported rerank function: [{name}] , list of supported [rrf,weighted]"),
            )),
        }
    }

    fn rrf(k: Option<&Value>) -> Result<Self> {
        let k = match k {
            None => DEFAULT_RRF_K,
            Some(value) => value.as_f64().ok_or_else(|| {
                Error::invalid_parameter("The type of rank param k should be float")
            })?,
        };
        if !(k > 0.0 && k < MAX_RRF_K) {
            return Err(Error::invalid_parameter(format!(
                "The rank params k should be in range (0, {MAX_RRF_K})"
            )));
        }
        Ok(Self::Rrf { k: k as f32 })
    }

    fn weighted(weights: Option<&Value>, normalize: &Value) -> Result<Self> {
        let weights = weights
            .ok_or_else(|| Error::invalid_parameter("weights not found in rank_params"))?
            .as_array()
            .and_then(|weights| {
                weights
                    .iter()
                    .map(Value::as_f64)
                    .collect::<Option<Vec<f64>>>()
            })
            .filter(|weights| !weights.is_empty())
            .ok_or_else(|| {
                Error::invalid_parameter("The weights param should be an array of numbers")
            })?;
        if weights.iter().any(|weight| !(0.0..=1.0).contains(weight)) {
            return Err(Error::invalid_parameter(
                "rank param weight should be in range [0, 1]",
            ));
        }
        let normalize = normalize.as_bool().ok_or_else(|| {
            Error::invalid_parameter(format!(
                "norm_score params must be true/false, bug got {normalize}"
            ))
        })?;
        Ok(Self::Weighted {
            weights: weights.into_iter().map(|weight| weight as f32).collect(),
            normalize,
        })
    }

    /// Checks that the rule fits a number of requests.
    ///
    /// # Errors
    /// Code 1100.
    pub(super) fn check_requests(&self, requests: usize) -> Result<()> {
        match self {
            Self::Weighted { weights, .. } if weights.len() != requests => {
                Err(Error::invalid_parameter(format!(
                    "the length of weights param mismatch with ann search requests: invalid \
                     parameter[expected={requests}][actual={}]",
                    weights.len()
                )))
            }
            Self::Rrf { .. } | Self::Weighted { .. } => Ok(()),
        }
    }
}

impl GroupScorer {
    /// Reads `rank_group_scorer`.
    ///
    /// # Errors
    /// Code 1100 for one that Milvus does not know.
    pub(super) fn take(params: &mut Params) -> Result<Self> {
        match params.take("rank_group_scorer").as_deref() {
            None | Some("max") => Ok(Self::Max),
            Some("sum") => Ok(Self::Sum),
            Some("avg") => Ok(Self::Avg),
            Some(other) => Err(Error::invalid_parameter(format!(
                "input group scorer type: {other} is not supported!"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use redkite_proto::{convert::kv, milvus::schema::FunctionSchema};

    use super::*;

    fn by_strategy(pairs: &[(&str, &str)]) -> Result<Ranker> {
        Ranker::take(&mut Params::new(kv::from_iter(pairs.iter().copied())), None)
    }

    fn by_function(pairs: &[(&str, &str)]) -> Result<Ranker> {
        let function = FunctionSchema {
            name: "rank".to_owned(),
            r#type: FunctionType::Rerank.into(),
            params: kv::from_iter(pairs.iter().copied()),
            ..FunctionSchema::default()
        };
        let score = FunctionScore {
            functions: vec![function],
            params: Vec::new(),
        };
        Ranker::take(&mut Params::new(Vec::new()), Some(score))
    }

    #[test]
    fn both_forms_say_the_same() {
        let rrf = Ranker::Rrf { k: 10.0 };
        assert_eq!(
            by_strategy(&[("strategy", "rrf"), ("params", r#"{"k": 10}"#)]).unwrap(),
            rrf
        );
        assert_eq!(
            by_function(&[("reranker", "rrf"), ("k", "10")]).unwrap(),
            rrf
        );
        let weighted = |normalize| Ranker::Weighted {
            weights: vec![0.5, 1.0],
            normalize,
        };
        assert_eq!(
            by_strategy(&[
                ("strategy", "weighted"),
                ("params", r#"{"weights": [0.5, 1]}"#)
            ])
            .unwrap(),
            weighted(true)
        );
        assert_eq!(
            by_function(&[("reranker", "weighted"), ("weights", "[0.5, 1]")]).unwrap(),
            weighted(false)
        );
        let normalized = [
            ("reranker", "weighted"),
            ("weights", "[0.5, 1]"),
            ("norm_score", "True"),
        ];
        assert_eq!(by_function(&normalized).unwrap(), weighted(true));
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        for k in ["0", "16384", "-1"] {
            let params = format!(r#"{{"k": {k}}}"#);
            let error = by_strategy(&[("strategy", "rrf"), ("params", &params)]).unwrap_err();
            assert!(error.message.contains("in range (0, 16384)"), "{error}");
        }
        for weights in ["[1.5]", "[-0.1, 0.2]", "[]", "7"] {
            assert!(by_function(&[("reranker", "weighted"), ("weights", weights)]).is_err());
        }
        assert!(by_strategy(&[("strategy", "best")]).is_err());
        let error = by_function(&[("reranker", "decay")]).unwrap_err();
        assert_eq!(error.code, ErrorCode::UnsupportedOperation);
    }
}
