//! Distance metrics.

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorCode, Result},
    schema::DataType,
};

/// How the distance of two vectors is measured, and how it is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MetricType {
    /// Squared Euclidean distance; smaller is nearer.
    L2,
    /// Inner product; larger is nearer.
    Ip,
    /// Cosine of the angle, in `[-1, 1]`; larger is nearer.
    Cosine,
    /// Bits that differ; smaller is nearer. Binary vectors only.
    Hamming,
    /// One minus the bits that both have by the bits that either has; smaller is nearer. Binary
    /// vectors only.
    Jaccard,
}

impl MetricType {
    /// Parses Milvus's name, in any case.
    ///
    /// # Errors
    /// Code 1100 when the metric is unknown; never worth a retry.
    pub fn parse(name: &str) -> Result<Self> {
        match name.to_ascii_uppercase().as_str() {
            "L2" => Ok(Self::L2),
            "IP" => Ok(Self::Ip),
            "COSINE" => Ok(Self::Cosine),
            "HAMMING" => Ok(Self::Hamming),
            "JACCARD" => Ok(Self::Jaccard),
            _ => Err(Error::invalid_parameter(format!(
                "metric type {name} not found or not supported, supported: [L2 IP COSINE]"
            ))),
        }
    }

    /// Parses the metric of a vector field of a type; an empty name is what Milvus takes then.
    ///
    /// # Errors
    /// Milvus's code and text when vectors of that type are not measured so; never worth a retry.
    pub fn parse_for(data_type: DataType, name: &str) -> Result<Self> {
        let metric = match (Self::parse(name), data_type) {
            (_, DataType::BinaryVector) if name.is_empty() => return Ok(Self::Hamming),
            (_, DataType::SparseFloatVector) if name.is_empty() => return Ok(Self::Ip),
            (_, _) if name.is_empty() => return Ok(Self::Cosine),
            (metric, _) => metric,
        };
        match (data_type, metric) {
            (DataType::BinaryVector, Ok(metric @ (Self::Hamming | Self::Jaccard))) => Ok(metric),
            (DataType::BinaryVector, _) => Err(Error::input(
                ErrorCode::Unexpected,
                format!(
                    "metric type {name} not found or not supported, supported: [HAMMING JACCARD]"
                ),
            )),
            (DataType::SparseFloatVector, Ok(Self::Ip)) => Ok(Self::Ip),
            (DataType::SparseFloatVector, _) if name.eq_ignore_ascii_case("BM25") => {
                Err(Error::input(
                    ErrorCode::UnsupportedOperation,
                    "unsupported operation: metric type BM25 is not served",
                ))
            }
            (DataType::SparseFloatVector, _) => Err(Error::invalid_parameter(
                "only IP&BM25 is the supported metric type for sparse index: invalid \
                 parameter[expected=valid index params][actual=invalid index params]",
            )),
            (_, Ok(metric @ (Self::L2 | Self::Ip | Self::Cosine))) => Ok(metric),
            (_, _) => Err(Error::invalid_parameter(format!(
                "metric type {name} not found or not supported, supported: [L2 IP COSINE]"
            ))),
        }
    }

    /// Milvus's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::L2 => "L2",
            Self::Ip => "IP",
            Self::Cosine => "COSINE",
            Self::Hamming => "HAMMING",
            Self::Jaccard => "JACCARD",
        }
    }

    /// Whether a larger score means nearer.
    pub const fn larger_is_nearer(self) -> bool {
        match self {
            Self::L2 | Self::Hamming | Self::Jaccard => false,
            Self::Ip | Self::Cosine => true,
        }
    }

    /// Orders two scores best first.
    pub fn compare(self, a: f32, b: f32) -> std::cmp::Ordering {
        if self.larger_is_nearer() {
            b.total_cmp(&a)
        } else {
            a.total_cmp(&b)
        }
    }
}

impl std::fmt::Display for MetricType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
