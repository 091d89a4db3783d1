//! The vector engine of Redkite: distance kernels, quantised codes, exact and graph indexes.
//!
//! Owns how vectors are compared, found and kept in index files. Pure and synchronous: it knows
//! nothing of collections, timestamps, networks or async runtimes, starts no thread but those of a
//! build, and holds no copy of the raw vectors (a segment lends them through [`RawVectors`]).
//!
//! | module | idea |
//! | --- | --- |
//! | `kernel` | distances for each instruction set, chosen at run time; all `unsafe` code lives there |
//! | `sq8` | mean-centred scalar quantisation to one byte a dimension |
//! | `codes` | the rows a graph walks on: padded, aligned, compared with a prepared query |
//! | `raw` | borrowed raw vectors and exact scores as Milvus reports them |
//! | `topk` | the best k of a stream of hits |
//! | `flat` | exact search, and the brute force used for growing data |
//! | `hnsw` | the graph: build, search, filters, range search |
//! | `diskann` | a graph of one level whose rows and links lie in pages of a mapped file |
//! | `product` | product-quantised codes of single rows, for a walk |
//! | `ivf` | inverted lists: IVF_FLAT, IVF_SQ8, IVF_PQ, SCANN, IVF_RABITQ |
//! | `allowed`, `rerank` | what a filter leaves; exact scores of candidates |
//! | `margin`, `ranked` | when scoring candidates may end; as many of them as can count |
//! | `scoring` | scores of hits by their codes alone |
//! | `effort`, `together` | how many lists a search visits; queries that visit the same ones |
//! | `binary`, `sparse` | indexes of binary and of sparse vectors |
//! | `rows`, `column` | columns, queries and indexes of vectors of any type |
//! | `params` | Milvus's names, ranges and error texts of index and search parameters |
//! | `buffer`, `random` | aligned bytes; the seeded generator of the levels |
//! | `file` | the versioned, checksummed file format, opened without decoding |
//! | `index` | the trait the segment crate uses, `build` and `open` |

#[cfg(target_endian = "big")]
compile_error!("index files are little-endian and read in place");

mod allowed;
mod binary;
mod buffer;
mod codes;
mod column;
mod diskann;
mod effort;
mod error;
mod file;
mod flat;
mod hnsw;
mod in_file;
mod index;
mod ivf;
#[allow(unsafe_code, reason = "instructions and mapped files")]
mod kernel;
mod margin;
mod params;
mod product;
mod random;
mod ranked;
mod raw;
mod rerank;
mod rows;
mod scoring;
mod sparse;
mod sq8;
#[cfg(test)]
mod testing;
mod together;
mod topk;

pub use binary::{BinaryIndex, BinaryParams, BinaryRows};
pub use buffer::AlignedBuffer;
pub use column::{ColumnIndex, ColumnIndexParams};
pub use diskann::DiskIndex;
pub use error::{Error, Result};
pub use file::{VERSION as FORMAT_VERSION, version_of};
pub use flat::{FlatIndex, scan_range, scan_raw_range, scan_raw_topk, scan_topk};
pub use hnsw::HnswIndex;
pub use in_file::ReadAt;
pub use index::{
    BuildOptions, Hit, VectorIndex, build, build_raw, load, open, open_file, open_mapped,
    open_verified,
};
pub use ivf::IvfIndex;
pub use kernel::map_file;
pub use params::{IndexParams, IndexType, RangeBounds, SearchParams};
pub use raw::{Element, RawRow, RawSlice, RawVectors, RowReader, RowRoom};
pub use rows::{ColumnRows, DenseRows, Queries, Query, SparseQuery};
pub use sparse::{SparseAlgorithm, SparseIndex, SparseParams, SparseRows};

/// Name of the kernels in use on this processor, for logs and benchmarks.
pub fn kernel_name() -> &'static str {
    kernel::kernels().name
}
