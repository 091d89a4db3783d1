//! Keeps the newest view by following the metastore.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures::StreamExt;
use redkite_metastore::{KeyValue, MetaKv, SharedKv, WatchStream};
use redkite_types::Revision;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    error::{Error, Result},
    view::CatalogView,
};

const PAGE: usize = 10_000;
const RETRY: Duration = Duration::from_millis(100);

/// The newest view of all metadata, and a way to wait for a revision.
#[derive(Debug)]
pub struct Catalog {
    view: ArcSwap<CatalogView>,
    revision: watch::Sender<Revision>,
}

impl Catalog {
    /// Reads all metadata once. Nothing follows it until [`Catalog::follow`] runs.
    ///
    /// # Errors
    /// [`Error::Metastore`] when it cannot be read (retry as that says), [`Error::Decode`] never.
    pub async fn load(kv: &dyn MetaKv) -> Result<Arc<Self>> {
        let view = read_view(kv).await?;
        let revision = watch::Sender::new(view.revision());
        Ok(Arc::new(Self {
            view: ArcSwap::from_pointee(view),
            revision,
        }))
    }

    /// The newest view.
    pub fn view(&self) -> Arc<CatalogView> {
        self.view.load_full()
    }

    /// A receiver that changes with every new revision.
    pub fn subscribe(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    /// The first view that shows a revision.
    ///
    /// # Errors
    /// [`Error::Behind`] when it is not seen in time; retry.
    pub async fn at_least(&self, wanted: Revision, within: Duration) -> Result<Arc<CatalogView>> {
        let mut revision = self.revision.subscribe();
        let reached = revision.wait_for(|seen| *seen >= wanted);
        match tokio::time::timeout(within, reached).await {
            Ok(Ok(_)) => Ok(self.view()),
            Ok(Err(_)) | Err(_) => {
                let seen = self.revision.borrow().0;
                Err(Error::Behind {
                    wanted: wanted.0,
                    seen,
                })
            }
        }
    }

    /// Follows the metastore until cancelled. Run it as a task, once.
    ///
    /// Whatever breaks the watch, it reads everything again and goes on: a gap is never skipped.
    pub async fn follow(self: Arc<Self>, kv: SharedKv, stop: CancellationToken) {
        let mut watch = kv.watch("", self.view().revision()).await;
        loop {
            let broken = tokio::select! {
                () = stop.cancelled() => return,
                error = self.consume(watch) => error,
            };
            warn!(error = %redkite_types::error::chain(&broken), "metadata watch broke, reading again");
            watch = loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(RETRY) => {}
                }
                match read_view(kv.as_ref()).await {
                    Ok(view) => {
                        let revision = view.revision();
                        info!(revision = revision.0, "metadata read again");
                        self.publish(view);
                        break kv.watch("", revision).await;
                    }
                    Err(error) => {
                        warn!(error = %redkite_types::error::chain(&error), "metadata read failed");
                    }
                }
            };
        }
    }

    /// Applies batches until the watch ends; returns why.
    async fn consume(&self, watch: redkite_metastore::Result<WatchStream>) -> Error {
        let mut stream = match watch {
            Ok(stream) => stream,
            Err(error) => return Error::Metastore(error),
        };
        while let Some(batch) = stream.next().await {
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => return Error::Metastore(error),
            };
            match self.view.load().apply(&batch.events, batch.revision) {
                Ok(view) => self.publish(view),
                Err(error) => return error,
            }
        }
        Error::Metastore(redkite_metastore::Error::Unavailable {
            what: "the watch ended".to_owned(),
            outcome: redkite_types::Outcome::NotApplied,
        })
    }

    fn publish(&self, view: CatalogView) {
        let revision = view.revision();
        self.view.store(Arc::new(view));
        self.revision.send_if_modified(|seen| {
            let newer = revision > *seen;
            *seen = revision.max(*seen);
            newer
        });
    }
}

/// Reads everything and catches up until the view shows one revision as a whole.
async fn read_view(kv: &dyn MetaKv) -> Result<CatalogView> {
    let (pairs, first, last) = read_pages(kv).await?;
    let mut view = CatalogView::from_pairs(&pairs, first)?;
    if last > first {
        // The pages show different revisions: replay what happened between the first and the last.
        let mut stream = kv.watch("", first).await.map_err(Error::Metastore)?;
        while view.revision() < last {
            match stream.next().await {
                Some(Ok(batch)) => view = view.apply(&batch.events, batch.revision)?,
                Some(Err(error)) => return Err(Error::Metastore(error)),
                None => break,
            }
        }
    }
    Ok(view)
}

async fn read_pages(kv: &dyn MetaKv) -> Result<(Vec<KeyValue>, Revision, Revision)> {
    let page = kv.range("", None, PAGE).await.map_err(Error::Metastore)?;
    let (mut pairs, first, mut next) = (page.pairs, page.revision, page.next);
    let mut last = first;
    while let Some(after) = next {
        let page = kv
            .range("", Some(&after), PAGE)
            .await
            .map_err(Error::Metastore)?;
        pairs.extend(page.pairs);
        last = page.revision;
        next = page.next;
    }
    Ok((pairs, first, last))
}
