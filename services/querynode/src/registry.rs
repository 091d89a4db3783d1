//! Which channels this node owns, by name and epoch.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use futures::future::join_all;
use redkite_types::{Error, ErrorCode, Result};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::{
    channel::{Channel, Progress, SyncTarget},
    deps::{PendingBytes, Shared},
    metrics,
};

/// The place of one channel, which may be empty.
#[derive(Default)]
struct Slot {
    /// Held while the channel is opened or closed.
    changing: Arc<Mutex<()>>,
    channel: ArcSwapOption<Channel>,
    /// Why the channel could not be opened, where waiting does not help: those who ask for it are
    /// told, instead of being sent to wait.
    failure: ArcSwapOption<Error>,
}

impl Slot {
    fn open_channel(&self) -> Option<Arc<Channel>> {
        self.channel
            .load_full()
            .filter(|channel| !channel.is_closed())
    }

    async fn close(&self) {
        if let Some(channel) = self.channel.swap(None) {
            channel.close().await;
        }
    }
}

/// The channels of this node.
pub(crate) struct Registry {
    shared: Arc<Shared>,
    slots: ArcSwap<imbl::HashMap<String, Arc<Slot>>>,
}

impl Registry {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            slots: ArcSwap::default(),
        }
    }

    /// The channel with this name.
    ///
    /// # Errors
    /// Code 503, retriable, when it is not open here: not yet, or not any more. Why it could not be
    /// opened, such as code 1009 for a damaged log.
    pub(crate) fn get(&self, name: &str) -> Result<Arc<Channel>> {
        let slots = self.slots.load();
        let slot = slots.get(name);
        if let Some(channel) = slot.and_then(|slot| slot.open_channel()) {
            return Ok(channel);
        }
        if let Some(failure) = slot.and_then(|slot| slot.failure.load_full()) {
            return Err(failure.as_ref().clone());
        }
        let node = self.shared.deps.node;
        let text = format!("channel not available[channel={name}][node={node}]");
        Err(Error::new(ErrorCode::ChannelNotAvailable, text))
    }

    /// Opens a channel if this node does not own it under this epoch yet, and acts on the order.
    ///
    /// # Errors
    /// Code 507 for an epoch that is over; else why the channel could not be opened.
    pub(crate) async fn sync(&self, target: SyncTarget) -> Result<Progress> {
        let channel = {
            let (slot, _changing) = self.change(&target.channel).await;
            match slot.open_channel() {
                Some(channel) if channel.epoch() == target.epoch => channel,
                Some(channel) if channel.epoch() > target.epoch => {
                    return Err(out_of_date(&target.channel, target.epoch, channel.epoch()));
                }
                Some(_) | None => {
                    slot.close().await;
                    let opened = Box::pin(Channel::open(&self.shared, &target)).await;
                    let lasting = opened.as_ref().err().filter(|error| !error.retriable);
                    slot.failure.store(lasting.cloned().map(Arc::new));
                    let opened = opened?;
                    slot.channel.store(Some(opened.clone()));
                    opened
                }
            }
        };
        channel.sync(target).await
    }

    /// Gives a channel up; with `drop` also removes its log. One that is not here counts as given
    /// up.
    ///
    /// # Errors
    /// Code 507 for an epoch that is over; else why the log could not be removed.
    pub(crate) async fn release(&self, name: &str, epoch: u64, drop: bool) -> Result<()> {
        let (slot, _changing) = self.change(name).await;
        if let Some(channel) = slot.open_channel()
            && channel.epoch() > epoch
        {
            return Err(out_of_date(name, epoch, channel.epoch()));
        }
        slot.close().await;
        if drop {
            let removed = self.shared.deps.log.remove(name).await;
            removed.map_err(|error| Error::from_coded(&error))?;
        }
        self.slots.rcu(|slots| slots.without(name));
        Ok(())
    }

    /// Takes memory and disk for a write, or refuses it and has the largest channels make room.
    ///
    /// # Errors
    /// As [`Shared::admit`].
    pub(crate) fn admit(&self, encoded_bytes: usize, has_rows: bool) -> Result<PendingBytes> {
        let admitted = self.shared.admit(encoded_bytes, has_rows);
        if let Err(error) = &admitted {
            metrics::refused(match error.code {
                ErrorCode::DiskLimitExceeded => "disk",
                _ => "memory",
            });
            self.relieve();
        }
        admitted
    }

    /// Has those channels flush that take up most.
    fn relieve(&self) {
        let sizes: Vec<_> = self
            .channels()
            .map(|channel| (channel.growing_bytes(), channel))
            .collect();
        let largest = sizes.iter().map(|(bytes, _)| *bytes).max().unwrap_or(0);
        for (bytes, channel) in sizes {
            if bytes > 0 && bytes >= largest / 2 {
                channel.relieve();
            }
        }
    }

    /// Gives every channel up, its log written and closed.
    pub(crate) async fn close(&self) {
        let slots: Vec<Arc<Slot>> = self.slots.load().values().cloned().collect();
        join_all(slots.iter().map(|slot| async {
            let _one = slot.changing.lock().await;
            slot.close().await;
        }))
        .await;
    }

    fn channels(&self) -> impl Iterator<Item = Arc<Channel>> {
        let slots = self.slots.load_full();
        let open: Vec<_> = slots
            .values()
            .filter_map(|slot| slot.open_channel())
            .collect();
        open.into_iter()
    }

    fn slot(&self, name: &str) -> Arc<Slot> {
        if let Some(slot) = self.slots.load().get(name) {
            return slot.clone();
        }
        let new = Arc::new(Slot::default());
        self.slots.rcu(|slots| match slots.contains_key(name) {
            true => slots.as_ref().clone(),
            false => slots.update(name.to_owned(), new.clone()),
        });
        self.slots.load().get(name).cloned().unwrap_or(new)
    }

    /// The place of a channel for the only one who may open or close it now.
    async fn change(&self, name: &str) -> (Arc<Slot>, OwnedMutexGuard<()>) {
        loop {
            let slot = self.slot(name);
            let changing = slot.changing.clone().lock_owned().await;
            // While we waited, the channel may have been given up and its place with it.
            let slots = self.slots.load();
            if slots
                .get(name)
                .is_some_and(|current| Arc::ptr_eq(current, &slot))
            {
                return (slot, changing);
            }
        }
    }
}

fn out_of_date(channel: &str, epoch: u64, current: u64) -> Error {
    Error::new(
        ErrorCode::ChannelMisrouted,
        format!("channel misrouted[channel={channel}][epoch {epoch} is behind {current}]"),
    )
}
