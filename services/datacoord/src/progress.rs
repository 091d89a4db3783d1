//! Which data node is at which index build, and how far it is.

use std::{collections::HashMap, sync::Arc};

use futures::future::join_all;
use parking_lot::Mutex;
use redkite_proto::redkite::datanode::{
    BuildProgressRequest, RunningBuild, data_node_server::DataNode,
};
use redkite_rpc::call;
use redkite_runtime::Deadline;
use tracing::debug;

/// How far builds are that run, by build id.
pub type Progress = HashMap<i64, RunningBuild>;

/// The data nodes that builds were given to.
#[derive(Default)]
pub struct BuildingNodes(Mutex<HashMap<i64, Node>>);

/// A data node and its node id.
#[derive(Clone)]
struct Node {
    id: u64,
    service: Arc<dyn DataNode>,
}

/// A build is known to be at a node until this is dropped.
#[must_use = "the node is forgotten with the guard"]
pub struct AtNode<'a> {
    nodes: &'a BuildingNodes,
    build: i64,
}

impl BuildingNodes {
    /// Remembers who is at a build.
    pub fn begin(&self, build: i64, id: u64, service: Arc<dyn DataNode>) -> AtNode<'_> {
        self.0.lock().insert(build, Node { id, service });
        AtNode { nodes: self, build }
    }

    /// Asks the nodes of these builds, all at once. Who does not answer by the deadline tells nothing: the
    /// builds may well go on, and whoever asks learns the rest.
    pub async fn progress(&self, builds: &[i64], deadline: Deadline) -> Progress {
        let mut by_node: HashMap<u64, (Node, BuildProgressRequest)> = HashMap::new();
        {
            let nodes = self.0.lock();
            for (build, node) in builds.iter().filter_map(|id| nodes.get_key_value(id)) {
                let asked = by_node.entry(node.id);
                let (_, request) =
                    asked.or_insert_with(|| (node.clone(), BuildProgressRequest::default()));
                request.build_ids.push(*build);
            }
        }
        let asked = by_node.into_values().map(|(node, request)| async move {
            let service = node.service;
            match call(deadline, request, |request| service.build_progress(request)).await {
                Ok(answer) => answer.builds,
                Err(error) => {
                    debug!(node = node.id, %error, "data node does not tell how far builds are");
                    Vec::new()
                }
            }
        });
        let told = join_all(asked).await.into_iter().flatten();
        told.map(|build| (build.build_id, build)).collect()
    }
}

impl Drop for AtNode<'_> {
    fn drop(&mut self) {
        self.nodes.0.lock().remove(&self.build);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use redkite_proto::redkite::datanode::*;
    use tonic::{Request, Response, Status};

    use super::*;

    /// What a node does when it is asked how far builds are.
    enum Fake {
        /// Tells of each build ten rows of so many.
        Tells(i64),
        Fails,
        Hangs,
    }

    /// The whole trait, of which one method is called here.
    macro_rules! data_node {
        ($($method:ident: $request:ident => $response:ident),* $(,)?) => {
            #[tonic::async_trait]
            impl DataNode for Fake {
                async fn build_progress(
                    &self,
                    request: Request<BuildProgressRequest>,
                ) -> Result<Response<BuildProgressResponse>, Status> {
                    let rows = match self {
                        Self::Tells(rows) => *rows,
                        Self::Fails => return Err(Status::unavailable("gone")),
                        Self::Hangs => std::future::pending().await,
                    };
                    let builds = request.into_inner().build_ids.into_iter();
                    let builds = builds.map(|build_id| RunningBuild {
                        build_id,
                        rows_done: 10,
                        rows,
                    });
                    Ok(Response::new(BuildProgressResponse {
                        builds: builds.collect(),
                    }))
                }

                $(
                    async fn $method(
                        &self,
                        _: Request<$request>,
                    ) -> Result<Response<$response>, Status> {
                        Err(Status::unimplemented("not asked for here"))
                    }
                )*
            }
        };
    }

    data_node! {
        build_index: BuildIndexRequest => BuildIndexResponse,
        compact: CompactRequest => CompactResponse,
        export_part: ExportPartRequest => ExportPartResponse,
        finish_export: FinishExportRequest => FinishExportResponse,
        remove_export: RemoveExportRequest => RemoveExportResponse,
        open_bundle: OpenBundleRequest => OpenBundleResponse,
        copy_files: CopyFilesRequest => CopyFilesResponse,
        finish_bundle: FinishBundleRequest => FinishBundleResponse,
        remove_bundle: RemoveBundleRequest => RemoveBundleResponse,
        read_bundle: ReadBundleRequest => ReadBundleResponse,
        count_rows: CountRowsRequest => CountRowsResponse,
    }

    /// The builds that are told of and their rows, in order.
    async fn told(nodes: &BuildingNodes, builds: &[i64]) -> Vec<(i64, i64)> {
        let deadline = Deadline::after(Duration::from_secs(1));
        let progress = nodes.progress(builds, deadline).await;
        let mut told: Vec<_> = progress
            .iter()
            .map(|(id, build)| (*id, build.rows))
            .collect();
        told.sort_unstable();
        told
    }

    #[tokio::test(start_paused = true)]
    async fn nodes_that_do_not_answer_hide_nothing_of_the_others() {
        let nodes = BuildingNodes::default();
        let _builds = [
            nodes.begin(1, 100, Arc::new(Fake::Tells(50))),
            nodes.begin(2, 100, Arc::new(Fake::Tells(50))),
            nodes.begin(3, 101, Arc::new(Fake::Fails)),
            nodes.begin(4, 102, Arc::new(Fake::Hangs)),
            nodes.begin(5, 103, Arc::new(Fake::Tells(70))),
        ];
        let began = tokio::time::Instant::now();
        assert_eq!(
            told(&nodes, &[1, 2, 3, 4, 5, 6]).await,
            [(1, 50), (2, 50), (5, 70)]
        );
        assert_eq!(began.elapsed().as_secs(), 1, "all were asked at once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_asked_for_what_it_is_at_only() {
        let nodes = BuildingNodes::default();
        let first = nodes.begin(1, 100, Arc::new(Fake::Tells(50)));
        let second = nodes.begin(2, 101, Arc::new(Fake::Hangs));
        let began = tokio::time::Instant::now();
        assert_eq!(told(&nodes, &[1]).await, [(1, 50)]);
        assert!(told(&nodes, &[]).await.is_empty());
        drop((first, second));
        assert!(told(&nodes, &[1, 2]).await.is_empty());
        assert!(began.elapsed().is_zero(), "nobody who hangs was asked");
    }
}
