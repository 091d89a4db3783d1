//! The raft group: who is in it, and who is to be.
//!
//! `GET /admin/raft`, `POST /admin/raft/add?id=N&address=HOST:PORT`, `POST /admin/raft/remove?id=N`.
//! Changes are the leader's: another replica has them made there. One that knows no leader answers 421.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use redkite_catalog::keys;
use redkite_metastore::{Error, MetaKv as _, MetaNode, Result};
use redkite_proto::redkite::rootcoord::{
    AddReplica, ChangeReplicasRequest, change_replicas_request::Change,
};
use redkite_rpc::{Connector, call};
use redkite_runtime::Deadline;
use redkite_types::error::chain;
use serde::Deserialize;
use serde_json::json;
use tracing::info;

/// How long the leader may take: a new replica has to catch up before it votes.
const CHANGED_WITHIN: Duration = Duration::from_secs(60);

/// A replica, and the way to the others.
#[derive(Clone)]
struct Asked {
    meta: MetaNode,
    connector: Arc<Connector>,
}

/// The routes of a replica, whether it leads or not.
pub fn routes(meta: MetaNode, connector: Arc<Connector>) -> Router {
    Router::new()
        .route("/admin/raft", get(status))
        .route("/admin/raft/add", post(add))
        .route("/admin/raft/remove", post(remove))
        .with_state(Asked { meta, connector })
}

async fn status(State(asked): State<Asked>) -> Response {
    answer(asked.meta.status().map(|status| json!({ "raft": status })))
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

async fn add(State(asked): State<Asked>, Query(Add { id, address }): Query<Add>) -> Response {
    asked.change(Change::Add(AddReplica { id, address })).await
}

async fn remove(State(asked): State<Asked>, Query(Remove { id }): Query<Remove>) -> Response {
    asked.change(Change::Remove(id)).await
}

impl Asked {
    /// Makes a change, or has it made by the replica that leads.
    async fn change(&self, wanted: Change) -> Response {
        match change(&self.meta, wanted.clone()).await {
            Err(Error::NotLeader {
                leader: Some(leader),
            }) => self.pass_on(&leader, wanted).await,
            outcome => answer(outcome),
        }
    }

    async fn pass_on(&self, leader: &str, wanted: Change) -> Response {
        let request = ChangeReplicasRequest {
            change: Some(wanted),
        };
        let root = match self.connector.root_coord(leader) {
            Ok(root) => root,
            Err(error) => return refused(StatusCode::SERVICE_UNAVAILABLE, &chain(&error)),
        };
        let deadline = Deadline::after(CHANGED_WITHIN);
        match call(deadline, request, |request| root.change_replicas(request)).await {
            Ok(changed) => {
                let headers = [(CONTENT_TYPE, "application/json")];
                (headers, changed.status).into_response()
            }
            Err(error) => {
                let status = match error.error.retriable {
                    true => StatusCode::SERVICE_UNAVAILABLE,
                    false => StatusCode::BAD_REQUEST,
                };
                let reason = &error.error.message;
                refused(status, &format!("the leader at {leader} says: {reason}"))
            }
        }
    }
}

/// Makes a change as the replica that leads; its state then.
///
/// # Errors
/// [`Error::NotLeader`] names the one that does; [`Error::Invalid`] for what must not be.
pub(crate) async fn change(meta: &MetaNode, wanted: Change) -> Result<serde_json::Value> {
    match wanted {
        Change::Add(AddReplica { id, address }) => add_voter(meta, id, &address).await,
        Change::Remove(id) => remove_voter(meta, id).await,
    }
}

/// Adds a replica under an id that was never used. Doing it again changes nothing.
async fn add_voter(meta: &MetaNode, id: u64, address: &str) -> Result<serde_json::Value> {
    if redkite_node::options::split_address(address).is_none() {
        return Err(invalid(format!("`{address}` is not host:port")));
    }
    meta.confirm_lead().await?;
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
    meta.confirm_lead().await?;
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
    refused(status, &chain(&error))
}

fn refused(status: StatusCode, text: &str) -> Response {
    (status, Json(json!({ "error": text }))).into_response()
}
