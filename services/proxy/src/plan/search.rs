//! A search, parsed and checked.

use std::{ops::Deref, sync::Arc};

use redkite_catalog::CollectionEntry;
use redkite_proto::{
    convert::{
        keys,
        vectors::{self, QueryVectors},
    },
    milvus::{
        milvus::{SearchRequest, search_request::SearchInput},
        schema::IDs,
    },
};
use redkite_types::{CollectionSchema, DataType, Error, FieldSchema, PrimaryKeys, Result, limits};

use super::{
    GroupPlan,
    consistency::{Asked, Rounds},
    shape::{self, SearchShape},
    shapes::Shapes,
};

/// A search, ready to be sent to the owners of the channels.
#[derive(Clone, Debug)]
pub struct SearchPlan {
    /// What is asked for.
    pub shape: Arc<SearchShape>,
    /// The query vectors; none until the vectors of [`SearchPlan::ids`] are read.
    pub queries: QueryVectors,
    /// Rows whose vectors are searched for, one query each.
    pub ids: Option<PrimaryKeys>,
    /// Number of queries.
    pub nq: usize,
    /// How fresh it must be.
    pub asked: Asked,
}

impl Deref for SearchPlan {
    type Target = SearchShape;

    fn deref(&self) -> &SearchShape {
        &self.shape
    }
}

impl SearchPlan {
    /// How often the owners are asked for it.
    pub fn rounds(&self) -> Rounds {
        let fills_groups = self
            .group
            .is_some_and(|group| group.strict && group.size > 1);
        if self.ids.is_some() || self.page.is_some() || fills_groups {
            Rounds::Several
        } else {
            Rounds::One
        }
    }

    /// Parses and checks a request; what is known of its shape already is not parsed again.
    ///
    /// # Errors
    /// Milvus's code and text of the first thing that is wrong; never worth a retry.
    pub fn new(
        shapes: &Shapes,
        entry: &Arc<CollectionEntry>,
        request: &SearchRequest,
    ) -> Result<Self> {
        shape::refuse_unsupported(request)?;
        Self::with(shapes.of(entry, request)?, entry, request)
    }

    /// Parses and checks a request of a hybrid search, which says for all of them how hits are
    /// grouped.
    ///
    /// # Errors
    /// As [`SearchPlan::new`].
    pub(super) fn of_hybrid(
        entry: &CollectionEntry,
        request: &SearchRequest,
        group: Option<GroupPlan>,
    ) -> Result<Self> {
        shape::refuse_unsupported(request)?;
        let shape = SearchShape::parse(entry, request, Some(group))?;
        Self::with(Arc::new(shape), entry, request)
    }

    fn with(
        shape: Arc<SearchShape>,
        entry: &CollectionEntry,
        request: &SearchRequest,
    ) -> Result<Self> {
        let schema = entry.schema();
        let field = schema.field_by_id(shape.field);
        let field = field.ok_or_else(|| Error::internal("a search on an unknown field"))?;
        let (queries, ids, nq) = queries(request.search_input.as_ref(), field, schema)?;
        if shape.page.is_some() && nq != 1 {
            return Err(Error::invalid_parameter(format!(
                "a search iterator takes one query, but got {nq}"
            )));
        }
        Ok(Self {
            queries,
            ids,
            nq,
            asked: Asked {
                level: request.consistency_level,
                use_default: request.use_default_consistency,
                guarantee_ts: request.guarantee_timestamp,
                iterator: shape.iterator,
            },
            shape,
        })
    }
}

/// The query vectors, or the rows to take them from, and their number.
fn queries(
    input: Option<&SearchInput>,
    field: &FieldSchema,
    schema: &CollectionSchema,
) -> Result<(QueryVectors, Option<PrimaryKeys>, usize)> {
    let (queries, ids, nq) = match input {
        Some(SearchInput::PlaceholderGroup(group)) => {
            let queries = vectors::from_placeholder_group(group.clone(), field)?;
            let nq = queries.nq;
            (queries, None, nq)
        }
        Some(SearchInput::Ids(ids)) => {
            let ids = row_ids(ids.clone(), schema)?;
            let nq = ids.len();
            (QueryVectors::default(), Some(ids), nq)
        }
        None => return Err(Error::missing_parameter("a search without vectors")),
    };
    let max = limits::MAX_RESULT_WINDOW as usize;
    if !(1..=max).contains(&nq) {
        return Err(Error::invalid_parameter(format!(
            "nq [{nq}] is invalid, nq (number of search vector per search request) should be in \
             range [1, {max}], but got {nq}"
        )));
    }
    Ok((queries, ids, nq))
}

fn row_ids(ids: IDs, schema: &CollectionSchema) -> Result<PrimaryKeys> {
    let key = schema.primary_key();
    let ids = match ids.id_field {
        Some(_) => keys::from_proto(ids)?,
        None => {
            return Err(Error::missing_parameter(
                "a search by primary keys without any",
            ));
        }
    };
    let fits = match &ids {
        PrimaryKeys::Int(_) => key.data_type.is_integer(),
        PrimaryKeys::Str(_) => key.data_type == DataType::VarChar,
    };
    if fits {
        return Ok(ids);
    }
    Err(Error::invalid_parameter(format!(
        "the type of the ids does not match the primary key {} of type {}",
        key.name, key.data_type
    )))
}
