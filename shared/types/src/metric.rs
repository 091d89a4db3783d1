//! Distance metrics of dense vectors.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How the distance of two dense float vectors is measured, and how it is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MetricType {
    /// Squared Euclidean distance; smaller is nearer.
    L2,
    /// Inner product; larger is nearer.
    Ip,
    /// Cosine of the angle, in `[-1, 1]`; larger is nearer.
    Cosine,
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
            _ => Err(Error::invalid_parameter(format!(
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
        }
    }

    /// Whether a larger score means nearer.
    pub const fn larger_is_nearer(self) -> bool {
        match self {
            Self::L2 => false,
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
