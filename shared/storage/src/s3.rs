//! Opening a bucket: whom to call, as whom, and whether the bucket keeps what we promise.

use std::{env, sync::Arc};

use bytes::Bytes;
use opendal::{Operator, services};
use opendal_http_transport_reqwest::ReqwestTransport;
use redkite_runtime::{Backoff, Random};
use redkite_types::Coded;

use crate::{
    error::{Error, Result},
    layout,
    options::{S3Options, StoreOptions},
    remote::RemoteStore,
    retry::{FIRST_PAUSE, LONGEST_PAUSE, Retry},
    store::{ObjectStore, PutOutcome},
};

const DEFAULT_REGION: &str = "us-east-1";
const REGION_VARIABLES: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];
/// The variables in which opendal looks for an endpoint.
const ENDPOINT_VARIABLES: [&str; 3] = ["AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AWS_S3_ENDPOINT"];

/// Conditional writes of the probe that may fail in passing before the start does.
const PROBE_TRIES: usize = 5;

/// Opens a bucket and tries it out.
///
/// # Errors
/// `InvalidUri` for options that contradict each other · `Io` when the bucket cannot be used:
/// unreachable (transient), no such bucket, a wrong key, no atomic conditional writes
pub(crate) async fn open(
    options: &StoreOptions,
    bucket: &str,
    prefix: &str,
) -> Result<Arc<dyn ObjectStore>> {
    // Whoever came first has decided for the whole process; any provider will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    opendal::HttpTransporter::install_default(ReqwestTransport::default());
    let operator = operator(options, bucket, prefix)?;
    let retry = Retry {
        timeout: options.timeout,
        request_timeout: options.request_timeout,
    };
    let store = Arc::new(RemoteStore::new(operator, retry));
    if options.probe {
        try_out(store.as_ref(), &options.uri).await?;
    }
    Ok(store)
}

fn operator(options: &StoreOptions, bucket: &str, prefix: &str) -> Result<Operator> {
    let refuse = |reason: String| Error::InvalidUri {
        uri: options.uri.clone(),
        reason,
    };
    let S3Options {
        endpoint,
        region,
        access_key,
        secret_key,
        path_style,
    } = &options.s3;
    let mut builder = services::S3::default()
        .bucket(bucket)
        .root(&format!("/{prefix}"));
    let region = region
        .clone()
        .or_else(|| first_set(&REGION_VARIABLES))
        .unwrap_or_else(|| DEFAULT_REGION.to_owned());
    builder = builder.region(&region);
    if let Some(endpoint) = endpoint {
        builder = builder.endpoint(endpoint);
    }
    match (access_key, secret_key) {
        (Some(access), Some(secret)) => {
            builder = builder.access_key_id(access).secret_access_key(secret);
        }
        (None, None) => {}
        _ => {
            return Err(refuse(
                "an access key and a secret key go together".to_owned(),
            ));
        }
    }
    let own_endpoint = endpoint.is_some() || first_set(&ENDPOINT_VARIABLES).is_some();
    if !path_style.unwrap_or(own_endpoint) {
        builder = builder.enable_virtual_host_style();
    }
    Operator::new(builder).map_err(|error| refuse(error.to_string()))
}

fn first_set(variables: &[&str]) -> Option<String> {
    let mut values = variables.iter().filter_map(|name| env::var(name).ok());
    values.find(|value| !value.is_empty())
}

/// Writes, reads, lists and deletes an object. So a wrong key or a missing bucket shows at the
/// start and not at the first flush, and so does a server that ignores the condition of a
/// conditional write, which would let two owners write one log.
async fn try_out(store: &dyn ObjectStore, uri: &str) -> Result<()> {
    let failed = |error: Error| -> Error {
        match error {
            Error::Io {
                operation,
                transient,
                source,
                ..
            } => Error::Io {
                operation,
                key: format!("in {uri} (probe at start)"),
                transient,
                source,
            },
            other => other,
        }
    };
    let broken = |reason: &str| Error::InvalidUri {
        uri: uri.to_owned(),
        reason: reason.to_owned(),
    };
    let number = Random::from_system().next_u64();
    let (dir, key) = (layout::probe_prefix(number), layout::probe(number));
    let body = Bytes::from_static(b"redkite");
    store.put(&key, body.clone()).await.map_err(failed)?;
    let again = write_again(store, &key, &body).await;
    let read = store.get(&key).await;
    let listed = store.list(&dir).await;
    store.delete(&key).await.map_err(failed)?;
    if again.map_err(failed)? == PutOutcome::Created {
        return Err(broken("the server ignores the condition If-None-Match: *"));
    }
    if read.map_err(failed)? != body {
        return Err(broken("what was written reads differently"));
    }
    if listed.map_err(failed)?.len() != 1 {
        return Err(broken("a listing does not show what was written"));
    }
    Ok(())
}

/// A conditional write of an object that is there. However often it runs, it must change nothing,
/// so unlike others it may be repeated.
async fn write_again(store: &dyn ObjectStore, key: &str, body: &Bytes) -> Result<PutOutcome> {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    for _ in 1..PROBE_TRIES {
        match store.put_if_absent(key, body.clone()).await {
            Err(error) if error.retriable() => backoff.wait().await,
            outcome => return outcome,
        }
    }
    store.put_if_absent(key, body.clone()).await
}
