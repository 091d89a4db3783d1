//! The index types, and what is told apart by type.

use redkite_types::DataType;

use crate::error::{Error, Result};

/// The index types this engine builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IndexType {
    /// Exact search over the raw vectors; the index itself is almost nothing.
    Flat,
    /// A navigable small-world graph on 8-bit codes, its best candidates scored exactly.
    Hnsw,
    /// [`IndexType::Hnsw`] with parameters of our choice: `M` 16, `efConstruction` 128.
    AutoIndex,
    /// [`IndexType::Hnsw`], with a say in how many candidates are scored exactly.
    HnswSq,
    /// Inverted lists, their rows scored exactly.
    IvfFlat,
    /// Inverted lists of 8-bit codes, the best candidates scored exactly.
    IvfSq8,
    /// Inverted lists of product-quantised codes, the best candidates scored exactly.
    IvfPq,
    /// [`IndexType::IvfPq`] with 4 bits for every `sub_dim` dimensions.
    Scann,
    /// Inverted lists of one bit a dimension, the best candidates scored exactly.
    IvfRabitq,
    /// Exact search over binary vectors; the index itself is almost nothing.
    BinFlat,
    /// Inverted lists of binary vectors, their rows scored exactly.
    BinIvfFlat,
    /// Lists of rows by dimension of sparse vectors.
    SparseInverted,
    /// [`IndexType::SparseInverted`], searched by the algorithm WAND.
    SparseWand,
    /// The graph of [`IndexType::Hnsw`], walked on product-quantised codes.
    HnswPq,
    /// A graph whose rows and links lie in pages of a mapped file, with 8-bit codes in memory.
    DiskAnn,
}

impl IndexType {
    /// Parses Milvus's name, in any case; an empty one is AUTOINDEX, as clients mean it.
    ///
    /// # Errors
    /// `InvalidIndexType`, the caller's fault.
    pub fn parse(name: &str) -> Result<Self> {
        match name.to_ascii_uppercase().as_str() {
            "FLAT" => Ok(Self::Flat),
            "HNSW" => Ok(Self::Hnsw),
            "AUTOINDEX" | "" => Ok(Self::AutoIndex),
            "HNSW_SQ" => Ok(Self::HnswSq),
            "IVF_FLAT" => Ok(Self::IvfFlat),
            "IVF_SQ8" => Ok(Self::IvfSq8),
            "IVF_PQ" => Ok(Self::IvfPq),
            "SCANN" => Ok(Self::Scann),
            "IVF_RABITQ" => Ok(Self::IvfRabitq),
            "BIN_FLAT" => Ok(Self::BinFlat),
            "BIN_IVF_FLAT" => Ok(Self::BinIvfFlat),
            "SPARSE_INVERTED_INDEX" => Ok(Self::SparseInverted),
            "SPARSE_WAND" => Ok(Self::SparseWand),
            "HNSW_PQ" => Ok(Self::HnswPq),
            "DISKANN" => Ok(Self::DiskAnn),
            _ => Err(Error::InvalidIndexType {
                index_type: name.to_owned(),
            }),
        }
    }

    /// Milvus's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flat => "FLAT",
            Self::Hnsw => "HNSW",
            Self::AutoIndex => "AUTOINDEX",
            Self::HnswSq => "HNSW_SQ",
            Self::IvfFlat => "IVF_FLAT",
            Self::IvfSq8 => "IVF_SQ8",
            Self::IvfPq => "IVF_PQ",
            Self::Scann => "SCANN",
            Self::IvfRabitq => "IVF_RABITQ",
            Self::BinFlat => "BIN_FLAT",
            Self::BinIvfFlat => "BIN_IVF_FLAT",
            Self::SparseInverted => "SPARSE_INVERTED_INDEX",
            Self::SparseWand => "SPARSE_WAND",
            Self::HnswPq => "HNSW_PQ",
            Self::DiskAnn => "DISKANN",
        }
    }

    /// The version of the file format in which an index of this type is written, unless its parameters or its
    /// dimensions need a newer one.
    pub(crate) const fn format_version(self) -> u32 {
        match self {
            Self::Flat | Self::Hnsw | Self::AutoIndex => 1,
            Self::HnswSq | Self::IvfFlat | Self::IvfSq8 | Self::IvfRabitq => 2,
            Self::IvfPq
            | Self::Scann
            | Self::HnswPq
            | Self::DiskAnn
            | Self::BinFlat
            | Self::BinIvfFlat
            | Self::SparseInverted
            | Self::SparseWand => 3,
        }
    }

    /// Whether an index of this type is meant to stay on disk: it is mapped when it is loaded,
    /// whatever is set, and so are the vectors of its field, unless they are set not to be.
    pub const fn is_on_disk(self) -> bool {
        matches!(self, Self::DiskAnn)
    }

    /// Whether a search goes by codes and looks at single vectors only, to score what it found exactly;
    /// over vectors of a type.
    pub const fn goes_by_codes(self, data_type: DataType) -> bool {
        match self {
            Self::AutoIndex => !matches!(
                data_type,
                DataType::BinaryVector | DataType::SparseFloatVector
            ),
            Self::Hnsw
            | Self::HnswSq
            | Self::HnswPq
            | Self::IvfSq8
            | Self::IvfPq
            | Self::Scann
            | Self::IvfRabitq
            | Self::DiskAnn => true,
            Self::Flat
            | Self::IvfFlat
            | Self::BinFlat
            | Self::BinIvfFlat
            | Self::SparseInverted
            | Self::SparseWand => false,
        }
    }

    /// Whether it is for binary vectors.
    pub const fn is_binary(self) -> bool {
        matches!(self, Self::BinFlat | Self::BinIvfFlat)
    }

    /// Whether it is for sparse vectors.
    pub const fn is_sparse(self) -> bool {
        matches!(self, Self::SparseInverted | Self::SparseWand)
    }

    /// Whether it is for dense vectors of numbers.
    pub const fn is_dense(self) -> bool {
        !self.is_binary() && !self.is_sparse()
    }

    /// Whether it is a graph in memory, walked by codes.
    pub const fn is_graph(self) -> bool {
        matches!(
            self,
            Self::Hnsw | Self::HnswSq | Self::HnswPq | Self::AutoIndex
        )
    }

    /// Whether its parameters have Milvus's `refine`, and its searches `refine_k`: how many candidates are
    /// scored exactly, in multiples of the limit.
    pub(super) const fn takes_refine(self) -> bool {
        matches!(self, Self::HnswSq | Self::HnswPq | Self::IvfRabitq)
    }

    /// Whether one may ask for hits with the scores of the codes.
    pub(crate) const fn may_go_unrefined(self) -> bool {
        self.takes_refine() || matches!(self, Self::Scann)
    }

    pub(super) const fn is_ivf(self) -> bool {
        matches!(
            self,
            Self::IvfFlat
                | Self::IvfSq8
                | Self::IvfPq
                | Self::Scann
                | Self::IvfRabitq
                | Self::BinIvfFlat
        )
    }
}
