//! A proxy in front of an S3 server that breaks calls on demand, before or after they reach it.
//!
//! One request a connection: it adds `Connection: close`, which S3's signature does not cover.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redkite_runtime::{
    OnFailure, TaskGroup,
    testing::{PATIENCE, eventually},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is answered with this status and an empty body.
    Status(u16),
    /// It is never answered.
    Hang,
    /// Its connection is closed without an answer.
    Close,
    /// Its answer breaks off in the middle.
    Cut,
    /// It takes so much longer.
    Slow(Duration),
}

/// When it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before the server sees the request.
    Before,
    /// When the server has done what was asked: only the answer suffers.
    After,
}

/// A fault for the next calls.
#[derive(Clone, Copy, Debug)]
struct Plan {
    fault: Fault,
    moment: Moment,
    /// Only calls of this method.
    method: Option<&'static str>,
    /// So many calls are left.
    left: u64,
}

/// The proxy; it ends when this is dropped.
#[derive(Debug)]
pub struct FaultyProxy {
    address: SocketAddr,
    state: Arc<State>,
    listens: watch::Sender<bool>,
    tasks: TaskGroup,
}

#[derive(Debug)]
struct State {
    server: SocketAddr,
    plan: Mutex<Option<Plan>>,
    calls: AtomicU64,
    broken: AtomicU64,
}

impl FaultyProxy {
    /// Starts a proxy in front of a server.
    ///
    /// # Panics
    /// When there is no port to listen on.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("the port that was bound");
        let state = Arc::new(State {
            server,
            plan: Mutex::default(),
            calls: AtomicU64::new(0),
            broken: AtomicU64::new(0),
        });
        let tasks = TaskGroup::new("faulty proxy");
        let (listens, listening) = watch::channel(true);
        let accepting = accept(listener, address, listening, state.clone(), tasks.clone());
        tasks.spawn_cancellable("accept", OnFailure::Log, accepting);
        Self {
            address,
            state,
            listens,
            tasks,
        }
    }

    /// Where it listens, as an endpoint for S3.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Breaks the next `calls` calls, of any method or of one only.
    pub fn break_calls(
        &self,
        fault: Fault,
        moment: Moment,
        method: Option<&'static str>,
        calls: u64,
    ) {
        self.state.set(Some(Plan {
            fault,
            moment,
            method,
            left: calls,
        }));
    }

    /// Lets everything through again, and listens again.
    pub fn heal(&self) {
        self.state.set(None);
        self.listens.send_replace(true);
    }

    /// Refuses connections until [`FaultyProxy::heal`].
    ///
    /// # Panics
    /// When connections are still taken after a while.
    pub async fn refuse(&self) {
        self.listens.send_replace(false);
        eventually("the proxy refuses", PATIENCE, || async {
            TcpStream::connect(self.address)
                .await
                .is_err()
                .then_some(())
        })
        .await;
    }

    /// How many calls have come.
    pub fn calls(&self) -> u64 {
        self.state.calls.load(Ordering::Relaxed)
    }

    /// How many of them were broken.
    pub fn broken(&self) -> u64 {
        self.state.broken.load(Ordering::Relaxed)
    }
}

impl Drop for FaultyProxy {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

impl State {
    fn set(&self, plan: Option<Plan>) {
        *self.plan.lock().expect("no holder panics") = plan;
    }

    /// The fault of one call, if it has one.
    fn fault(&self, method: &str) -> Option<(Fault, Moment)> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut plan = self.plan.lock().expect("no holder panics");
        let plan = plan.as_mut()?;
        if plan.left == 0 || plan.method.is_some_and(|only| only != method) {
            return None;
        }
        plan.left -= 1;
        self.broken.fetch_add(1, Ordering::Relaxed);
        Some((plan.fault, plan.moment))
    }
}

async fn accept(
    listener: TcpListener,
    address: SocketAddr,
    mut listening: watch::Receiver<bool>,
    state: Arc<State>,
    tasks: TaskGroup,
) -> io::Result<()> {
    let mut listener = Some(listener);
    loop {
        let wanted = *listening.borrow_and_update();
        if !wanted {
            listener = None;
        } else if listener.is_none() {
            listener = Some(TcpListener::bind(address).await?);
        }
        let client = tokio::select! {
            changed = listening.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                continue;
            }
            client = next_client(listener.as_ref()) => client?,
        };
        let call = serve(client, state.clone());
        tasks.spawn_cancellable("call", OnFailure::Log, async move {
            // A client that gives up is what the faults are for.
            let _ = call.await;
        });
    }
}

async fn next_client(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

async fn serve(mut client: TcpStream, state: Arc<State>) -> io::Result<()> {
    let Some(request) = read_request(&mut client).await? else {
        return Ok(());
    };
    let method = request.split(|byte| *byte == b' ').next();
    let method = String::from_utf8_lossy(method.unwrap_or_default()).into_owned();
    let fault = state.fault(&method);
    if let Some((fault, Moment::Before)) = fault
        && play(fault, &mut client).await?
    {
        return Ok(());
    }
    let answer = forward(&request, state.server).await?;
    match fault {
        Some((Fault::Cut, _)) => {
            client.write_all(&answer[..answer.len() - 1]).await?;
        }
        Some((fault, Moment::After)) if play(fault, &mut client).await? => {}
        Some(_) | None => client.write_all(&answer).await?,
    }
    client.shutdown().await
}

/// Plays a fault; whether the call is over with it.
async fn play(fault: Fault, client: &mut TcpStream) -> io::Result<bool> {
    match fault {
        Fault::Status(status) => {
            let answer = format!(
                "HTTP/1.1 {status} Broken\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            client.write_all(answer.as_bytes()).await?;
            Ok(true)
        }
        Fault::Hang => std::future::pending().await,
        Fault::Close => Ok(true),
        Fault::Cut => Ok(false),
        Fault::Slow(pause) => {
            tokio::time::sleep(pause).await;
            Ok(false)
        }
    }
}

/// One whole request, with `Connection: close` among its headers; `None` when the client closes.
async fn read_request(client: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut request = Vec::new();
    let head_end = loop {
        if let Some(end) = find(&request, b"\r\n\r\n") {
            break end + 4;
        }
        if client.read_buf(&mut request).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&request[..head_end]).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .map_or(Ok(0), |text| text.trim().parse::<usize>())
        .map_err(io::Error::other)?;
    while request.len() < head_end + length {
        if client.read_buf(&mut request).await? == 0 {
            return Ok(None);
        }
    }
    let after_first_line = find(&request, b"\r\n").map_or(0, |end| end + 2);
    let close = b"Connection: close\r\n".iter().copied();
    request.splice(after_first_line..after_first_line, close);
    Ok(Some(request))
}

/// Sends a request on and reads the answer to its end.
async fn forward(request: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}
