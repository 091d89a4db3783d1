//! The raft group: who is in it, and who is to be.
//!
//! `GET /admin/raft`, `POST /admin/raft/add?id=N&address=HOST:PORT`, `POST /admin/raft/remove?id=N`.
//! Changes are the leader's: another replica answers 421 with the leader's address.

use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use redkite_catalog::keys;
use redkite_metastore::{Error, MetaKv as _, MetaNode, Result};
use redkite_types::error::chain;
use serde::Deserialize;
use serde_json::json;
use tracing::info;

/// The routes of a replica, whether it leads or not.
pub fn routes(meta: MetaNode) -> Router {
    Router::new()
        .route("/admin/raft", get(status))
        .route("/admin/raft/add", post(add))
        .route("/admin/raft/remove", post(remove))
        .with_state(meta)
}

async fn status(State(meta): State<MetaNode>) -> Response {
    answer(meta.status().map(|status| json!({ "raft": status })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    id: u64,
    address: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Remove {
    id: u64,
}

async fn add(State(meta): State<MetaNode>, Query(asked): Query<Add>) -> Response {
    answer(add_voter(&meta, asked.id, &asked.address).await)
}

async fn remove(State(meta): State<MetaNode>, Query(asked): Query<Remove>) -> Response {
    answer(remove_voter(&meta, asked.id).await)
}

/// Adds a replica under an id that was never used. Doing it again changes nothing.
async fn add_voter(meta: &MetaNode, id: u64, address: &str) -> Result<serde_json::Value> {
    if redkite_node::options::split_address(address).is_none() {
        return Err(invalid(format!("`{address}` is not host:port")));
    }
    let before = meta.status()?;
    let known = before.members.iter().find(|(member, _)| *member == id);
    match known {
        Some((_, there)) if there != address => {
            return Err(invalid(format!("replica {id} is a member at {there}")));
        }
        Some(_) => {}
        None => {
            if meta.get(&keys::replica(id)).await?.is_some() {
                return Err(invalid(format!(
                    "the id {id} was used before: what a replica has voted and stored under an id \
                     must never be forgotten, take a new one"
                )));
            }
        }
    }
    info!(id, address, "adding a replica of the metastore");
    meta.add_voter(id, address).await?;
    Ok(json!({ "raft": meta.status()? }))
}

/// Removes a replica.
async fn remove_voter(meta: &MetaNode, id: u64) -> Result<serde_json::Value> {
    let before = meta.status()?;
    if before.leader == Some(id) && id == before.node_id {
        return Err(invalid(format!(
            "replica {id} leads: stop it first, and ask the one that leads then"
        )));
    }
    info!(id, "removing a replica of the metastore");
    meta.remove_member(id).await?;
    Ok(json!({ "raft": meta.status()? }))
}

fn invalid(what: String) -> Error {
    Error::Invalid { what }
}

fn answer(outcome: Result<serde_json::Value>) -> Response {
    let error = match outcome {
        Ok(body) => return Json(body).into_response(),
        Err(error) => error,
    };
    let status = match error {
        Error::NotLeader { .. } => StatusCode::MISDIRECTED_REQUEST,
        Error::Invalid { .. } => StatusCode::BAD_REQUEST,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut text = chain(&error);
    if let Error::NotLeader {
        leader: Some(leader),
    } = &error
    {
        text.push_str(&format!(": ask the admin port of the one at {leader}"));
    }
    (status, Json(json!({ "error": text }))).into_response()
}
