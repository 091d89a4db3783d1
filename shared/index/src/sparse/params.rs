//! How an index of sparse vectors is built.

use serde_json::{Map, Value};

use crate::{
    error::{Error, Result},
    params::{IndexType, MMAP_KEY, boolean, ratio, unknown},
};

/// How lists are gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SparseAlgorithm {
    /// One list after the other.
    TaatNaive,
    /// Row by row, skipping those that cannot be near enough by a pivot.
    DaatWand,
    /// Row by row of the lists that can make a row near enough by themselves.
    DaatMaxScore,
}

impl SparseAlgorithm {
    const ALL: [(Self, &'static str); 3] = [
        (Self::TaatNaive, "TAAT_NAIVE"),
        (Self::DaatWand, "DAAT_WAND"),
        (Self::DaatMaxScore, "DAAT_MAXSCORE"),
    ];

    fn parse(name: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(_, known)| *known == name);
        found.map(|(algorithm, _)| *algorithm).ok_or_else(|| {
            Error::invalid(format!(
                "sparse inverted index algo {name} not found or not supported, supported: \
                 [TAAT_NAIVE DAAT_WAND DAAT_MAXSCORE]"
            ))
        })
    }

    /// Its number in a file.
    pub(super) const fn encode(self) -> usize {
        match self {
            Self::TaatNaive => 1,
            Self::DaatWand => 2,
            Self::DaatMaxScore => 3,
        }
    }

    pub(super) fn decode(number: usize) -> Option<Self> {
        let mut all = Self::ALL.iter().map(|(algorithm, _)| *algorithm);
        all.find(|algorithm| algorithm.encode() == number)
    }
}

/// What to build.
#[derive(Clone, Debug, PartialEq)]
pub struct SparseParams {
    /// SPARSE_INVERTED_INDEX, SPARSE_WAND, or AUTOINDEX, which is the former.
    pub index_type: IndexType,
    /// How lists are gone through.
    pub algorithm: SparseAlgorithm,
    /// Part of all values, the smallest ones, that candidates are found without; at least 0, below 1.
    pub drop_ratio_build: f32,
}

impl SparseParams {
    /// Parses what a client sends.
    ///
    /// # Errors
    /// `InvalidParameter` for a parameter that is unknown, of the wrong type or out of range, with
    /// Milvus's text; the caller's fault.
    pub(crate) fn parse(index_type: IndexType, params: &Map<String, Value>) -> Result<Self> {
        let mut parsed = Self {
            index_type,
            algorithm: match index_type {
                IndexType::SparseWand => SparseAlgorithm::DaatWand,
                _ => SparseAlgorithm::DaatMaxScore,
            },
            drop_ratio_build: 0.0,
        };
        for (key, value) in params {
            match (key.as_str(), index_type) {
                ("index_type" | "metric_type", _) => {}
                // How it is loaded, not how it is built.
                (MMAP_KEY, _) => {
                    boolean(key, value)?;
                }
                (_, IndexType::AutoIndex) => {
                    return Err(Error::invalid(format!(
                        "only metric type can be passed when use AutoIndex, not '{key}'"
                    )));
                }
                ("drop_ratio_build", _) => parsed.drop_ratio_build = ratio(key, value)?,
                ("inverted_index_algo", IndexType::SparseInverted) => {
                    let name = value.as_str().unwrap_or_default();
                    parsed.algorithm = SparseAlgorithm::parse(name)?;
                }
                _ => return Err(unknown(key, index_type)),
            }
        }
        Ok(parsed)
    }
}
