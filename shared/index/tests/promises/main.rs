//! What holds for every type of index: filters, damaged files, parameters, progress.

#![allow(clippy::unwrap_used, reason = "a test that fails should panic")]

mod damage;
mod filters;
mod parameters;
mod progress;

use redkite_index::{
    BuildOptions, ColumnIndex, ColumnIndexParams, ColumnRows, Hit, Queries, SearchParams,
};
use redkite_types::{BitSet, ColumnData, DataType, MetricType, PackedBuffer, StopFlag, sparse};
use serde_json::{Map, Value};

/// A type of index: the vectors it is for, its name and metric, parameters that suit small data.
pub(crate) struct Kind {
    pub(crate) data: DataType,
    pub(crate) name: &'static str,
    pub(crate) metric: MetricType,
    pub(crate) build: &'static [(&'static str, &'static str)],
}

const fn float(
    name: &'static str,
    metric: MetricType,
    build: &'static [(&'static str, &'static str)],
) -> Kind {
    Kind {
        data: DataType::FloatVector,
        name,
        metric,
        build,
    }
}

/// Every type.
pub(crate) const KINDS: [Kind; 15] = [
    float("FLAT", MetricType::Cosine, &[]),
    float(
        "HNSW",
        MetricType::L2,
        &[("M", "12"), ("efConstruction", "80")],
    ),
    float(
        "HNSW_SQ",
        MetricType::Cosine,
        &[("M", "12"), ("efConstruction", "80")],
    ),
    float(
        "HNSW_PQ",
        MetricType::L2,
        &[("M", "12"), ("efConstruction", "80"), ("m", "12")],
    ),
    float("AUTOINDEX", MetricType::Cosine, &[]),
    float("IVF_FLAT", MetricType::L2, &[("nlist", "32")]),
    float("IVF_SQ8", MetricType::Cosine, &[("nlist", "32")]),
    float("IVF_PQ", MetricType::L2, &[("nlist", "32"), ("m", "12")]),
    float("SCANN", MetricType::L2, &[("nlist", "32")]),
    float("IVF_RABITQ", MetricType::L2, &[("nlist", "32")]),
    float(
        "DISKANN",
        MetricType::L2,
        &[("max_degree", "24"), ("search_list_size", "60")],
    ),
    Kind {
        data: DataType::BinaryVector,
        name: "BIN_FLAT",
        metric: MetricType::Jaccard,
        build: &[],
    },
    Kind {
        data: DataType::BinaryVector,
        name: "BIN_IVF_FLAT",
        metric: MetricType::Hamming,
        build: &[("nlist", "32")],
    },
    Kind {
        data: DataType::SparseFloatVector,
        name: "SPARSE_INVERTED_INDEX",
        metric: MetricType::Ip,
        build: &[],
    },
    Kind {
        data: DataType::SparseFloatVector,
        name: "SPARSE_WAND",
        metric: MetricType::Ip,
        build: &[],
    },
];

impl Kind {
    pub(crate) fn params(&self, more: &[(&str, &str)]) -> redkite_types::Result<ColumnIndexParams> {
        let own = [
            ("index_type", self.name),
            ("metric_type", self.metric.name()),
        ];
        let own = own.iter().chain(self.build).filter(|(key, _)| {
            // What is said twice is said by the caller.
            more.iter().all(|(other, _)| other != key)
        });
        let pairs = own.chain(more);
        let pairs: Vec<_> = pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        ColumnIndexParams::from_pairs(self.data, &pairs)
    }

    pub(crate) fn build(&self, more: &[(&str, &str)], column: &ColumnData) -> ColumnIndex {
        let stop = StopFlag::new();
        let options = BuildOptions {
            threads: 1,
            seed: 3,
            progress: None,
            stop: &stop,
        };
        let rows = ColumnRows::of(column).unwrap();
        ColumnIndex::build(&self.params(more).unwrap(), &rows, &options).unwrap()
    }

