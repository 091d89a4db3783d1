//! Shapes of searches that were parsed before: clients send the same search again and again, with other
//! vectors.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState},
    sync::Arc,
};

use parking_lot::RwLock;
use redkite_catalog::CollectionEntry;
use redkite_proto::milvus::{common::KeyValuePair, milvus::SearchRequest};
use redkite_types::Result;

use super::SearchShape;

/// Shapes that are kept.
const CAPACITY: usize = 256;
/// A longer request is parsed each time: comparing it would take about as long, and keeping it much
/// memory.
const LONGEST: usize = 2 << 10;

/// The shapes of the last searches.
#[derive(Default)]
pub struct Shapes {
    known: RwLock<HashMap<u64, Known>>,
    hasher: RandomState,
}

/// A shape and what it was made of.
struct Known {
    /// The collection as it was then: a change of anything in it makes another entry.
    entry: Arc<CollectionEntry>,
    dsl: String,
    partition_names: Vec<String>,
    output_fields: Vec<String>,
    search_params: Vec<KeyValuePair>,
    shape: Arc<SearchShape>,
}

impl Known {
    fn is_of(&self, entry: &Arc<CollectionEntry>, request: &SearchRequest) -> bool {
        Arc::ptr_eq(&self.entry, entry)
            && self.search_params == request.search_params
            && self.dsl == request.dsl
            && self.output_fields == request.output_fields
            && self.partition_names == request.partition_names
    }
}

impl Shapes {
    /// The shape of a request.
    ///
    /// # Errors
    /// As [`SearchShape::parse`].
    pub(super) fn of(
        &self,
        entry: &Arc<CollectionEntry>,
        request: &SearchRequest,
    ) -> Result<Arc<SearchShape>> {
        if !request.expr_template_values.is_empty() || length(request) > LONGEST {
            return SearchShape::parse(entry, request, None).map(Arc::new);
        }
        let hash = self.hash(entry, request);
        if let Some(known) = self.known.read().get(&hash)
            && known.is_of(entry, request)
        {
            return Ok(known.shape.clone());
        }
        let shape = Arc::new(SearchShape::parse(entry, request, None)?);
        if shape.lasts {
            self.keep(hash, entry, request, &shape);
        }
        Ok(shape)
    }

    fn keep(
        &self,
        hash: u64,
        entry: &Arc<CollectionEntry>,
        request: &SearchRequest,
        shape: &Arc<SearchShape>,
    ) {
        let known = Known {
            entry: entry.clone(),
            dsl: request.dsl.clone(),
            partition_names: request.partition_names.clone(),
            output_fields: request.output_fields.clone(),
            search_params: request.search_params.clone(),
            shape: shape.clone(),
        };
        let mut all = self.known.write();
        if all.len() >= CAPACITY {
            // Of an older state of a collection, or nobody knows whether it comes again.
            let of_before = |one: &Known| {
                let same = one.entry.id() == entry.id();
                same && !Arc::ptr_eq(&one.entry, entry)
            };
            let old = all.iter().find(|(_, one)| of_before(one));
            let gone = old.or_else(|| all.iter().next()).map(|(hash, _)| *hash);
            gone.map(|hash| all.remove(&hash));
        }
        all.insert(hash, known);
    }

    fn hash(&self, entry: &CollectionEntry, request: &SearchRequest) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        entry.id().0.hash(&mut hasher);
        request.dsl.hash(&mut hasher);
        request.output_fields.hash(&mut hasher);
        request.partition_names.hash(&mut hasher);
        for pair in &request.search_params {
            pair.key.hash(&mut hasher);
            pair.value.hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// Bytes of what makes a shape.
fn length(request: &SearchRequest) -> usize {
    let names = request.output_fields.iter().chain(&request.partition_names);
    let names: usize = names.map(String::len).sum();
    let pairs = request.search_params.iter();
    let pairs: usize = pairs.map(|pair| pair.key.len() + pair.value.len()).sum();
    request.dsl.len() + names + pairs
}

#[cfg(test)]
mod tests {
    use redkite_proto::convert::kv;
    use redkite_types::DatabaseId;

    use super::*;
    use crate::testing::{COLLECTION, DEFAULT_PARTITION, Fixture};

    async fn loaded() -> Fixture {
        let fixture = Fixture::with_collection().await;
        fixture.load(&[DEFAULT_PARTITION]).await;
        fixture
    }

    fn request(limit: usize) -> SearchRequest {
        let limit = limit.to_string();
        SearchRequest {
            search_params: kv::from_iter([("topk", limit.as_str()), ("params", r#"{"ef": 24}"#)]),
            ..SearchRequest::default()
        }
    }

    fn entry(fixture: &Fixture) -> Arc<CollectionEntry> {
        let view = fixture.context.view();
        let entry = view.collection(DatabaseId::DEFAULT, COLLECTION);
        entry.unwrap().clone()
    }

    #[tokio::test]
    async fn a_shape_is_parsed_once_until_the_collection_changes() {
        let fixture = loaded().await;
        let (shapes, before) = (Shapes::default(), entry(&fixture));
        let first = shapes.of(&before, &request(5)).unwrap();
        assert!(Arc::ptr_eq(
            &first,
            &shapes.of(&before, &request(5)).unwrap()
        ));
        let mut other = request(5);
        other.dsl = "id > 3".to_owned();
        let other = shapes.of(&before, &other).unwrap();
        assert!(!other.filter.is_empty() && first.filter.is_empty());

        fixture.disown().await;
        let after = entry(&fixture);
        assert!(!Arc::ptr_eq(&before, &after));
        assert!(!Arc::ptr_eq(
            &first,
            &shapes.of(&after, &request(5)).unwrap()
        ));
    }

    #[tokio::test]
    async fn each_request_gets_its_own_shape_and_not_all_are_kept() {
        let fixture = loaded().await;
        let (shapes, entry) = (Shapes::default(), entry(&fixture));
        for round in 0..2 {
            for limit in 1..2 * CAPACITY {
                let shape = shapes.of(&entry, &request(limit)).unwrap();
                assert_eq!(shape.limit, limit, "{round}");
            }
        }
        assert_eq!(shapes.known.read().len(), CAPACITY);
        let long = SearchRequest {
            dsl: format!("id in [{}1]", "1, ".repeat(LONGEST)),
            ..request(1)
        };
        shapes.of(&entry, &long).unwrap();
        assert!(shapes.of(&entry, &request(0)).is_err());
        let pages = kv::from_iter([
            ("iterator", "True"),
            ("search_iter_v2", "True"),
            ("search_iter_batch_size", "7"),
            ("topk", "7"),
        ]);
        let pages = SearchRequest {
            search_params: pages,
            ..SearchRequest::default()
        };
        let token = || {
            let shape = shapes.of(&entry, &pages).unwrap();
            shape.page.clone().unwrap().token
        };
        assert_ne!(token(), token());
    }
}
