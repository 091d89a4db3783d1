//! A surface on a listener, until the process stops.

use std::{io, sync::Arc, thread};

use actix_web::{
    App, HttpRequest as ActixRequest, HttpResponse, HttpServer,
    dev::ServerHandle,
    http::{StatusCode, header},
    rt::System,
    web,
};
use redkite_runtime::{CancellationToken, TaskGroup};
use tokio::{net::TcpListener, runtime::Handle, sync::oneshot};
use tracing::{Instrument as _, info_span};

use super::message::{HttpAnswer, HttpRequest, Surface};

/// Threads that move bytes; the work is done elsewhere.
const WORKERS: usize = 1;
/// How long connections may go on once the listener is closed, in seconds.
const DRAIN_SECS: u64 = 5;

/// What actix's handlers share.
struct Front {
    surface: Arc<dyn Surface>,
    /// Requests run here, so that they go on when their client leaves.
    tasks: TaskGroup,
    main: Handle,
}

/// Serves a surface until `stop` is cancelled, and then until the requests that run are answered.
/// Must be called on the main runtime.
///
/// # Errors
/// When actix's thread cannot be started, or the listener fails.
pub async fn serve(
    name: &'static str,
    surface: Arc<dyn Surface>,
    listener: TcpListener,
    tasks: TaskGroup,
    stop: CancellationToken,
) -> io::Result<()> {
    let listener = listener.into_std()?;
    let front = web::Data::new(Front {
        surface,
        tasks,
        main: Handle::current(),
    });
    let (started, handle) = oneshot::channel();
    let (ended, end) = oneshot::channel();
    thread::Builder::new()
        .name(format!("http {name}"))
        .spawn(move || {
            let outcome = System::new().block_on(run(front, listener, started));
            // Nobody waits any more when the process was stopped the hard way.
            let _ = ended.send(outcome);
        })?;
    let gone = || io::Error::other("the HTTP thread has ended");
    let mut end = end;
    let Ok(handle) = handle.await else {
        return end.await.map_err(|_| gone())?;
    };
    tokio::select! {
        outcome = &mut end => return outcome.map_err(|_| gone())?,
        () = stop.cancelled() => handle.stop(true).await,
    }
    end.await.map_err(|_| gone())?
}

async fn run(
    front: web::Data<Front>,
    listener: std::net::TcpListener,
    started: oneshot::Sender<ServerHandle>,
) -> io::Result<()> {
    let server = HttpServer::new(move || {
        App::new()
            .app_data(front.clone())
            .default_service(web::to(handle))
    })
    .workers(WORKERS)
    .disable_signals()
    .shutdown_timeout(DRAIN_SECS)
    .listen(listener)?
    .run();
    let _ = started.send(server.handle());
    server.await
}

async fn handle(
    front: web::Data<Front>,
    request: ActixRequest,
    payload: web::Payload,
) -> HttpResponse {
    let surface = front.surface.clone();
    let request_id = surface.request_id();
    let read = payload.to_bytes_limited(surface.max_body()).await;
    let body = match read {
        Ok(Ok(body)) => body,
        Ok(Err(error)) => {
            let reason = format!("the body cannot be read: {error}");
            return respond(surface.refused(&request_id, 400, &reason));
        }
        Err(_) => {
            let reason = format!("the body is larger than {} bytes", surface.max_body());
            return respond(surface.refused(&request_id, 413, &reason));
        }
    };
    let message = HttpRequest {
        method: request.method().as_str().to_owned(),
        path: request.uri().path().to_owned(),
        query: request.query_string().to_owned(),
        headers: headers(&request),
        body,
        request_id: request_id.clone(),
    };
    let span = info_span!("http", %request_id, method = %message.method, path = %message.path);
    let work = surface.clone().answer(message).instrument(span);
    let running = {
        // Tasks start on the runtime of the thread that starts them.
        let _main = front.main.enter();
        front.tasks.detach("http request", work)
    };
    respond(running.await.unwrap_or_else(|error| {
        let reason = format!("the request was given up: {error}");
        surface.refused(&request_id, 500, &reason)
    }))
}

fn headers(request: &ActixRequest) -> Vec<(String, String)> {
    let text = request.headers().iter().filter_map(|(name, value)| {
        let value = value.to_str().ok()?;
        Some((name.as_str().to_owned(), value.to_owned()))
    });
    let mut found: Vec<_> = text.collect();
    // HTTP/2 has no such header.
    if !found.iter().any(|(name, _)| name == "host")
        && let Some(authority) = request.uri().authority()
    {
        found.push(("host".to_owned(), authority.to_string()));
    }
    found
}

fn respond(answer: HttpAnswer) -> HttpResponse {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    HttpResponse::build(status)
        .insert_header((header::CONTENT_TYPE, "application/json; charset=utf-8"))
        .body(answer.body)
}