    pub(crate) fn search_params(&self, params: &Value) -> redkite_types::Result<SearchParams> {
        let params: Map<String, Value> = params.as_object().unwrap().clone();
        let index_type = self.params(&[])?.index_type();
        SearchParams::parse_for(self.data, index_type, &params)
            .map_err(|error| redkite_types::Error::from_coded(&error))
    }
}

pub(crate) fn bytes_of(index: &ColumnIndex) -> Vec<u8> {
    let mut bytes = Vec::new();
    index.write(&mut bytes).unwrap();
    bytes
}

pub(crate) fn search(
    index: &ColumnIndex,
    column: &ColumnData,
    queries: &Queries,
    params: &SearchParams,
    allow: Option<&BitSet>,
    k: usize,
) -> redkite_index::Result<Vec<Vec<Hit>>> {
    let (rows, stop) = (ColumnRows::of(column).unwrap(), StopFlag::new());
    let one = |query| {
        let mut hits = Vec::new();
        index.search(
            queries.get(query),
            Some(&rows),
            params,
            allow,
            k,
            &stop,
            &mut hits,
        )?;
        Ok(hits)
    };
    (0..queries.len()).map(one).collect()
}

/// Small, seeded, and the same on every machine.
pub(crate) struct Rng(u64);

impl Rng {
    /// Seeded from `REDKITE_TEST_SEED`, else fixed; prints the seed.
    pub(crate) fn from_env() -> Self {
        let given = std::env::var("REDKITE_TEST_SEED").ok();
        let seed = given
            .and_then(|text| text.parse().ok())
            .unwrap_or(20_200_415);
        println!("seed={seed}");
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub(crate) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 24) as f32
    }

    /// About normally distributed.
    fn bell(&mut self) -> f32 {
        (0..6).map(|_| self.unit()).sum::<f32>() - 3.0
    }
}

/// Clusters of a column; a row is in that of its number modulo this.
pub(crate) const CLUSTERS: usize = 20;

/// Vectors in clusters, of the type that a kind is for.
pub(crate) fn column(data: DataType, rows: usize, dim: usize, rng: &mut Rng) -> ColumnData {
    let centres: Vec<f32> = (0..CLUSTERS * dim).map(|_| rng.bell() * 2.0).collect();
    let mut values = Vec::with_capacity(rows * dim);
    for row in 0..rows {
        let centre = row % CLUSTERS;
        for at in 0..dim {
            values.push(centres[centre * dim + at] + rng.bell());
        }
    }
    match data {
        DataType::BinaryVector => {
            let bits = |eight: &[f32]| {
                let ones = eight.iter().enumerate();
                ones.fold(0, |byte, (bit, x)| byte | u8::from(*x > 0.5) << bit)
            };
            ColumnData::PackedVector {
                kind: data,
                dim,
                values: PackedBuffer::from(values.chunks(8).map(bits).collect::<Vec<u8>>()),
            }
        }
        DataType::SparseFloatVector => {
            let row = |values: &[f32]| {
                let pairs = (0..dim as u32).zip(values.iter().copied());
                sparse::encode(&pairs.filter(|(_, x)| *x > 0.5).collect::<Vec<_>>())
            };
            ColumnData::SparseVector(values.chunks(dim).map(row).collect())
        }
        _ => ColumnData::FloatVector {
            dim,
            values: values.into(),
        },
    }
}

/// Some rows of a column as queries.
pub(crate) fn queries(column: &ColumnData, rows: impl Iterator<Item = usize>) -> Queries {
    let rows: Vec<Vec<u8>> = rows
        .map(|row| column.vector_bytes(row).unwrap().into_owned())
        .collect();
    let lengths: Vec<u32> = match column.data_type() {
        DataType::SparseFloatVector => rows.iter().map(|row| row.len() as u32).collect(),
        _ => Vec::new(),
    };
    let (count, bytes) = (rows.len(), rows.concat().into());
    Queries::decode(column.data_type(), column.dim(), count, &bytes, &lengths).unwrap()
}
