//! Tests that need the insides of a replica.

mod disk;
mod engines;
mod node;
mod offline;
mod suite;
mod sync;

use std::path::Path;
use std::time::Duration;

use redkite_rpc::{ChannelPool, RpcOptions};
use redkite_runtime::TaskGroup;

use crate::raft::{MetaNode, MetaNodeOptions};

const PATIENCE: Duration = Duration::from_secs(120);

/// A cluster of one in `dir`, leading.
async fn single(dir: &Path, change: impl FnOnce(&mut MetaNodeOptions)) -> (MetaNode, TaskGroup) {
    let mut options = MetaNodeOptions::single(1, dir, "127.0.0.1:1");
    change(&mut options);
    let tasks = TaskGroup::new("test");
    let pool = ChannelPool::new(RpcOptions::default());
    let node = MetaNode::open(options, pool, &tasks).await.unwrap();
    node.ready(PATIENCE).await.unwrap();
    (node, tasks)
}
