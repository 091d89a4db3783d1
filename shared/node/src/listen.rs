//! Listeners, and the address under which others reach them.

use std::convert::Infallible;
use std::time::Duration;

use redkite_catalog::Role;
use tokio::net::TcpListener;

use crate::error::{Error, Result};
use crate::options::CommonOptions;

/// How the connector's addresses within a process begin.
const LOCAL: &str = "local://";
/// A listener that fails has no file descriptors left, as a rule, and has none either at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How a service is reached.
#[derive(Debug)]
pub enum Exposure {
    /// From within this process only, by direct calls.
    Local,
    /// From everywhere, by gRPC.
    Network {
        /// Bound already.
        listener: TcpListener,
        /// `host:port` that the others are told.
        address: String,
    },
}

impl Exposure {
    /// The exposure of a listener.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when it listens on all addresses and none is advertised.
    pub fn network(listener: TcpListener, options: &CommonOptions) -> Result<Self> {
        let local = listener
            .local_addr()
            .map_err(Error::start("read a listener's address"))?;
        let address = match &options.advertised_host {
            Some(host) => format!("{host}:{}", local.port()),
            None if local.ip().is_unspecified() => {
                return Err(Error::Unreachable {
                    listen: local.to_string(),
                });
            }
            None => local.to_string(),
        };
        Ok(Self::Network { listener, address })
    }

    /// Whether an address is one within a process.
    pub fn is_local(address: &str) -> bool {
        address.starts_with(LOCAL)
    }

    /// Closes every connection as it comes, for as long as nothing is served: who still comes, under an
    /// address that has become another one's, learns at once that nobody is here.
    pub(crate) async fn refuse(&self) -> Infallible {
        let Self::Network { listener, .. } = self else {
            return std::future::pending().await;
        };
        loop {
            if listener.accept().await.is_err() {
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    /// The address under which a role is reached.
    pub fn address(&self, role: Role) -> String {
        match self {
            Self::Local => format!("{LOCAL}{}", role.name()),
            Self::Network { address, .. } => address.clone(),
        }
    }
}

/// Binds a listener; `flag` is what the operator can change the address with.
///
/// # Errors
/// [`Error::Listen`].
pub async fn bind(address: &str, flag: &str) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen {
            address: address.to_owned(),
            flag: flag.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named_with_the_flag_that_sets_it() {
        let first = bind("127.0.0.1:0", "--listen").await.unwrap();
        let address = first.local_addr().unwrap().to_string();
        let error = bind(&address, "--listen").await.unwrap_err().to_string();
        assert!(
            error.contains(&address) && error.contains("--listen"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_process_that_listens_everywhere_must_say_who_it_is() {
        let mut options = CommonOptions::default();
        let listener = bind("0.0.0.0:0", "--listen").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = Exposure::network(listener, &options).unwrap_err();
        assert!(error.to_string().contains("--advertise"), "{error}");

        options.advertised_host = Some("node7".to_owned());
        let listener = bind(&format!("0.0.0.0:{port}"), "--listen").await.unwrap();
        match Exposure::network(listener, &options).unwrap() {
            Exposure::Network { address, .. } => assert_eq!(address, format!("node7:{port}")),
            Exposure::Local => panic!("not local"),
        }
    }
}
