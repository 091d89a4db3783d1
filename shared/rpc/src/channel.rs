//! One lazily connected channel for each address.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};

use crate::error::{Error, Result};
use crate::options::RpcOptions;

/// HTTP/2 windows that fit a batch of vectors: the default of 64 KiB costs a round trip for each.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Channels by address. Clones are the same pool.
///
/// A channel connects with its first call and again after it was lost; a call on a channel that
/// cannot connect fails at once.
#[derive(Clone, Debug)]
pub struct ChannelPool {
    options: Arc<RpcOptions>,
    channels: Arc<Mutex<HashMap<String, Channel>>>,
}

impl ChannelPool {
    /// An empty pool.
    pub fn new(options: RpcOptions) -> Self {
        Self {
            options: Arc::new(options),
            channels: Arc::default(),
        }
    }

    /// The largest message, in bytes; clients made on a channel must be told.
    pub fn max_message_size(&self) -> usize {
        self.options.max_message_size.as_usize()
    }

    /// The channel to `host:port`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Address`]; not when nobody listens there, which the first call tells.
    pub fn get(&self, address: &str) -> Result<Channel> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = self.endpoint(address)?.connect_lazy();
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }

    /// Forgets a channel whose service is gone for good; its calls that run go on.
    pub fn forget(&self, address: &str) {
        self.channels.lock().remove(address);
    }

    fn endpoint(&self, address: &str) -> Result<Endpoint> {
        let uri = if address.contains("://") {
            address.to_owned()
        } else {
            format!("http://{address}")
        };
        let endpoint = Endpoint::from_shared(uri).map_err(|source| Error::Address {
            address: address.to_owned(),
            source,
        })?;
        Ok(endpoint
            .connect_timeout(self.options.connect_timeout.get())
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(self.options.keepalive_interval.get())
            .keep_alive_timeout(self.options.keepalive_timeout.get())
            .keep_alive_while_idle(true))
    }
}
