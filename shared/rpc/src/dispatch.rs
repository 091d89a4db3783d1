//! From the path of a call to the service that answers it.

use std::convert::Infallible;

use futures::future::BoxFuture;
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

type Answer = BoxFuture<'static, Result<Response<Body>, Infallible>>;

/// What tonic generates for a service, its type left out.
trait Generated: Send + Sync {
    fn call(&self, request: Request<Body>) -> Answer;
}

impl<S> Generated for S
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = Answer>
        + Clone
        + Send
        + Sync,
{
    fn call(&self, request: Request<Body>) -> Answer {
        // A clone is a handle, and a generated service is always ready.
        Service::call(&mut self.clone(), request)
    }
}

/// The services of a listener, by name.
#[derive(Default)]
pub(crate) struct Services(Vec<(&'static str, Box<dyn Generated>)>);

impl Services {
    /// Adds a generated server.
    pub(crate) fn add<S>(&mut self, service: S)
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = Answer>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
    {
        self.0.push((S::NAME, Box::new(service)));
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|(name, _)| *name)
    }

    /// Has a call answered by the service that its path names; a service that is not here answers
    /// that it does not know the method.
    pub(crate) async fn call(&self, request: Request<Body>) -> Response<Body> {
        let path = request.uri().path().strip_prefix('/');
        let wanted = path.and_then(|path| path.split_once('/'));
        let mut services = self.0.iter();
        let found = wanted.and_then(|(wanted, _)| services.find(|(name, _)| *name == wanted));
        match found {
            Some((_, service)) => match service.call(request).await {
                Ok(response) => response,
            },
            None => Status::unimplemented("").into_http(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll};

    use futures::FutureExt as _;

    use super::*;

    #[derive(Clone)]
    struct Here;

    impl NamedService for Here {
        const NAME: &'static str = "a.Here";
    }

    impl Service<Request<Body>> for Here {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = Answer;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Answer {
            std::future::ready(Ok(Status::not_found("here").into_http())).boxed()
        }
    }

    #[tokio::test]
    async fn a_path_names_its_service() {
        let mut services = Services::default();
        services.add(Here);
        assert_eq!(services.names().collect::<Vec<_>>(), ["a.Here"]);
        for (path, code) in [
            ("/a.Here/Do", "5"),
            ("/a.Here/", "5"),
            ("/a.Here", "12"),
            ("/a.Her/Do", "12"),
            ("/b.Here/Do", "12"),
            ("/", "12"),
        ] {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            let response = services.call(request).await;
            assert_eq!(response.headers()["grpc-status"], code, "{path}");
        }
    }
}
