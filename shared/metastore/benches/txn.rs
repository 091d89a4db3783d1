//! Prints what one replica costs: opening, one write, concurrent writes, reads.
//!
//! `cargo bench -p redkite-metastore --features server`

use std::path::Path;
use std::time::{Duration, Instant};

use futures::future::join_all;
use redkite_metastore::{MetaKv as _, MetaNode, MetaNodeOptions, Op, Result, Txn};
use redkite_rpc::{ChannelPool, RpcOptions};
use redkite_runtime::TaskGroup;

const VALUE_BYTES: usize = 300;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let started = Instant::now();
    let node = open(dir.path()).await?;
    println!("open, empty: {:?}", started.elapsed());

    sequential(&node, 2_000).await?;
    for callers in [4, 16, 64] {
        concurrent(&node, callers, 4_000 / callers).await?;
    }
    reads(&node, 20_000).await?;
    node.shutdown().await?;
    drop(node);

    let started = Instant::now();
    let node = open(dir.path()).await?;
    println!(
        "open, {} log entries: {:?}",
        node.status()?.last_log,
        started.elapsed()
    );
    println!("log on the disk: {} KiB", node.status()?.log_bytes / 1024);
    node.shutdown().await?;
    Ok(())
}

async fn open(dir: &Path) -> Result<MetaNode> {
    let options = MetaNodeOptions::single(1, dir, "127.0.0.1:1");
    let pool = ChannelPool::new(RpcOptions::default());
    let node = MetaNode::open(options, pool, &TaskGroup::new("bench")).await?;
    node.ready(Duration::from_secs(10)).await?;
    Ok(node)
}

fn write(i: usize) -> Txn {
    Txn::new().then(Op::put(
        format!("root-coord/partitions/{}/{i}", i % 97),
        vec![7; VALUE_BYTES],
    ))
}

async fn sequential(node: &MetaNode, count: usize) -> Result<()> {
    let mut times = Vec::with_capacity(count);
    for i in 0..count {
        let started = Instant::now();
        node.txn(write(i)).await?;
        times.push(started.elapsed());
    }
    times.sort();
    let (p50, p99) = (times[count / 2], times[count * 99 / 100]);
    println!("txn, one caller: p50 {p50:?}, p99 {p99:?}");
    Ok(())
}

async fn concurrent(node: &MetaNode, callers: usize, each: usize) -> Result<()> {
    let started = Instant::now();
    let done = join_all((0..callers).map(|caller| async move {
        for i in 0..each {
            node.txn(write(caller * each + i)).await?;
        }
        Result::Ok(())
    }))
    .await;
    done.into_iter().collect::<Result<()>>()?;
    let rate = (callers * each) as f64 / started.elapsed().as_secs_f64();
    println!("txn, {callers} callers: {rate:.0}/s");
    Ok(())
}

async fn reads(node: &MetaNode, count: usize) -> Result<()> {
    let started = Instant::now();
    for i in 0..count {
        node.get(&format!("root-coord/partitions/{}/{i}", i % 97))
            .await?;
    }
    println!(
        "get: {:?} each",
        started.elapsed() / u32::try_from(count).unwrap_or(u32::MAX)
    );
    Ok(())
}
