//! The connection, the server's version, health and clock.

use std::sync::Arc;

use redkite_catalog::Role;
use redkite_proto::{
    convert::kv,
    milvus::{
        common::{ServerInfo, StateCode},
        milvus::{
            AllocTimestampRequest, AllocTimestampResponse, CheckHealthRequest, CheckHealthResponse,
            ComponentInfo, ComponentStates, ConnectRequest, ConnectResponse,
            GetComponentStatesRequest, GetVersionRequest, GetVersionResponse,
        },
    },
    redkite::{meta::Session, rootcoord::AllocRequest},
    status,
};
use redkite_types::Result;
use tracing::info;

use crate::{
    context::{ProxyContext, RequestContext},
    lookup,
};

/// The Milvus version whose wire contract this is, with our own behind it.
const VERSION: &str = concat!("v3.0.0-redkite-", env!("CARGO_PKG_VERSION"));

/// Without these nothing can be changed, loaded or read.
const NEEDED: [Role; 4] = [
    Role::RootCoord,
    Role::DataCoord,
    Role::QueryCoord,
    Role::QueryNode,
];

const ALL: [Role; 6] = [
    Role::RootCoord,
    Role::DataCoord,
    Role::QueryCoord,
    Role::QueryNode,
    Role::DataNode,
    Role::Proxy,
];

/// The first call of every client; its database must exist.
pub(crate) fn connect(
    context: &ProxyContext,
    meta: RequestContext,
    message: ConnectRequest,
) -> Result<ConnectResponse> {
    lookup::database(&context.view(), &meta.database)?;
    // Positive, because some clients keep it as an unsigned number.
    let identifier = (context.random.next_u64() >> 1) as i64;
    let client = message.client_info.unwrap_or_default();
    info!(
        identifier,
        sdk = %client.sdk_type,
        version = %client.sdk_version,
        host = %client.host,
        user = %client.user,
        "client connected"
    );
    Ok(ConnectResponse {
        status: Some(status::success()),
        server_info: Some(ServerInfo {
            build_tags: VERSION.to_owned(),
            build_time: option_env!("REDKITE_BUILD_TIME")
                .unwrap_or("unknown")
                .to_owned(),
            git_commit: option_env!("REDKITE_GIT_COMMIT")
                .unwrap_or("unknown")
                .to_owned(),
            go_version: concat!("rust ", env!("CARGO_PKG_RUST_VERSION")).to_owned(),
            deploy_mode: context.identity.deploy_mode.to_owned(),
            reserved: Default::default(),
        }),
        identifier,
    })
}

pub(crate) fn get_version(
    _: &ProxyContext,
    _: RequestContext,
    _: GetVersionRequest,
) -> Result<GetVersionResponse> {
    Ok(GetVersionResponse {
        status: Some(status::success()),
        version: VERSION.to_owned(),
    })
}

pub(crate) async fn alloc_timestamp(
    context: &Arc<ProxyContext>,
    meta: RequestContext,
    _: AllocTimestampRequest,
) -> Result<AllocTimestampResponse> {
    let timestamp = now(context, &meta).await?;
    Ok(AllocTimestampResponse {
        status: Some(status::success()),
        timestamp,
    })
}

/// A timestamp later than any given out before.
pub(super) async fn now(context: &ProxyContext, meta: &RequestContext) -> Result<u64> {
    let root = context.peers.root_coord()?;
    let message = AllocRequest { count: 1 };
    let answer = redkite_rpc::call(meta.deadline, message, |request| {
        root.alloc_timestamp(request)
    })
    .await?;
    Ok(answer.first)
}

/// Healthy as soon as every service that requests need is there.
pub(crate) fn check_health(
    context: &ProxyContext,
    _: RequestContext,
    _: CheckHealthRequest,
) -> Result<CheckHealthResponse> {
    let view = context.view();
    let reasons: Vec<String> = NEEDED
        .into_iter()
        .filter(|role| view.sessions(role.name()).next().is_none())
        .map(|role| format!("no {} is running", role.name()))
        .collect();
    Ok(CheckHealthResponse {
        status: Some(status::success()),
        is_healthy: reasons.is_empty(),
        reasons,
        quota_states: Vec::new(),
    })
}

pub(crate) fn get_component_states(
    context: &ProxyContext,
    _: RequestContext,
    _: GetComponentStatesRequest,
) -> Result<ComponentStates> {
    let view = context.view();
    let others = ALL.into_iter().flat_map(|role| view.sessions(role.name()));
    let own = &context.identity;
    Ok(ComponentStates {
        state: Some(component(own.node.0, Role::Proxy.name(), &own.address)),
        subcomponent_states: others
            .map(|session| {
                let Session {
                    node_id,
                    role,
                    address,
                    ..
                } = session.as_ref();
                component(*node_id, role, address)
            })
            .collect(),
        status: Some(status::success()),
    })
}

fn component(node_id: u64, role: &str, address: &str) -> ComponentInfo {
    ComponentInfo {
        node_id: node_id as i64,
        role: role.to_owned(),
        state_code: StateCode::Healthy.into(),
        extra_info: vec![kv::pair("address", address)],
    }
}
